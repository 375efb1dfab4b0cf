package broker_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"maps"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"testing"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

func childLogger() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// killCheck knows only what others hold: the provider's access log, the clients' answers, and what is published.
type killCheck struct {
	t       *testing.T
	policy  *proof.Policy
	entries [][]byte       // of the published log
	index   map[string]int // of an entry's text
	seen    [][]byte       // checkpoints
}

func checkKilled(t *testing.T, public string, vkeys []string, access []accessed, answers []killDone, fresh map[store.ID]killAnswer, seen [][]byte) {
	t.Helper()
	policy, err := proof.NewPolicy(vkeys[0])
	if err != nil {
		t.Fatal(err)
	}
	c := &killCheck{t: t, policy: policy, index: map[string]int{}, seen: seen}
	c.read(public, vkeys[0])
	asked := map[string]accessed{}
	names := map[string]bool{}
	for _, a := range access {
		if _, twice := asked[a.id]; twice || a.id == "" || names[a.name] {
			t.Errorf("the provider was asked twice by request %q", a.id)
		}
		asked[a.id], names[a.name] = a, true
	}
	owner := map[proof.Index]string{}
	receipts := map[string]int{}
	outcomes := map[string]int{}
	want, settled := 0, 0
	for i := range answers {
		d := &answers[i]
		r, n := c.answer(d, asked)
		want += n
		id := r.Opening().Text(proof.DisclosureID)
		receipts[id]++
		if other, taken := owner[r.Index()]; taken {
			t.Errorf("log index %d is that of disclosures %s and %s", r.Index(), other, id)
		}
		owner[r.Index()] = id
		outcomes[r.Opening().Text(proof.DisclosureOutcome)+" "+r.Opening().Text(proof.DisclosureCause)]++
		// The receipt as the broker gives it out after the last restart is that of the same entry and says the same.
		late := fresh[d.answer.ID]
		again := c.receipt(late.Receipt)
		if again.Index() != r.Index() || !bytes.Equal(again.EntryText(), r.EntryText()) || late.Outcome != d.answer.Outcome || late.Data != nil {
			t.Errorf("disclosure %s says something else after the last restart", id)
		}
		if late.Settled {
			settled++
		}
	}
	for id := range asked {
		if receipts[id] != 1 {
			t.Errorf("request %s reached the provider and has %d receipts", id, receipts[id])
		}
	}
	got := 0
	commitments := map[proof.Commitment]int{}
	for i, text := range c.entries {
		e, err := proof.ParseEntry(text)
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if e.Kind() != proof.KindDisclosure {
			continue
		}
		got++
		commitment, _ := proof.CommitmentOf(e)
		if j, twice := commitments[commitment]; twice {
			t.Errorf("entries %d and %d have the same commitment", j, i)
		}
		commitments[commitment] = i
	}
	if got != want {
		t.Errorf("the log has %d disclosure entries, the filed people are %d", got, want)
	}
	n := c.consistent()
	t.Logf("%d answers %v, %d questions at the provider, %d entries of which %d disclosures, %d checkpoints, %d settled receipts", len(answers), outcomes, len(access), len(c.entries), got, n, settled)
	if len(answers) < 50 || outcomes["failed interrupted"] == 0 || settled == 0 {
		t.Error("this campaign shows too little: too few answers, nothing interrupted, or nothing settled")
	}
}

// read has somebody else's tool read and check the published log, and keeps its entries.
func (c *killCheck) read(public, vkey string) {
	c.t.Helper()
	srv := httptest.NewServer(tiles.Handler(public))
	defer srv.Close()
	base, err := url.Parse(srv.URL + "/")
	if err != nil {
		c.t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(base, srv.Client())
	if err != nil {
		c.t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		c.t.Fatal(err)
	}
	hashes := func(bundle []byte) (out [][]byte, err error) {
		var b api.EntryBundle
		err = b.UnmarshalText(bundle)
		for _, e := range b.Entries {
			out = append(out, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return out, err
	}
	if err := fsck.New(v.Name(), v, f, hashes, fsck.Opts{N: 2}).Check(c.t.Context()); err != nil {
		c.t.Fatalf("tessera's fsck of the published log: %v", err)
	}
	cp, err := proof.VerifyCheckpoint(c.seen[len(c.seen)-1], c.policy)
	if err != nil {
		c.t.Fatal(err)
	}
	tree := tiles.Tree{Dir: public, Size: cp.Size(), Root: cp.Root()}
	for i := range cp.Size() {
		text, err := tree.Entry(i)
		if err != nil {
			c.t.Fatalf("published entry %d: %v", i, err)
		}
		if j, twice := c.index[string(text)]; twice {
			c.t.Errorf("entries %d and %d are the same", j, i)
		}
		c.index[string(text)] = int(i)
		c.entries = append(c.entries, text)
	}
}

// receipt verifies a receipt and finds its entry in the published log.
func (c *killCheck) receipt(text []byte) *proof.Receipt {
	c.t.Helper()
	r, err := proof.ParseReceipt(text)
	if err != nil {
		c.t.Fatalf("%v\n%s", err, text)
	}
	if _, err := r.Verify(c.policy, proof.VerifyOptions{AllowProvisional: true}); err != nil {
		c.t.Errorf("a receipt doesn't hold: %v\n%s", err, text)
	}
	if i, ok := c.index[string(r.EntryText())]; !ok || proof.Index(i) != r.Index() {
		c.t.Errorf("the entry of a receipt for log index %d isn't published there", r.Index())
	}
	c.seen = append(c.seen, r.Checkpoint())
	return r
}

// answer checks one answer against the provider's log and returns how many people it was filed under.
func (c *killCheck) answer(d *killDone, asked map[string]accessed) (*proof.Receipt, int) {
	t := c.t
	t.Helper()
	r := c.receipt(d.answer.Receipt)
	o := r.Opening()
	said, reached := asked[o.Text(proof.DisclosureID)]
	outcome := broker.Outcome(o.Text(proof.DisclosureOutcome))
	pivot := killPivot(d.req.Name)
	subject, err := pivot.Subject()
	if err != nil {
		t.Fatal(err)
	}
	if s, err := o.Subject(); err != nil || !s.Equal(subject) || o.Text(proof.DisclosureObject) != d.req.Key || outcome != d.answer.Outcome {
		t.Errorf("the receipt of %s is that of another request", d.req.Key)
	}
	if reached && said.name != d.req.Name {
		t.Errorf("the provider was asked for somebody else by %s", d.req.Key)
	}
	denied := d.req.Scope != "quotient"
	if denied && reached || denied && outcome != broker.Denied && !(outcome == broker.Failed && o.Text(proof.DisclosureCause) == "interrupted") {
		t.Errorf("a request that the policy refuses: outcome %s, provider asked: %v", outcome, reached)
	}
	if outcome != broker.Released && d.answer.Data != nil {
		t.Errorf("data with outcome %s", outcome)
	}
	switch {
	case outcome == broker.Failed:
		if o.Text(proof.DisclosureCause) != "interrupted" || d.answer.Status != 503 || d.answer.Code != "interrupted" {
			t.Errorf("failed by %s, problem %d %s", o.Text(proof.DisclosureCause), d.answer.Status, d.answer.Code)
		}
		if _, p := o.Value(proof.DisclosureObtained); p != proof.Absent {
			t.Errorf("%s was interrupted, and claims to know what the answer held", d.req.Key)
		}
		return r, 1
	case outcome == broker.Denied:
		return r, 1
	case !reached:
		t.Errorf("outcome %s of %s, and the provider wasn't asked", outcome, d.req.Key)
	case outcome == broker.Empty:
		if len(said.people) != 0 || d.answer.Status != 404 {
			t.Errorf("an empty answer of somebody whom the provider knows: %+v", d.answer.Code)
		}
		return r, 1
	}
	if want := fmt.Sprintf(`{"data":{"quotient":{"valeur":%d}}}`, said.value); string(d.answer.Data) != want {
		t.Errorf("released %s, the provider said %s", d.answer.Data, want)
	}
	key, _ := o.Value(proof.DisclosurePayloadKey)
	digest, _ := o.Value(proof.DisclosurePayload)
	m := hmac.New(sha256.New, key)
	m.Write(d.answer.Data)
	if !bytes.Equal(m.Sum(nil), digest) {
		t.Errorf("the payload digest of %s isn't that of the released bytes", d.req.Key)
	}
	filed := map[string]bool{broker.Name(subject): true}
	for _, p := range said.people {
		// Section 5 of docs/formats.md by its letter, and not by the code that files.
		if pivot.Complete() && pivot.Agrees(p) {
			continue
		}
		s, err := proof.Person{BirthName: p.BirthName, GivenNames: p.GivenNames, BirthDate: p.BirthDate, Sex: p.Sex}.Subject()
		if err != nil {
			t.Fatal(err)
		}
		filed[broker.Name(s)] = true
	}
	return r, len(filed)
}

// consistent rebuilds the tree from the published entries and wants every checkpoint that anybody ever saw to be a prefix of it.
func (c *killCheck) consistent() int {
	c.t.Helper()
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, j := range idx {
			out[i] = stored[j]
		}
		return out, nil
	})
	for i, text := range c.entries {
		h, err := tlog.StoredHashes(int64(i), text, reader)
		if err != nil {
			c.t.Fatal(err)
		}
		stored = append(stored, h...)
	}
	roots := map[uint64]proof.Hash{}
	for _, n := range c.seen {
		cp, err := proof.VerifyCheckpoint(n, c.policy)
		if err != nil {
			c.t.Fatal(err)
		}
		if root, ok := roots[cp.Size()]; ok && root != cp.Root() {
			c.t.Errorf("two checkpoints of size %d", cp.Size())
		}
		roots[cp.Size()] = cp.Root()
	}
	for _, size := range slices.Sorted(maps.Keys(roots)) {
		if size > uint64(len(c.entries)) {
			c.t.Errorf("a checkpoint of size %d was seen, the log has %d entries", size, len(c.entries))
			continue
		}
		if root, err := tlog.TreeHash(int64(size), reader); err != nil || proof.Hash(root) != roots[size] {
			c.t.Errorf("the checkpoint of size %d isn't a prefix of the published log: %v", size, err)
		}
	}
	return len(roots)
}
