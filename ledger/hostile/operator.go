package hostile

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

// Origin is the name of the operator's log.
const Origin = "log.regard.example/hostile"

// Cheats are the places where an operator may depart from what is honest. A nil one departs from nothing.
type Cheats struct {
	// File decides whether an entry is logged, and may put the index of another in its place. Honest: it is, and has its own.
	File func(*Operator, *Filing) (log bool)
	// Entry changes an entry that is about to be logged. It already says its epoch.
	Entry func(*Operator, proof.Entry) proof.Entry
	// Rolls changes what is filed under which label in an epoch that is about to close.
	Rolls func(*Operator, *Epoch)
	// Buckets changes the leaves of the index of an epoch that is about to close.
	Buckets func(*Operator, *Epoch)
	// Marker changes a marker that is about to be logged.
	Marker func(*Operator, *proof.Marker)
	// Turned is called when an epoch has closed.
	Turned func(*Operator, *Epoch)
	// Record puts another record in the place of the one that a reader asks to have opened; nil: it isn't opened.
	Record func(*Operator, *Filing, proof.Reader) *proof.Record
	// Settle puts another settlement in the place of the right one, which is nil if there is none.
	Settle func(*Operator, *Filing, *proof.Settlement) *proof.Settlement
	// History changes the history that a person gets. Its proof of inclusion is made after that.
	History func(*Operator, *proof.History)
	// Cosigners says whose cosignatures a checkpoint gets, of all there are.
	Cosigners func(*Operator, []*Cosigner) []*Cosigner
}

// Filing is an entry about somebody, with what the operator keeps about it.
type Filing struct {
	Kind    proof.Kind
	Subject proof.Subject
	Record  *proof.Record
	Index   proof.Index
	Logged  bool
	// Month is that in which a delay ends at the latest; Deferred is the index of the entry whose delay an opened@v1 entry ends.
	Month    string
	Deferred proof.Index
}

// Epoch is a stretch of the log. Once it is closed it has rolls and an index.
type Epoch struct {
	Number         proof.Epoch
	Opener, Closer proof.Index // Closer is 0 while it is open
	Opened         proof.Time
	Key            proof.LabelKey
	Seed           [32]byte
	Filed          map[proof.Label][]proof.Index
	Rolls          map[proof.Label]*proof.Roll
	Bits           uint8
	Buckets        [][]byte

	index tree
}

// Closed reports whether the epoch is over.
func (e *Epoch) Closed() bool { return e.Closer != 0 }

// Operator runs a log. It is not safe for concurrent use.
type Operator struct {
	Cheats
	VKey string
	Now  time.Time
	// Intent signs what providers get, under the verification key IntentVKey.
	Intent     note.Signer
	IntentVKey string
	Filings    []*Filing
	Epochs     []*Epoch
	Blobs      map[string][]byte // by name: what is behind the digests in the log

	signer    note.Signer
	cosigners []*Cosigner
	log       tree
	labels    map[string]proof.LabelKey // by month
	promised  map[string]bool           // months whose keys are in the log
	rand      *rand.ChaCha8
}

// New returns an operator whose log is empty; the same seed gives the same log. The checkpoints get cosignatures of the witnesses named.
func New(seed byte, now time.Time, witnesses ...string) *Operator {
	o := &Operator{Now: now, Blobs: map[string][]byte{}, labels: map[string]proof.LabelKey{}, promised: map[string]bool{}, rand: rand.NewChaCha8([32]byte{seed})}
	skey, vkey, err := note.GenerateKey(o.rand, Origin)
	if err != nil {
		panic(err)
	}
	o.VKey, o.signer = vkey, must(note.NewSigner(skey))
	if skey, vkey, err = note.GenerateKey(o.rand, proof.IntentKeyName(Origin, "intent.1")); err != nil {
		panic(err)
	}
	o.IntentVKey, o.Intent = vkey, must(note.NewSigner(skey))
	for _, name := range witnesses {
		o.cosigners = append(o.cosigners, newCosigner(o.rand, name))
	}
	return o
}

// Fork returns a second operator with the same keys and the same log, which go their own ways from here on.
func (o *Operator) Fork() *Operator {
	f := *o
	f.log, f.Filings, f.Epochs = o.log.clone(), slices.Clone(o.Filings), nil
	for _, e := range o.Epochs {
		c := *e
		f.Epochs = append(f.Epochs, &c)
	}
	f.Blobs, f.labels, f.promised = maps.Clone(o.Blobs), maps.Clone(o.labels), maps.Clone(o.promised)
	f.rand = rand.NewChaCha8(o.secret())
	return &f
}

func (o *Operator) secret() (b [32]byte) {
	must(o.rand.Read(b[:]))
	return b
}

// Size returns the number of entries in the log.
func (o *Operator) Size() uint64 { return o.log.size() }

// Text returns an entry.
func (o *Operator) Text(i proof.Index) []byte { return o.log.texts[i] }

// Current returns the open epoch.
func (o *Operator) Current() *Epoch { return o.Epochs[len(o.Epochs)-1] }

// Append logs an entry in the open epoch.
func (o *Operator) Append(e proof.Entry) proof.Index {
	e = e.WithEpoch(o.Current().Number)
	if o.Cheats.Entry != nil {
		e = o.Cheats.Entry(o, e)
	}
	return o.log.append(must(proof.EntryText(e)))
}

// AppendMarker logs a marker, whatever it says.
func (o *Operator) AppendMarker(m proof.Marker) proof.Index {
	return o.log.append(must(proof.EntryText(m)))
}

// File logs an entry about a subject and files it.
func (o *Operator) File(f *Filing) *Filing {
	f.Logged = o.Cheats.File == nil || o.Cheats.File(o, f)
	if !f.Logged {
		return f
	}
	c := f.Record.Commitment()
	switch f.Kind {
	case proof.KindDisclosure:
		f.Index = o.Append(proof.Disclosure{Commitment: c})
	case proof.KindAccess:
		f.Index = o.Append(proof.Access{Commitment: c})
	case proof.KindErasure:
		f.Index = o.Append(proof.Erasure{Commitment: c})
	case proof.KindDeferred:
		f.Index = o.Append(proof.Deferred{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Month: f.Month, Commitment: c})
	case proof.KindOpened:
		f.Index = o.Append(proof.Opened{Deferred: f.Deferred, Commitment: c})
	default:
		panic("hostile: nothing to file: " + string(f.Kind))
	}
	o.Filings = append(o.Filings, f)
	return f
}

// Turn closes the open epoch, if there is one, and opens the next.
func (o *Operator) Turn() {
	key := o.labelKey(o.Now.Format("2006-01"))
	m := proof.Marker{Epoch: proof.Epoch(len(o.Epochs)), Opened: proof.TimeOf(o.Now), Until: proof.TimeOf(o.Now.Truncate(24 * time.Hour).Add(24 * time.Hour)), VRF: key.Public()}
	var closing *Epoch
	if len(o.Epochs) > 0 {
		closing = o.Current()
		m.Closed = o.close(closing)
	}
	if o.Cheats.Marker != nil {
		o.Cheats.Marker(o, &m)
	}
	next := &Epoch{Number: m.Epoch, Key: key, Seed: o.secret(), Opened: m.Opened}
	next.Opener = o.AppendMarker(m)
	o.Epochs = append(o.Epochs, next)
	if closing != nil && o.Cheats.Turned != nil {
		o.Cheats.Turned(o, closing)
	}
	o.promise(key)
}

func (o *Operator) labelKey(month string) proof.LabelKey {
	if k, ok := o.labels[month]; ok {
		return k
	}
	k := must(proof.NewLabelKey(o.rand))
	o.labels[month] = k
	return k
}

// promise logs the keys of the month, once.
func (o *Operator) promise(label proof.LabelKey) {
	month := o.Now.Format("2006-01")
	if o.promised[month] {
		return
	}
	o.promised[month] = true
	until := proof.TimeOf(o.Now.AddDate(3, 2, 0))
	o.Append(proof.KeyChanged{Key: "label." + month, Use: proof.UseLabel, State: proof.Active, Public: proof.Hash(label.Public()), Until: until})
	o.Append(proof.KeyChanged{Key: "record." + month, Use: proof.UseRecord, State: proof.Active, Until: until})
}

// close makes the rolls and the index of an epoch and says what the marker says about it.
func (o *Operator) close(e *Epoch) *proof.Closed {
	e.Closer = proof.Index(o.Size())
	e.Filed = map[proof.Label][]proof.Index{}
	for _, f := range o.Filings {
		if f.Kind.Filed() && f.Index > e.Opener {
			z := e.Key.Label(f.Subject, e.Number)
			e.Filed[z] = append(e.Filed[z], f.Index)
		}
	}
	if o.Cheats.Rolls != nil {
		o.Cheats.Rolls(o, e)
	}
	e.Rolls = map[proof.Label]*proof.Roll{}
	for z, indexes := range e.Filed {
		e.Rolls[z] = must(proof.NewRoll(e.Seed, z, indexes))
	}
	labels := slices.SortedFunc(maps.Keys(e.Rolls), func(a, b proof.Label) int { return bytes.Compare(a[:], b[:]) })
	seq := func(yield func(proof.Label, proof.Hash) bool) {
		for _, z := range labels {
			if !yield(z, e.Rolls[z].Root()) {
				return
			}
		}
	}
	sum := must(proof.BuildIndex(e.Number, uint64(len(labels)), seq, func(_ uint64, leaf []byte) error {
		e.Buckets = append(e.Buckets, bytes.Clone(leaf))
		return nil
	}))
	e.Bits = sum.Bits
	if o.Cheats.Buckets != nil {
		o.Cheats.Buckets(o, e)
	}
	for _, leaf := range e.Buckets {
		e.index.append(leaf)
	}
	c := &proof.Closed{
		Previous: proof.LeafHash(o.Text(e.Opener)), First: e.Opener, Size: uint64(e.Closer - e.Opener),
		Items: sum.Items, Bits: sum.Bits, Index: e.Root(),
	}
	counts := map[proof.Kind]uint64{}
	for _, text := range o.log.texts[e.Opener:e.Closer] {
		kind, _, err := proof.ParseHead(text)
		if err != nil {
			panic(err)
		}
		counts[kind]++
	}
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		c.Counts = append(c.Counts, proof.Count{Kind: k, N: counts[k]})
	}
	return c
}

// Signed is the tree of the first size entries under the log's signature.
func (o *Operator) Signed(size uint64) []byte {
	body := fmt.Sprintf("%s\n%d\n%s\n", Origin, size, o.log.root(size))
	return must(note.Sign(&note.Note{Text: body}, o.signer))
}

// Checkpoint signs the tree of the first size entries and has it cosigned.
func (o *Operator) Checkpoint(size uint64) []byte {
	signed := o.Signed(size)
	who := o.cosigners
	if o.Cheats.Cosigners != nil {
		who = o.Cheats.Cosigners(o, who)
	}
	for _, c := range who {
		signed = c.cosign(signed, o.Now)
	}
	return signed
}

// Proven returns an entry with its path in the tree of a size.
func (o *Operator) Proven(i proof.Index, size uint64) proof.Proven {
	return proof.Proven{Index: i, Text: o.Text(i), Path: o.log.inclusion(i, size)}
}

// Record returns the record that a reader gets opened.
func (o *Operator) record(f *Filing, reader proof.Reader) *proof.Record {
	if o.Cheats.Record != nil {
		return o.Cheats.Record(o, f, reader)
	}
	return f.Record
}

// EpochOf returns the epoch in which an entry stands.
func (o *Operator) EpochOf(i proof.Index) *Epoch {
	for _, e := range slices.Backward(o.Epochs) {
		if i >= e.Opener {
			return e
		}
	}
	panic("hostile: no epoch")
}

// Receipt returns the best receipt of an entry for a reader: settled if its epoch is closed.
func (o *Operator) Receipt(f *Filing, reader proof.Reader) *proof.Receipt {
	size := o.Size()
	opening := o.record(f, reader).Open(reader)
	settlement := o.settlement(f)
	if o.Cheats.Settle != nil {
		settlement = o.Cheats.Settle(o, f, settlement)
	}
	if _, err := opening.Subject(); err != nil {
		settlement = nil
	}
	return must(proof.NewReceipt(o.Proven(f.Index, size), opening, o.Checkpoint(size), settlement))
}

// settlement returns the settlement of an entry; nil if its epoch is open or the entry is in no roll of its subject.
func (o *Operator) settlement(f *Filing) *proof.Settlement {
	e := o.EpochOf(f.Index)
	if !e.Closed() || !f.Kind.Filed() {
		return nil
	}
	lp, z := o.LabelProof(e, f.Subject)
	if e.Rolls[z] == nil {
		return nil
	}
	leaf, err := e.Rolls[z].Leaf(f.Index)
	if err != nil {
		return nil
	}
	return &proof.Settlement{LabelProof: lp, Leaf: leaf}
}

// LabelProof proves what the index of a closed epoch says about a subject.
func (o *Operator) LabelProof(e *Epoch, s proof.Subject) (proof.LabelProof, proof.Label) {
	z, vrf := e.Key.Prove(s, e.Number)
	bucket, path := e.Bucket(z)
	return proof.LabelProof{
		Marker: o.Proven(e.Closer, o.Size()), Opener: e.Opener, OpenerText: o.Text(e.Opener), VRFProof: vrf,
		Bucket: bucket, BucketPath: path,
	}, z
}

// Root returns the root of the epoch's index.
func (e *Epoch) Root() proof.Hash { return e.index.root(e.index.size()) }

// Bucket returns the bucket of a label with its path in the index of a closed epoch.
func (e *Epoch) Bucket(z proof.Label) (proof.Bucket, []proof.Hash) {
	b := z.BucketNumber(e.Bits)
	bucket, err := proof.ParseBucket(e.Buckets[b])
	if err != nil { // one that this operator made malformed: its reader gets an empty one
		bucket = proof.Bucket{Epoch: e.Number, Bits: e.Bits, Number: b}
	}
	return bucket, e.index.inclusion(proof.Index(b), e.index.size())
}
