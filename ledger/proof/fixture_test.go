package proof_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
	"golang.org/x/mod/sumdb/note"
)

// detRand is a deterministic stream: vectors must come out the same each time.
type detRand struct {
	seed string
	n    uint64
	buf  []byte
}

func (r *detRand) Read(p []byte) (int, error) {
	for len(r.buf) < len(p) {
		h := sha256.Sum256(fmt.Appendf(nil, "%s/%d", r.seed, r.n))
		r.n++
		r.buf = append(r.buf, h[:]...)
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func hashOf(s string) proof.Hash { return sha256.Sum256([]byte(s)) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// The reference Merkle tree: RFC 6962, section 2.1, word by word and slow.

func refRoot(leaves []proof.Hash) proof.Hash {
	switch n := len(leaves); n {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return leaves[0]
	default:
		k := refSplit(n)
		l, r := refRoot(leaves[:k]), refRoot(leaves[k:])
		return sha256.Sum256(slices.Concat([]byte{1}, l[:], r[:]))
	}
}

func refPath(m int, leaves []proof.Hash) []proof.Hash {
	n := len(leaves)
	if n == 1 {
		return nil
	}
	k := refSplit(n)
	if m < k {
		return append(refPath(m, leaves[:k]), refRoot(leaves[k:]))
	}
	return append(refPath(m-k, leaves[k:]), refRoot(leaves[:k]))
}

// refSplit returns the largest power of two smaller than n.
func refSplit(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

func refLeaf(data []byte) proof.Hash { return sha256.Sum256(append([]byte{0}, data...)) }

// cosigner signs as c2sp.org/tlog-cosignature says, at a fixed time.
type cosigner struct {
	name string
	key  ed25519.PrivateKey
	time uint64
}

func newCosigner(name string) cosigner {
	seed := sha256.Sum256([]byte("cosigner " + name))
	return cosigner{name, ed25519.NewKeyFromSeed(seed[:]), 1_764_000_000}
}

func (c cosigner) id() uint32 {
	h := sha256.Sum256(slices.Concat([]byte(c.name+"\n\x04"), c.key.Public().(ed25519.PublicKey)))
	return binary.BigEndian.Uint32(h[:])
}

func (c cosigner) vkey() string {
	return fmt.Sprintf("%s+%08x+%s", c.name, c.id(),
		base64.StdEncoding.EncodeToString(append([]byte{4}, c.key.Public().(ed25519.PublicKey)...)))
}

func (c cosigner) line(body []byte) string {
	msg := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", c.time, body)
	sig := binary.BigEndian.AppendUint32(nil, c.id())
	sig = binary.BigEndian.AppendUint64(sig, c.time)
	sig = append(sig, ed25519.Sign(c.key, msg)...)
	return fmt.Sprintf("— %s %s\n", c.name, base64.StdEncoding.EncodeToString(sig))
}

const origin = "regard.example/log"

// filed is an entry with its record.
type filed struct {
	index   proof.Index
	subject proof.Subject
	record  *proof.Record
}

// closedEpoch is what the operator keeps of an epoch.
type closedEpoch struct {
	opener, closer proof.Index
	key            proof.LabelKey
	rolls          map[proof.Label]*proof.Roll
	buckets        [][]byte
	leaves         []proof.Hash
	summary        proof.IndexSummary
}

// world is a small log of three epochs, the first two closed.
type world struct {
	skey, vkey string
	signer     note.Signer
	witnesses  []cosigner // w1, w2, w3 of the policy and a stranger
	policyText string
	policy     *proof.Policy
	texts      [][]byte
	hashes     []proof.Hash
	filed      []filed
	epochs     []*closedEpoch
	rand       *detRand
	later      proof.Time // by which epochs that open from now on are late

	alice, bob, corp proof.Subject
}

func newWorld() *world {
	w := emptyWorld("world")
	w.open()
	w.add(proof.PolicyActivated{Revision: "2026-11-01", Bundle: hashOf("bundle")})
	w.file(proof.KindDisclosure, w.alice)
	w.file(proof.KindDisclosure, w.bob)
	w.file(proof.KindDisclosure, w.corp)
	w.file(proof.KindDisclosure, w.alice)
	w.file(proof.KindAccess, w.alice)
	deferred := w.file(proof.KindDeferred, w.bob)
	w.open()
	w.file(proof.KindDisclosure, w.bob)
	w.opened(deferred)
	w.file(proof.KindDisclosure, w.alice)
	for i := range 9 {
		w.file(proof.KindDisclosure, must(proof.INE(fmt.Sprintf("%09dAB", i))))
	}
	w.file(proof.KindErasure, w.alice)
	// An entry of a type that only a later version knows changes nothing for the others of its epoch.
	w.addText(fmt.Appendf(nil, "regard/later@v1\nepoch %d\nnote x\n", w.epoch()))
	w.open()
	w.file(proof.KindDisclosure, w.alice)
	return w
}

// emptyWorld is a log without entries, its keys and three subjects.
func emptyWorld(seed string) *world {
	w := &world{rand: &detRand{seed: seed}}
	w.skey, w.vkey = must2(note.GenerateKey(&detRand{seed: "log key"}, origin))
	w.signer = must(note.NewSigner(w.skey))
	for _, n := range []string{"w1.example/witness", "w2.example/witness", "w3.example/witness", "stranger.example/witness"} {
		w.witnesses = append(w.witnesses, newCosigner(n))
	}
	w.policyText = fmt.Sprintf("# two of three\nlog %s https://regard.example/log\n\nwitness w1 %s\nwitness w2 %s\nwitness w3 %s https://w3.example\ngroup all-three 2 w1 w2 w3\nquorum all-three\n",
		w.vkey, w.witnesses[0].vkey(), w.witnesses[1].vkey(), w.witnesses[2].vkey())
	w.policy = must(proof.ParsePolicy([]byte(w.policyText)))

	w.alice = must(proof.Pivot{BirthName: "Lefèvre-Œuvrard", GivenNames: "Anne, Élise", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056", BirthCountry: proof.France}.Subject())
	w.bob = must(proof.Person{BirthName: "D'Alembert", GivenNames: "Jean", BirthDate: "1990-02", Sex: "M"}.Subject())
	w.corp = must(proof.SIREN("130 025 265"))
	return w
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

func (w *world) epoch() proof.Epoch { return proof.Epoch(len(w.epochs) - 1) }

func (w *world) add(e proof.Entry) proof.Index {
	return w.addText(must(proof.EntryText(e.WithEpoch(w.epoch()))))
}

func (w *world) addText(text []byte) proof.Index {
	w.texts = append(w.texts, text)
	w.hashes = append(w.hashes, refLeaf(text))
	return proof.Index(len(w.texts) - 1)
}

// open appends the marker that closes the current epoch, if any, and opens the
// next.
func (w *world) open() {
	n := len(w.epochs)
	key := must(proof.NewLabelKey(&detRand{seed: fmt.Sprintf("label key %d", n)}))
	m := proof.Marker{
		Epoch: proof.Epoch(n), Opened: w.later + proof.Time(1_764_000_000_000+86_400_000*n), Until: w.later + proof.Time(1_764_000_000_000+86_400_000*(n+1)),
		VRF: key.Public(),
	}
	if n > 0 {
		m.Closed = w.close()
	}
	w.epochs = append(w.epochs, &closedEpoch{key: key})
	w.epochs[n].opener = w.add(m)
}

func (w *world) close() *proof.Closed {
	e := w.epochs[len(w.epochs)-1]
	e.closer = proof.Index(len(w.texts))
	byLabel := map[proof.Label][]proof.Index{}
	for _, f := range w.filed {
		if f.index > e.opener {
			if !must(proof.ParseEntry(w.texts[f.index])).Kind().Filed() {
				continue
			}
			z := e.key.Label(f.subject, w.epoch())
			byLabel[z] = append(byLabel[z], f.index)
		}
	}
	e.rolls = map[proof.Label]*proof.Roll{}
	var items []proof.Item
	for z, indexes := range byLabel {
		e.rolls[z] = must(proof.NewRoll(hashOf(fmt.Sprintf("roll secret %d", w.epoch())), z, indexes))
		items = append(items, e.rolls[z].Item())
	}
	sortItems(items)
	e.summary = must(proof.BuildIndex(w.epoch(), uint64(len(items)), seq(items), func(b uint64, leaf []byte) error {
		e.buckets = append(e.buckets, bytes.Clone(leaf))
		e.leaves = append(e.leaves, refLeaf(leaf))
		return nil
	}))
	c := &proof.Closed{
		Previous: w.hashes[e.opener], First: e.opener, Size: uint64(e.closer - e.opener),
		Items: e.summary.Items, Bits: e.summary.Bits, Index: e.summary.Root,
	}
	counts := map[proof.Kind]uint64{}
	for _, text := range w.texts[e.opener:e.closer] {
		kind, _ := must2(proof.ParseHead(text))
		counts[kind]++
	}
	for _, k := range slices.Sorted(maps.Keys(counts)) {
		c.Counts = append(c.Counts, proof.Count{Kind: k, N: counts[k]})
	}
	return c
}

func sortItems(items []proof.Item) {
	slices.SortFunc(items, func(a, b proof.Item) int { return bytes.Compare(a.Label[:], b.Label[:]) })
}

func seq(items []proof.Item) iter.Seq2[proof.Label, proof.Hash] {
	return func(yield func(proof.Label, proof.Hash) bool) {
		for _, it := range items {
			if !yield(it.Label, it.Root) {
				return
			}
		}
	}
}

// disclosureRecord fills a record as the broker would, but for some fields.
func disclosureRecord(rand *detRand, s proof.Subject, but ...proof.Field) *proof.Record {
	r := must(proof.NewRecord(proof.SchemaDisclosure, rand))
	set := func(f proof.Field, v string) {
		if slices.Contains(but, f) {
			return
		}
		if err := r.SetText(f, v); err != nil {
			panic(err)
		}
	}
	if err := r.SetSubject(s); err != nil {
		panic(err)
	}
	set(proof.DisclosureContext, "Inscription à la cantine")
	set(proof.DisclosureObject, "Tarif 2026-2027")
	key := hashOf("payload key")
	set(proof.DisclosurePayloadKey, string(key[:]))
	set(proof.DisclosureID, "0b6c1f0e-7d3f-4a52-9f57-0d6b3c1a2e4f")
	set(proof.DisclosureRole, proof.RoleAsked)
	set(proof.DisclosureAgency, "mairie-lyon")
	set(proof.DisclosureRecipient, "21690123100011")
	set(proof.DisclosureOfficial, "agent-4711")
	set(proof.DisclosureProvider, "cnav")
	set(proof.DisclosureService, "quotient-familial@3")
	for f, items := range map[proof.Field][]string{
		proof.DisclosureRequested: {"/data/quotient_familial/valeur", "/data/allocataires"},
		proof.DisclosureObtained:  {"/data/quotient_familial/valeur", "/data/allocataires"},
		proof.DisclosureReleased:  {"/data/quotient_familial/valeur"},
		proof.DisclosureReasons:   {},
	} {
		if slices.Contains(but, f) {
			continue
		}
		if err := r.SetList(f, items); err != nil {
			panic(err)
		}
	}
	set(proof.DisclosurePurpose, "tarification-cantine")
	set(proof.DisclosureLegalBasis, "crpa-l114-8")
	set(proof.DisclosureAgreement, "hab-1234@2")
	set(proof.DisclosurePolicy, hashOf("bundle").String())
	set(proof.DisclosureInput, `{"agency":"mairie-lyon","fields":["/data/quotient_familial/valeur"],"purpose":"tarification-cantine","service":"quotient-familial","time":1764000000000}`)
	set(proof.DisclosureOutcome, proof.OutcomeReleased)
	if err := r.SetTime(proof.DisclosureAskedAt, 1_764_000_001_000); err != nil {
		panic(err)
	}
	if err := r.SetTime(proof.DisclosureAnsweredAt, 1_764_000_001_240); err != nil {
		panic(err)
	}
	set(proof.DisclosureTraceID, "0af7651916cd43dd8448eb211c80319c")
	mac := hashOf("payload hmac")
	set(proof.DisclosurePayload, string(mac[:]))
	if err := r.Check(); err != nil {
		panic(err)
	}
	return r
}

func (w *world) record(k proof.Kind, s proof.Subject) *proof.Record {
	if k.Schema() == proof.SchemaDisclosure {
		return disclosureRecord(w.rand, s)
	}
	r := must(proof.NewRecord(k.Schema(), w.rand))
	errs := []error{r.SetSubject(s), r.SetText(2, "3d1a5d2c-0000-4000-8000-000000000001")}
	switch k {
	case proof.KindAccess:
		errs = append(errs, r.SetText(proof.AccessReader, "auditor-7"), r.SetText(proof.AccessRole, proof.RoleAuditor),
			r.SetIndex(proof.AccessTarget, 2), r.SetList(proof.AccessFields, []string{"policy", "input"}),
			r.SetText(proof.AccessReason, "Contrôle annuel"), r.SetTime(proof.AccessAt, 1_764_000_002_000))
	case proof.KindErasure:
		errs = append(errs, r.SetIndex(proof.ErasureReach, 7), r.SetText(proof.ErasureGround, "request"),
			r.SetTime(proof.ErasureAskedAt, 1_764_000_002_000), r.SetTime(proof.ErasureErasedAt, 1_764_000_003_000))
	}
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
	return r
}

func (w *world) file(k proof.Kind, s proof.Subject) filed {
	r := w.record(k, s)
	c := r.Commitment()
	var e proof.Entry
	switch k {
	case proof.KindDisclosure:
		e = proof.Disclosure{Commitment: c}
	case proof.KindAccess:
		e = proof.Access{Commitment: c}
	case proof.KindErasure:
		e = proof.Erasure{Commitment: c}
	case proof.KindDeferred:
		e = proof.Deferred{Authority: "Tribunal judiciaire de Lyon", Article: "CPP art. 60-1", Month: "2027-11", Commitment: c}
	}
	f := filed{w.add(e), s, r}
	w.filed = append(w.filed, f)
	return f
}

func (w *world) opened(d filed) filed {
	f := filed{w.add(proof.Opened{Deferred: d.index, Commitment: d.record.Commitment()}), d.subject, d.record}
	w.filed = append(w.filed, f)
	return f
}

// at returns the filed entry that is nth among those of a subject.
func (w *world) at(s proof.Subject, nth int) filed {
	for _, f := range w.filed {
		if f.subject.Equal(s) {
			if nth == 0 {
				return f
			}
			nth--
		}
	}
	panic("no such entry")
}

// checkpoint signs the tree of the first size entries; cosigners count from w1.
func (w *world) checkpoint(size int, cosigners ...int) []byte {
	root := refRoot(w.hashes[:size])
	body := fmt.Sprintf("%s\n%d\n%s\n", origin, size, root)
	out := must(note.Sign(&note.Note{Text: body}, w.signer))
	for _, i := range cosigners {
		out = append(out, w.witnesses[i].line([]byte(body))...)
	}
	return out
}

func (w *world) verified(size int, cosigners ...int) proof.Checkpoint {
	return must(proof.VerifyCheckpoint(w.checkpoint(size, cosigners...), w.policy))
}

func (w *world) proven(i proof.Index, size int) proof.Proven {
	return proof.Proven{Index: i, Text: w.texts[i], Path: refPath(int(i), w.hashes[:size])}
}

// labelProof proves what the index of the closed epoch n says about a subject.
func (w *world) labelProof(n int, s proof.Subject, size int) (proof.LabelProof, proof.Label) {
	e := w.epochs[n]
	z, vrf := e.key.Prove(s, proof.Epoch(n))
	b := z.BucketNumber(e.summary.Bits)
	return proof.LabelProof{
		Marker: w.proven(e.closer, size), Opener: e.opener, OpenerText: w.texts[e.opener], VRFProof: vrf,
		Bucket: must(proof.ParseBucket(e.buckets[b])), BucketPath: refPath(int(b), e.leaves),
	}, z
}

// settlement builds the settlement of a filed entry of a closed epoch.
func (w *world) settlement(f filed, size int) *proof.Settlement {
	for n, e := range w.epochs {
		if e.closer == 0 || f.index < e.opener || f.index >= e.closer {
			continue
		}
		p, z := w.labelProof(n, f.subject, size)
		return &proof.Settlement{LabelProof: p, Leaf: must(e.rolls[z].Leaf(f.index))}
	}
	panic("not in a closed epoch")
}

// epochProof opens a subject's roll in the closed epoch n, or shows that there
// is none.
func (w *world) epochProof(n int, s proof.Subject) *proof.EpochProof {
	lp, z := w.labelProof(n, s, len(w.texts))
	p := &proof.EpochProof{LabelProof: lp}
	if r := w.epochs[n].rolls[z]; r != nil {
		p.Leaves = r.Open()
	}
	return p
}

func (w *world) receipt(f filed, reader proof.Reader, cosigners []int, settled bool) *proof.Receipt {
	size := len(w.texts)
	var s *proof.Settlement
	if settled {
		s = w.settlement(f, size)
	}
	return must(proof.NewReceipt(w.proven(f.index, size), f.record.Open(reader), w.checkpoint(size, cosigners...), s))
}

func text(t testing.TB, a interface {
	AppendText([]byte) ([]byte, error)
}) []byte {
	t.Helper()
	b, err := a.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
