package verifier_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/portal/browsertest"
	"github.com/regard-broker/regard/broker/portal/verifier"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// years makes the history of a person with two identifiers in a log of daily epochs of 100,000 persons and 150,000 entries each, and its policy. Every proof has
// the width and the height that it would have there; the hashes of what is about others are random.
func years(t testing.TB, epochs, entries int) (policy string, file []byte) {
	t.Helper()
	const perDay, persons, day = 150_000, 100_000, 86_400_000
	rng := mathrand.NewChaCha8([32]byte{7})
	random := func() (h proof.Hash) { _, _ = rng.Read(h[:]); return h }
	skey, vkey, err := note.GenerateKey(rng, "regard.example/log")
	if err != nil {
		t.Fatal(err)
	}
	key := must(proof.NewLabelKey(rng))
	pivot := proof.Pivot{BirthName: "Martin", GivenNames: "Camille", BirthDate: "1990-01-31", Sex: "F", BirthPlace: "75056", BirthCountry: proof.France}
	h := &proof.History{Subjects: []proof.Subject{must(proof.Person{BirthName: "Martin", GivenNames: "Camille", BirthDate: "1990-01-31", Sex: "F"}.Subject()), must(pivot.Subject())}}
	slices.SortFunc(h.Subjects, proof.CompareSubjects)

	bits := proof.BucketBits(persons)
	rolls := make([][2]proof.Index, epochs) // at most one entry a day
	for k, d := range mathrand.New(rng).Perm(epochs)[:entries] {
		at := proof.Index(d*perDay + 1 + k)
		r := record(h.Subjects[k%2], k, d)
		rolls[d][k%2] = at
		h.Entries = append(h.Entries, proof.HistoryEntry{Index: at, Text: must(proof.EntryText(proof.Disclosure{Epoch: proof.Epoch(d), Commitment: r.Commitment()})), Opening: r.Open(proof.ReaderPerson)})
	}
	slices.SortFunc(h.Entries, func(a, b proof.HistoryEntry) int { return int(a.Index) - int(b.Index) })

	opened := proof.TimeOf(time.Now()) - proof.Time(epochs)*day
	m := proof.Marker{Opened: opened, Until: opened + day, VRF: key.Public()}
	for n := range proof.Epoch(epochs) {
		text := must(proof.EntryText(m))
		h.Markers = append(h.Markers, text)
		var e proof.HistoryEpoch
		items := map[uint64][]proof.Item{}
		for s, subject := range h.Subjects {
			z, vrf := key.Prove(subject, n)
			e.Labels = append(e.Labels, vrf)
			b := z.BucketNumber(bits)
			var r proof.HistoryRoll
			if at := rolls[n][s]; at != 0 {
				roll := must(proof.NewRoll([32]byte(random()), z, []proof.Index{at}))
				items[b] = append(items[b], roll.Item())
				r.Leaves = roll.Open()
			}
			for len(items[b]) < 3 { // others'
				l := proof.Label(random())
				for i := range bits { // with the same first bits
					mask := byte(1) << (7 - i%8)
					l[i/8] = l[i/8]&^mask | z[i/8]&mask
				}
				items[b] = append(items[b], proof.Item{Label: l, Root: random()})
			}
			e.Rolls = append(e.Rolls, r)
		}
		var numbers []uint64
		leaves := map[uint64]proof.Hash{}
		for b := range items {
			numbers = append(numbers, b)
		}
		slices.Sort(numbers)
		for _, b := range numbers {
			slices.SortFunc(items[b], func(a, b proof.Item) int { return slices.Compare(a.Label[:], b.Label[:]) })
			leaves[b] = proof.LeafHash(must(proof.Bucket{Epoch: n, Bits: bits, Number: b, Items: items[b]}.Leaf()))
			e.Buckets = append(e.Buckets, items[b])
		}
		var root proof.Hash
		root, e.Nodes = tree(1<<bits, numbers, leaves, random)
		h.Epochs = append(h.Epochs, e)
		opened += day
		m = proof.Marker{Epoch: n + 1, Opened: opened, Until: opened + day, VRF: key.Public(), Closed: &proof.Closed{
			Previous: proof.LeafHash(text), First: proof.Index(n) * perDay, Size: perDay, Items: persons, Bits: bits, Index: root,
			Counts: []proof.Count{{Kind: proof.KindAccess, N: 900}, {Kind: proof.KindAgreement, N: 3}, {Kind: proof.KindDisclosure, N: perDay - 904}, {Kind: proof.KindEpoch, N: 1}},
		}}
	}
	last := must(proof.EntryText(m))
	h.Markers = append(h.Markers, last)
	numbers, leaves := []uint64{}, map[uint64]proof.Hash{uint64(epochs * perDay): proof.LeafHash(last)}
	for _, e := range h.Entries {
		numbers = append(numbers, uint64(e.Index))
		leaves[uint64(e.Index)] = proof.LeafHash(e.Text)
	}
	numbers = append(numbers, uint64(epochs*perDay))
	size := uint64(epochs*perDay + 70_001)
	var root proof.Hash
	root, h.Nodes = tree(size, numbers, leaves, random)
	h.Checkpoint = must(note.Sign(&note.Note{Text: fmt.Sprintf("regard.example/log\n%d\n%s\n", size, root)}, must(note.NewSigner(skey))))
	return "log " + vkey + "\nquorum none\n", must(h.AppendText(nil))
}

// tree computes the root over some leaves of a tree whose other subtrees are random, and these.
func tree(size uint64, numbers []uint64, leaves map[uint64]proof.Hash, random func() proof.Hash) (root proof.Hash, nodes []proof.Hash) {
	spans := proof.ProofSpans(size, numbers, nil)
	var over func(from, to uint64) proof.Hash
	over = func(from, to uint64) proof.Hash {
		if len(spans) > 0 && spans[0] == (proof.Span{From: from, To: to}) {
			spans = spans[1:]
			nodes = append(nodes, random())
			return nodes[len(nodes)-1]
		}
		if to == from+1 {
			return leaves[from]
		}
		half := uint64(1)
		for half*2 < to-from {
			half *= 2
		}
		l := over(from, from+half)
		r := over(from+half, to)
		return sha256.Sum256(slices.Concat([]byte{1}, l[:], r[:])) // RFC 6962, section 2.1
	}
	return over(0, size), nodes
}

// record is one of 20 agencies' requests, about as large as those that the broker writes.
func record(s proof.Subject, k, day int) *proof.Record {
	r := must(proof.NewRecord(proof.SchemaDisclosure, rand.Reader))
	at := 1_764_000_000_000 + int64(day)*86_400_000 + int64(k)
	id := sha256.Sum256(fmt.Append(nil, k))
	digest := proof.Hash(sha256.Sum256([]byte{byte(k % 20)}))
	pointers := "/data/quotient_familial/annee\n/data/quotient_familial/mois\n/data/quotient_familial/valeur"
	for f, v := range map[proof.Field]string{
		proof.DisclosureContext: "Inscription à la cantine", proof.DisclosureObject: fmt.Sprintf("Dossier %d", k), proof.DisclosurePayloadKey: string(id[:]),
		proof.DisclosureID: fmt.Sprintf("%x-%x-7%03x-8%03x-%x", id[:4], id[4:6], id[6], id[7], id[8:14]), proof.DisclosureRole: proof.RoleAsked,
		proof.DisclosureAgency: fmt.Sprintf("mairie-%d", k%20), proof.DisclosureRecipient: "21690123100011", proof.DisclosureOfficial: fmt.Sprintf("agent-%d", k%300), proof.DisclosureProvider: "cnav",
		proof.DisclosureService: "quotient-familial@3", proof.DisclosureRequested: pointers, proof.DisclosureObtained: pointers, proof.DisclosureReleased: pointers, proof.DisclosurePurpose: "tarification-cantine",
		proof.DisclosureLegalBasis: "crpa-l114-8", proof.DisclosureAgreement: fmt.Sprintf("hab-%d@2", k%20), proof.DisclosurePolicy: digest.String(),
		proof.DisclosureInput:   fmt.Sprintf(`{"agency":{"id":"mairie-%d"},"agreement":{"digest":"%s","text":"%s"},"time":%d}`, k%20, digest, strings.Repeat("x", 700), at),
		proof.DisclosureReasons: "agreement.covers\npurpose.allowed", proof.DisclosureOutcome: proof.OutcomeReleased, proof.DisclosureAskedAt: fmt.Sprint(at), proof.DisclosureAnsweredAt: fmt.Sprint(at + 213),
		proof.DisclosureTraceID: fmt.Sprintf("%x", id[:16]), proof.DisclosurePayload: string(id[:]),
	} {
		if err := r.SetText(f, v); err != nil {
			panic(fmt.Sprint(f, err))
		}
	}
	if err := r.SetSubject(s); err != nil {
		panic(err)
	}
	return r
}

// BenchmarkBrowser measures what a person waits for, from the click to the verdict, in Chromium: the file, the verifier, and verifying with two identifiers.
// Aims: one year (365 epochs, 300 entries) < 3 s, ten years < 20 s, on 2 cores.
func BenchmarkBrowser(b *testing.B) {
	for _, size := range []struct{ epochs, entries int }{{365, 300}, {3650, 3000}} {
		if testing.Short() && size.epochs > 365 {
			continue
		}
		b.Run(fmt.Sprint(size.epochs), func(b *testing.B) {
			policy, file := years(b, size.epochs, size.entries)
			v, err := verifier.Load(browsertest.Verifier(b), []byte(policy))
			if err != nil {
				b.Fatal(err)
			}
			s := newSite(b, v, policy)
			s.set(verdict.French, string(file), markup("", rowsOf(b, s, string(file))[:verdict.PageRows]))
			p := browsertest.Open(b, s.URL)
			var took time.Duration
			for b.Loop() {
				start := time.Now()
				p.Goto(s.URL + "/historique")
				p.Wait(finished)
				took += time.Since(start)
				if got := state(p); got != "provisional" { // there are no witnesses
					b.Fatal(got, p.Text("#verdict"))
				}
			}
			b.ReportMetric(took.Seconds()/float64(b.N), "s/checked")
			b.ReportMetric(float64(len(file))/1e6, "MB")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// TestYear: a history of many days is verified, and its progress is told.
func TestYear(t *testing.T) {
	policy, file := years(t, 365, 300)
	v, err := verifier.Load(browsertest.Verifier(t), []byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, v, policy)
	s.set(verdict.French, string(file), markup("", rowsOf(t, s, string(file))[:verdict.PageRows]))
	p := browsertest.Open(t, s.URL)
	p.Goto("about:blank")
	p.Goto(s.URL + "/historique")
	p.Wait(finished)
	if got := state(p); got != "provisional" {
		t.Fatal(got, p.Text("#verdict"))
	}
	text := browsertest.Eval[string](p, `document.querySelector("#verdict").textContent`)
	for _, want := range []string{"étiquettes vérifiées (une par identifiant et période)730", "listes ouvertes en entier300", "absences prouvées430", verdict.Typeset("Identifiants couverts : nom, prénoms, sexe et date de naissance, sans lieu de naissance ; identité complète.")} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in %s", want, text)
		}
	}
}
