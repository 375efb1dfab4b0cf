package ledgertest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// Published writes a log straight to the files that readers see, with no ledger behind it: many entries quickly, and entries that no ledger would write. Without Mark, Leaf and Raw it keeps all rules.
type Published struct {
	Dir    string
	VKey   string
	Policy *proof.Policy // the log and three witnesses, of which two are the quorum
	// PolicyText is the same as text.
	PolicyText string
	Signer     note.Signer
	// Witnesses sign as c2sp.org/tlog-cosignature says, at the time that Now says.
	Witnesses []note.Signer
	Now       func() time.Time

	// Mark may change a marker before it is written, and Leaf a bucket of an index, of which the marker then has the root.
	Mark func(*proof.Marker)
	Leaf func(epoch proof.Epoch, bucket uint64, leaf []byte) []byte

	t      testing.TB
	w      *tiles.Writer
	vrf    proof.LabelPublicKey
	open   proof.Marker
	at     proof.Index
	text   []byte // of the open marker
	counts map[proof.Kind]uint64
	filed  []proof.Index
}

// Month is the first instant that a Published knows, and EpochLength what its epochs last.
var Month = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)

// EpochLength is how long the epochs of a Published are due to last.
const EpochLength = 24 * time.Hour

// NewPublished begins a log: with the marker of epoch 0.
func NewPublished(t testing.TB) *Published {
	t.Helper()
	p := &Published{Dir: t.TempDir(), Now: time.Now, t: t}
	skey, vkey, err := note.GenerateKey(rand.Reader, Origin)
	p.must(err)
	p.VKey = vkey
	p.Signer, err = note.NewSigner(skey)
	p.must(err)
	text := "log " + vkey + "\n"
	for i := range 3 {
		name := fmt.Sprintf("witness%d.example", i)
		_, key, err := ed25519.GenerateKey(rand.Reader)
		p.must(err)
		w := cosigner{name, key, p}
		p.Witnesses = append(p.Witnesses, w)
		text += fmt.Sprintf("witness w%d %s\n", i, w.vkey())
	}
	p.PolicyText = text + "group all 2 w0 w1 w2\nquorum all\n"
	p.Policy, err = proof.ParsePolicy([]byte(p.PolicyText))
	p.must(err)
	key, err := proof.NewLabelKey(rand.Reader)
	p.must(err)
	p.vrf = key.Public()
	p.w = tiles.Create(p.Dir)
	p.mark(proof.Marker{Opened: proof.TimeOf(Month), Until: proof.TimeOf(Month.Add(EpochLength)), VRF: p.vrf})
	p.Append(proof.KeyChanged{Key: "label." + Month.Format("2006-01"), Use: proof.UseLabel, State: proof.Active, Public: proof.Hash(p.vrf), Until: proof.TimeOf(Month.AddDate(4, 0, 0))})
	return p
}

// cosigner is a note.Signer of c2sp.org/tlog-cosignature, Ed25519, whose clock can be set.
type cosigner struct {
	name string
	key  ed25519.PrivateKey
	p    *Published
}

func (c cosigner) public() []byte {
	return append([]byte{4}, c.key.Public().(ed25519.PublicKey)...)
}

func (c cosigner) Name() string { return c.name }

func (c cosigner) KeyHash() uint32 {
	h := sha256.Sum256(append([]byte(c.name+"\n"), c.public()...))
	return binary.BigEndian.Uint32(h[:])
}

func (c cosigner) vkey() string {
	return fmt.Sprintf("%s+%08x+%s", c.name, c.KeyHash(), base64.StdEncoding.EncodeToString(c.public()))
}

func (c cosigner) Sign(msg []byte) ([]byte, error) {
	at := uint64(c.p.Now().Unix()) // #nosec G115 -- tests don't go before 1970
	text := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, msg)
	return append(binary.BigEndian.AppendUint64(nil, at), ed25519.Sign(c.key, text)...), nil
}

func (p *Published) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// Size returns the number of entries.
func (p *Published) Size() uint64 { return p.w.Size() }

// Open returns the marker of the open epoch.
func (p *Published) Open() proof.Marker { return p.open }

// Append adds an entry, in the open epoch, and returns its log index. Filed entries get a roll of their own.
func (p *Published) Append(e proof.Entry) proof.Index {
	p.t.Helper()
	text, err := proof.EntryText(e.WithEpoch(p.open.Epoch))
	p.must(err)
	i := p.Raw(text)
	p.counts[e.Kind()]++
	if e.Kind().Filed() {
		p.filed = append(p.filed, i)
	}
	return i
}

// Raw adds any text, which no marker counts.
func (p *Published) Raw(text []byte) proof.Index {
	p.t.Helper()
	i := proof.Index(p.w.Size())
	p.must(p.w.Append(text))
	return i
}

// Disclose adds disclosures about as many persons.
func (p *Published) Disclose(n int) {
	p.t.Helper()
	for range n {
		c := sha256.Sum256(binary.BigEndian.AppendUint64([]byte("commitment"), p.w.Size()))
		p.Append(proof.Disclosure{Commitment: c})
	}
}

// Blob publishes what a digest stands for, and returns the digest.
func (p *Published) Blob(data []byte) proof.Hash {
	p.t.Helper()
	h := sha256.Sum256(data)
	p.must(tiles.WriteFile(p.Dir, "blob/"+hex.EncodeToString(h[:]), data))
	return h
}

// Govern adds what a broker logs when it begins: keys, a policy, a service, an agreement.
func (p *Published) Govern() {
	p.t.Helper()
	p.Append(proof.KeyChanged{Key: "record.2026-03", Use: proof.UseRecord, State: proof.Active, Until: proof.TimeOf(Month.AddDate(1, 1, 0))})
	p.Append(proof.PolicyActivated{Revision: "r1", Bundle: p.Blob([]byte("a bundle"))})
	p.Append(proof.ServiceChanged{Service: "revenu", Version: 1, State: proof.Active, Digest: p.Blob([]byte("a service"))})
	p.Append(proof.AgreementChanged{Agreement: "cantine", Version: 1, State: proof.Active, Digest: p.Blob([]byte("an agreement"))})
}

// Turn closes the open epoch when it is due, and opens the next.
func (p *Published) Turn() proof.Marker { p.t.Helper(); return p.TurnAt(p.open.Until) }

// TurnAt closes the open epoch at a time, and opens the next.
func (p *Published) TurnAt(opened proof.Time) proof.Marker {
	p.t.Helper()
	sum := p.index()
	m := proof.Marker{
		Epoch: p.open.Epoch + 1, Opened: opened, Until: opened + proof.Time(EpochLength/time.Millisecond), VRF: p.vrf,
		Closed: &proof.Closed{Previous: proof.LeafHash(p.text), First: p.at, Size: p.w.Size() - uint64(p.at), Items: sum.Items, Bits: sum.Bits, Index: sum.Root},
	}
	for _, k := range proof.Kinds() {
		if n := p.counts[k]; n > 0 {
			m.Closed.Counts = append(m.Closed.Counts, proof.Count{Kind: k, N: n})
		}
	}
	return p.mark(m)
}

func (p *Published) mark(m proof.Marker) proof.Marker {
	p.t.Helper()
	if p.Mark != nil {
		p.Mark(&m)
	}
	text, err := m.AppendText(nil)
	p.must(err)
	p.at, p.text, p.open = p.Raw(text), text, m
	p.counts, p.filed = map[proof.Kind]uint64{proof.KindEpoch: 1}, nil
	return m
}

// index writes the index of the open epoch.
func (p *Published) index() proof.IndexSummary {
	p.t.Helper()
	items := make([]proof.Item, len(p.filed))
	seed := sha256.Sum256([]byte("rolls"))
	for i, at := range p.filed {
		items[i].Label = sha256.Sum256(binary.BigEndian.AppendUint64([]byte("label"), uint64(at)))
		r, err := proof.NewRoll(seed, items[i].Label, []proof.Index{at})
		p.must(err)
		items[i].Root = r.Root()
	}
	slices.SortFunc(items, func(a, b proof.Item) int { return bytes.Compare(a.Label[:], b.Label[:]) })
	w := tiles.Create(filepath.Join(p.Dir, "index", p.open.Epoch.String()))
	sum, err := proof.BuildIndex(p.open.Epoch, uint64(len(items)), func(yield func(proof.Label, proof.Hash) bool) {
		for _, x := range items {
			if !yield(x.Label, x.Root) {
				return
			}
		}
	}, func(n uint64, leaf []byte) error {
		if p.Leaf != nil {
			leaf = p.Leaf(p.open.Epoch, n, bytes.Clone(leaf))
		}
		return w.Append(leaf)
	})
	p.must(err)
	p.must(w.Flush())
	sum.Root = w.Root()
	return sum
}

// Sign publishes everything so far, under a checkpoint that all witnesses cosigned.
func (p *Published) Sign() proof.Checkpoint { p.t.Helper(); return p.SignWith(p.Witnesses...) }

// SignWith does it with some of the witnesses.
func (p *Published) SignWith(witnesses ...note.Signer) proof.Checkpoint {
	p.t.Helper()
	p.must(p.w.Flush())
	n := p.Checkpoint(p.w.Size(), p.w.Root(), witnesses...)
	p.must(tiles.WriteFile(p.Dir, "checkpoint", n))
	cp, err := proof.VerifyCheckpoint(n, p.Policy)
	p.must(err)
	return cp
}

// Checkpoint signs whatever it is told.
func (p *Published) Checkpoint(size uint64, root proof.Hash, witnesses ...note.Signer) []byte {
	p.t.Helper()
	n, err := note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", Origin, size, root)}, append([]note.Signer{p.Signer}, witnesses...)...)
	p.must(err)
	return n
}
