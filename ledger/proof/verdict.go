package proof

// State says how much a receipt shows.
type State uint8

// The states, each includes those before it.
const (
	// Provisional: signed by the log alone. The operator may still show others
	// another history.
	Provisional State = iota + 1
	// Witnessed: the checkpoint also carries the quorum of the reader's policy.
	Witnessed
	// Settled: witnessed, and the entry is in the subject's only roll of its
	// closed epoch.
	Settled
)

func (s State) String() string {
	switch s {
	case Provisional:
		return "provisional"
	case Witnessed:
		return "witnessed"
	case Settled:
		return "settled"
	}
	return "unverified"
}

// VerifyOptions says what a reader accepts.
type VerifyOptions struct {
	// AllowProvisional accepts receipts whose checkpoint lacks the quorum.
	AllowProvisional bool
}

// Verdict is what a receipt was shown to prove. The zero Verdict proves
// nothing: its State is 0.
type Verdict struct {
	State      State
	Kind       Kind
	Epoch      Epoch
	Index      Index
	Commitment Commitment

	Origin     string
	Size       uint64 // of the checkpoint's tree
	Root       Hash
	Witnesses  []Cosignature // the policy's witnesses that cosigned
	Unverified []string      // names on signature lines that the policy does not know: not checked

	// InRoll: the settlement holds: the entry is in the roll of the opened
	// subject in its closed epoch. With a State of Provisional it holds under
	// the log's word alone.
	InRoll   bool
	Label    Label  // if InRoll
	RollSize uint64 // if InRoll: the subject's entries in that epoch, rounded up to a power of two, at least 4
	Closed   Time   // if InRoll: when the operator says the epoch closed
}

// Verify checks the receipt against a policy: signatures, inclusion, commitment
// and, if there is one, the settlement. It returns a Verdict with the error
// ErrNotWitnessed if all of that holds but the quorum is missing and
// provisional receipts are not allowed; with any other error the Verdict is
// zero. With a policy without quorum every receipt is provisional.
func (r *Receipt) Verify(p *Policy, opt VerifyOptions) (Verdict, error) {
	if r == nil || r.entry == nil {
		return Verdict{}, unproven("receipt: none")
	}
	cp, err := VerifyCheckpoint(r.note, p)
	if err != nil {
		return Verdict{}, err
	}
	if !included(uint64(r.index), cp.size, LeafHash(r.text), r.path, cp.root) {
		return Verdict{}, unproven("receipt: the entry is not in the tree of the checkpoint at its index")
	}
	c, ok := CommitmentOf(r.entry)
	if !ok || c != r.opening.Commitment() {
		return Verdict{}, unproven("receipt: the opening does not open the entry's commitment")
	}
	v := Verdict{
		State: Provisional, Kind: r.entry.Kind(), Epoch: r.entry.In(), Index: r.index, Commitment: c,
		Origin: cp.origin, Size: cp.size, Root: cp.root,
		Witnesses: cp.Cosignatures(), Unverified: cp.Unverified(),
	}
	if cp.witnessed {
		v.State = Witnessed
	}
	if s := r.settlement; s != nil {
		closing, z, err := s.verify(r, cp)
		if err != nil {
			return Verdict{}, err
		}
		v.InRoll, v.Label, v.RollSize, v.Closed = true, z, s.Leaf.Size, closing.Opened
		if cp.witnessed {
			v.State = Settled
		}
	}
	if !cp.witnessed && !opt.AllowProvisional {
		return v, ErrNotWitnessed
	}
	return v, nil
}
