package ledger

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// years is a log of many epochs with 100,000 persons and 150,000 entries each, of which only the tiles are there that one person's history takes: all of them have the width
// and the height that they would have, and what is in them is random.
type years struct {
	Store  // nothing else is called
	log    *Log
	policy *proof.Policy
	me     proof.Subject
	closed []ClosedEpoch
	texts  map[proof.Index][]byte
	rolls  map[proof.Epoch][]proof.Index
	opened map[proof.Index]proof.Opening
	key    proof.LabelKey
}

func (y *years) Epoch(_ context.Context, n proof.Epoch) (ClosedEpoch, error) {
	if int(n) >= len(y.closed) {
		return ClosedEpoch{}, ErrNotFound
	}
	return y.closed[n], nil
}

func (y *years) Roll(_ context.Context, n proof.Epoch, _ proof.Label) ([]proof.Index, error) {
	return y.rolls[n], nil
}

func (y *years) Leaves(_ context.Context, from, _ proof.Index, fn func(Leaf) error) error {
	return fn(Leaf{Index: from, Text: y.texts[from]})
}

func (y *years) CurrentKey(context.Context, time.Time) (string, [32]byte, error) {
	return "", y.key.Public(), nil
}

func (y *years) Label(context.Context, string, proof.Epoch, []proof.Subject) ([]proof.Label, error) {
	return nil, nil
}

func (y *years) Prove(_ context.Context, _ string, e proof.Epoch, s proof.Subject) (proof.Label, []byte, error) {
	z, p := y.key.Prove(s, e)
	return z, p, nil
}

func (y *years) RollSeed(_ context.Context, _ string, e proof.Epoch) ([32]byte, error) {
	return [32]byte{byte(e), byte(e >> 8)}, nil
}

const (
	benchPersons = 100_000
	benchPerDay  = 150_000
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newYears(b *testing.B, epochs, entries int) *years {
	b.Helper()
	rng := mathrand.NewChaCha8([32]byte{1})
	random := func(n int) []byte {
		out := make([]byte, n)
		_, _ = rng.Read(out)
		return out
	}
	y := &years{texts: map[proof.Index][]byte{}, rolls: map[proof.Epoch][]proof.Index{}, opened: map[proof.Index]proof.Opening{}}
	y.key = must(proof.NewLabelKey(rng))
	y.me = must(proof.Pivot{BirthName: "Martin", GivenNames: "Camille", BirthDate: "1990-01-31", Sex: "F", BirthPlace: "75056", BirthCountry: proof.France}.Subject())
	dir := b.TempDir()
	skey, vkey := func() (string, string) {
		s, v, err := note.GenerateKey(rng, "regard.example/log")
		if err != nil {
			panic(err)
		}
		return s, v
	}()
	y.policy = must(proof.NewPolicy(vkey))
	y.log = newLog(Config{Store: y, Labeler: y, Dir: dir})
	// One request a day, on some of the days.
	days := mathrand.New(rng).Perm(epochs)[:entries]
	for k, d := range days {
		at := proof.Index(d*benchPerDay + 1 + k%(benchPerDay-1))
		r := benchRecord(y.me, k, d)
		y.rolls[proof.Epoch(d)] = []proof.Index{at}
		y.texts[at] = must(proof.EntryText(proof.Disclosure{Epoch: proof.Epoch(d), Commitment: r.Commitment()}))
		y.opened[at] = r.Open(proof.ReaderPerson)
	}
	opened := proof.Time(1_764_000_000_000)
	m := proof.Marker{Opened: opened, Until: opened + 86_400_000, VRF: proof.LabelPublicKey(y.key.Public())}
	text := must(proof.EntryText(m))
	for n := range proof.Epoch(epochs) {
		c := ClosedEpoch{OpenEpoch: OpenEpoch{Number: n, Marker: proof.Index(n) * benchPerDay, Text: text}, Closer: proof.Index(n+1) * benchPerDay, Size: benchPerDay, Items: benchPersons}
		y.index(b, &c, random)
		y.closed = append(y.closed, c)
		opened += 86_400_000
		m = proof.Marker{Epoch: n + 1, Opened: opened, Until: opened + 86_400_000, VRF: proof.LabelPublicKey(y.key.Public()), Closed: &proof.Closed{
			Previous: proof.LeafHash(text), First: c.Marker, Size: c.Size, Items: c.Items, Bits: c.Bits, Index: c.Root,
			Counts: []proof.Count{{Kind: proof.KindAccess, N: 900}, {Kind: proof.KindAgreement, N: 3}, {Kind: proof.KindDisclosure, N: benchPerDay - 904}, {Kind: proof.KindEpoch, N: 1}},
		}}
		text = must(proof.EntryText(m))
	}
	y.texts[proof.Index(epochs*benchPerDay)] = text
	size := uint64(epochs*benchPerDay + 70_001)
	root := y.tree(b, dir, size, random)
	body := fmt.Sprintf("regard.example/log\n%d\n%s\n", size, root)
	y.log.published(must(proof.VerifyCheckpoint(must(note.Sign(&note.Note{Text: body}, must(note.NewSigner(skey)))), y.policy)))
	y.log.open = OpenEpoch{Number: proof.Epoch(epochs), Marker: proof.Index(epochs * benchPerDay)}
	return y
}

// index writes the part of an epoch's index that holds the person's bucket.
func (y *years) index(b *testing.B, c *ClosedEpoch, random func(int) []byte) {
	c.Bits = proof.BucketBits(benchPersons)
	z := y.key.Label(y.me, c.Number)
	mine := z.BucketNumber(c.Bits)
	first := mine / 256 * 256
	var bundle, tile []byte
	for n := first; n < first+256; n++ {
		items := make([]proof.Item, 3)
		for i := range items {
			copy(items[i].Label[:], random(32))
			binary.BigEndian.PutUint64(items[i].Label[:], n<<(64-c.Bits)|binary.BigEndian.Uint64(items[i].Label[:])>>c.Bits)
			copy(items[i].Root[:], random(32))
		}
		if indexes := y.rolls[c.Number]; n == mine && indexes != nil {
			seed, _ := y.RollSeed(context.Background(), "", c.Number)
			items = append(items, must(proof.NewRoll(seed, z, indexes)).Item())
		}
		slices.SortFunc(items, func(a, b proof.Item) int { return slices.Compare(a.Label[:], b.Label[:]) })
		leaf := must(proof.Bucket{Epoch: c.Number, Bits: c.Bits, Number: n, Items: items}.Leaf())
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(leaf))), leaf...)
		h := proof.LeafHash(leaf)
		tile = append(tile, h[:]...)
	}
	dir := y.log.indexDir(c.Number)
	write(b, dir, layout.EntriesPath(mine/256, 0), bundle)
	write(b, dir, layout.TilePath(0, mine/256, 0), tile)
	above := random(32 * 128) // 2^15 buckets: 128 tiles
	root := benchRoot(tile)
	copy(above[32*(mine/256):], root[:])
	write(b, dir, layout.TilePath(1, 0, 128), above)
	c.Root = benchRoot(above)
}

// tree writes the tiles of the log that prove the person's entries and the last marker.
func (y *years) tree(b *testing.B, dir string, size uint64, random func(int) []byte) proof.Hash {
	known := map[uint64]proof.Hash{} // of the current level
	for i, text := range y.texts {
		known[uint64(i)] = proof.LeafHash(text)
	}
	var edges [][]byte
	for l := uint64(0); size>>(8*l) > 0; l++ {
		n := size >> (8 * l)
		edges = append(edges, random(int(32*(n%256))))
		byTile := map[uint64][]byte{}
		for i, h := range known {
			t := edges[l]
			if i/256 < n/256 {
				if t = byTile[i/256]; t == nil {
					t = random(32 * 256)
					byTile[i/256] = t
				}
			}
			copy(t[32*(i%256):], h[:])
		}
		known = map[uint64]proof.Hash{}
		for t, data := range byTile {
			write(b, dir, layout.TilePath(l, t, 0), data)
			known[t] = benchRoot(data)
		}
		if p := n % 256; p > 0 {
			write(b, dir, layout.TilePath(l, n/256, uint8(p)), edges[l])
		}
	}
	// The root over the right end, level by level.
	var root proof.Hash
	have := false
	for l := range edges {
		for part, at := edges[l], uint64(len(edges[l])/32); at > 0; at &= at - 1 {
			low := at & -at
			h := benchRoot(part[32*(at-low) : 32*at])
			if have {
				h = nodeHash(&h, &root)
			}
			root, have = h, true
		}
	}
	return root
}

func write(b *testing.B, dir, name string, data []byte) {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		b.Fatal(err)
	}
}

// benchRoot is the root over a power of two of hashes.
func benchRoot(tile []byte) proof.Hash {
	if len(tile) == 32 {
		return proof.Hash(tile)
	}
	l, r := benchRoot(tile[:len(tile)/2]), benchRoot(tile[len(tile)/2:])
	return nodeHash(&l, &r)
}

// benchRecord is as large as those that the broker writes, and one of 20 agencies' requests.
func benchRecord(s proof.Subject, k, day int) *proof.Record {
	r := must(proof.NewRecord(proof.SchemaDisclosure, rand.Reader))
	at := int64(1_764_000_000_000) + int64(day)*86_400_000 + int64(k)
	agency := k % 20
	id := sha256.Sum256(fmt.Append(nil, k))
	digest := proof.Hash(sha256.Sum256([]byte{byte(agency)}))
	input := fmt.Sprintf(`{"agency":{"id":"mairie-%d","siret":"21690123100011","state":"active"},"agreement":{"agency":"mairie-%d","id":"hab-%d","legal_bases":["crpa-l114-8"],"not_after":1796000000000,"not_before":1700000000000,"obligations":["notify_person"],"purposes":["tarification-cantine"],"schema":"regard/agreement@v1","scopes":["quotient"],"service":"quotient-familial","state":"active","version":2},"agreement_digest":"%s","channel":"api","has_context":true,"has_object":true,"legal_basis":"crpa-l114-8","purpose":"tarification-cantine","recipient":{"siret":"21690123100011","valid":true},"recipient_is_subject":false,"schema":"regard/input@v1","scopes":["quotient"],"service":{"id":"quotient-familial","provider":"cnav","scopes":{"quotient":["/data/quotient_familial/annee","/data/quotient_familial/mois","/data/quotient_familial/valeur"]},"subject_types":["pivot"],"version":3},"subject_type":"pivot","time":%d}`,
		agency, agency, agency, digest, at)
	pointers := "/data/allocataires\n/data/quotient_familial/annee\n/data/quotient_familial/mois\n/data/quotient_familial/valeur"
	for f, v := range map[proof.Field]string{
		proof.DisclosureContext: "Inscription à la cantine", proof.DisclosureObject: fmt.Sprintf("Dossier %d", k), proof.DisclosurePayloadKey: string(id[:]),
		proof.DisclosureID:   fmt.Sprintf("0193%s-%s-7%s-8%s-%s", hex.EncodeToString(id[:2]), hex.EncodeToString(id[2:4]), hex.EncodeToString(id[4:6])[:3], hex.EncodeToString(id[6:8])[:3], hex.EncodeToString(id[8:14])),
		proof.DisclosureRole: proof.RoleAsked, proof.DisclosureAgency: fmt.Sprintf("mairie-%d", agency), proof.DisclosureRecipient: "21690123100011", proof.DisclosureOfficial: fmt.Sprintf("agent-%d", k%300),
		proof.DisclosureProvider: "cnav", proof.DisclosureService: "quotient-familial@3", proof.DisclosureRequested: pointers, proof.DisclosureObtained: pointers,
		proof.DisclosureReleased: strings.TrimPrefix(pointers, "/data/allocataires\n"), proof.DisclosurePurpose: "tarification-cantine", proof.DisclosureLegalBasis: "crpa-l114-8",
		proof.DisclosureAgreement: fmt.Sprintf("hab-%d@2", agency), proof.DisclosurePolicy: digest.String(), proof.DisclosureInput: input, proof.DisclosureReasons: "agreement.covers\npurpose.allowed",
		proof.DisclosureOutcome: proof.OutcomeReleased, proof.DisclosureAskedAt: fmt.Sprint(at), proof.DisclosureAnsweredAt: fmt.Sprint(at + 213), proof.DisclosureTraceID: hex.EncodeToString(id[:16]), proof.DisclosurePayload: string(id[:]),
	} {
		if err := r.SetText(f, v); err != nil {
			panic(err)
		}
	}
	if err := r.SetSubject(s); err != nil {
		panic(err)
	}
	return r
}

// BenchmarkHistory measures, on one core: 3,650 epochs (ten years) of 100,000 persons, 1,000 entries of one person. Aims: made < 3 s, < 10 MB, verified < 2 s. With -short it is one year.
func BenchmarkHistory(b *testing.B) {
	for _, size := range []struct{ epochs, entries int }{{365, 100}, {3650, 1000}} {
		if testing.Short() != (size.epochs == 365) {
			continue
		}
		b.Run(fmt.Sprint(size.epochs), func(b *testing.B) { benchHistory(b, size.epochs, size.entries) })
	}
}

func benchHistory(b *testing.B, epochs, entries int) {
	y := newYears(b, epochs, entries)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	ctx := context.Background()
	var made, parsed, verified time.Duration
	size := 0
	b.ResetTimer()
	for b.Loop() {
		start := time.Now()
		d, err := y.log.History(ctx, []proof.Subject{y.me}, 0, NewestEpoch)
		if err != nil {
			b.Fatal(err)
		}
		for _, f := range d.Filed {
			d.Add(f.Index, nil, y.opened[f.Index])
		}
		h, err := d.Prove(ctx)
		if err != nil {
			b.Fatal(err)
		}
		text, err := h.AppendText(nil)
		if err != nil {
			b.Fatal(err)
		}
		made += time.Since(start)
		size = len(text)
		start = time.Now()
		if h, err = proof.ParseHistory(text); err != nil {
			b.Fatal(err)
		}
		parsed += time.Since(start)
		v, err := h.Verify(y.policy, proof.HistoryOptions{AllowProvisional: true})
		verified += time.Since(start)
		if err != nil || len(v.Entries) != entries || v.Epochs.To != proof.Epoch(epochs-1) || !v.Complete() {
			b.Fatalf("%d entries, %v", len(v.Entries), err)
		}
	}
	b.ReportMetric(made.Seconds()/float64(b.N), "s/made")
	b.ReportMetric(parsed.Seconds()/float64(b.N), "s/parsed")
	b.ReportMetric(verified.Seconds()/float64(b.N), "s/verified")
	b.ReportMetric(float64(size)/1e6, "MB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkEpochProof measures what a person's proof of presence or absence in one epoch of 1,000,000 persons takes. Aim: < 1 ms. It also reports what the index costs on disk, in bytes an item; with the rolls in the store (BenchmarkPack of broker/store) the aim is 130.
func BenchmarkEpochProof(b *testing.B) {
	const items = 1_000_000
	y := &years{rolls: map[proof.Epoch][]proof.Index{}}
	rng := mathrand.NewChaCha8([32]byte{2})
	y.key = must(proof.NewLabelKey(rng))
	y.log = newLog(Config{Store: y, Labeler: y, Dir: b.TempDir()})
	labels := make([]proof.Label, items)
	for i := range labels {
		_, _ = rng.Read(labels[i][:])
	}
	slices.SortFunc(labels, func(a, b proof.Label) int { return slices.Compare(a[:], b[:]) })
	w := tiles.Create(y.log.indexDir(0))
	sum := must(proof.BuildIndex(0, items, func(yield func(proof.Label, proof.Hash) bool) {
		for _, z := range labels {
			if !yield(z, proof.Hash(z)) {
				return
			}
		}
	}, func(_ uint64, leaf []byte) error { return w.Append(leaf) }))
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	c := ClosedEpoch{Items: items, Bits: sum.Bits, Root: sum.Root}
	disk := 0
	if err := filepath.WalkDir(y.log.indexDir(0), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		disk += int(info.Size())
		return err
	}); err != nil {
		b.Fatal(err)
	}
	people := make([]proof.Subject, 512)
	for i := range people {
		people[i] = must(proof.INE(fmt.Sprintf("%09dAB", i)))
	}
	n := 0
	b.ResetTimer()
	for b.Loop() {
		d := &HistoryDraft{view: &y.log.view}
		d.Subjects = people[n%len(people) : n%len(people)+1]
		if err := d.addEpoch(context.Background(), c); err != nil {
			b.Fatal(err)
		}
		n++
	}
	b.ReportMetric(float64(disk)/items, "B/item")
}
