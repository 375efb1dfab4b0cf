package ledger_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// turnEpoch lets the clock pass the end of the epoch and waits until the next one is open.
func turnEpoch(t *testing.T, env *ledgertest.Env, l *ledger.Log) ledger.ClosedEpoch {
	t.Helper()
	open := l.OpenEpoch()
	env.Clock.Set(open.Until)
	g, _ := ledgertest.Disclosure(ledgertest.Person(999_999))
	a, err := l.Append(context.Background(), g)
	if err != nil {
		t.Fatalf("append in the next epoch: %v", err)
	}
	e, err := proof.VerifyEntry(a.Checkpoint, a.Entries[0])
	if err != nil || e.In() != open.Number+1 {
		t.Fatalf("first entry after the end of epoch %d stands in %v (%v)", open.Number, e, err)
	}
	c, err := env.Store.Epoch(context.Background(), open.Number)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A closed epoch's marker, index and rolls say what was filed, and every receipt of it settles.
func TestEpochSettles(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.New(t)
	l := env.Open()
	type filed struct {
		index proof.Index
		open  proof.Opening
		a     ledger.Appended
		i     int
	}
	var all []filed
	perPerson := map[int]int{}
	for i := range 60 {
		// Person 0 has every third entry, the others one or two.
		numbers := []int{i / 2}
		if i%3 == 0 {
			numbers = append(numbers, 0)
		}
		people := make([]proof.Subject, len(numbers))
		for k, n := range numbers {
			people[k] = ledgertest.Person(n)
		}
		g, openings := ledgertest.Disclosure(people...)
		a, err := l.Append(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		for k := range people {
			all = append(all, filed{a.Entries[k].Index, openings[k], a, k})
			perPerson[numbers[k]]++
		}
	}
	if _, err := l.Append(ctx, ledger.Group{Entries: []proof.Entry{proof.PolicyActivated{Revision: "r1", Bundle: proof.Hash{1}}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := env.Store.Epoch(ctx, 0); !errors.Is(err, ledger.ErrNotFound) {
		t.Fatalf("epoch 0 is closed too early: %v", err)
	}
	c := turnEpoch(t, env, l)
	cp := env.Wait(l)
	if want := uint64(len(all) + 2); c.Size != want || c.Items != uint64(len(perPerson)) || c.Bits != proof.BucketBits(c.Items) {
		t.Errorf("closed epoch %+v, want size %d and %d items", c, want, len(perPerson))
	}
	for _, f := range all {
		fresh, err := ledger.FreshReceipt(f.a, f.i, f.open)
		if err != nil {
			t.Fatal(err)
		}
		if v, err := fresh.Verify(env.Policy, proof.VerifyOptions{AllowProvisional: true}); err != nil || v.State != proof.Provisional {
			t.Fatalf("fresh receipt: %v %v", v.State, err)
		}
		r, err := l.Receipt(ctx, f.index, f.open)
		if err != nil {
			t.Fatalf("receipt of %d: %v", f.index, err)
		}
		if r.Settlement() == nil {
			t.Fatalf("receipt of %d isn't settled", f.index)
		}
		if _, err := r.Verify(env.Policy, proof.VerifyOptions{AllowProvisional: true}); err != nil {
			t.Fatalf("receipt of %d: %v", f.index, err)
		}
		if !bytes.Equal(r.Checkpoint(), cp.Note()) {
			t.Fatal("the receipt isn't under the published checkpoint")
		}
	}
	// A person's roll holds all their entries, and a stranger has none.
	name := c.LabelKey
	for person, n := range perPerson {
		z, _, err := env.Labeler.Prove(ctx, name, 0, ledgertest.Person(person))
		if err != nil {
			t.Fatal(err)
		}
		roll, err := l.Roll(ctx, c, z)
		if err != nil {
			t.Fatal(err)
		}
		root, indexes, err := proof.CheckRoll(roll.Open())
		if err != nil || len(indexes) != n {
			t.Fatalf("roll of %d entries, want %d: %v", len(indexes), n, err)
		}
		b, path, err := l.Bucket(c, z)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := b.Find(z); !ok || got != root || proof.VerifyBucket(c.Root, b, path) != nil {
			t.Fatal("the index has another roll")
		}
	}
	z, _, _ := env.Labeler.Prove(ctx, name, 0, ledgertest.Person(4711))
	if b, _, err := l.Bucket(c, z); err != nil {
		t.Fatal(err)
	} else if _, ok := b.Find(z); ok {
		t.Error("a stranger has a roll")
	}
	if _, err := l.Roll(ctx, c, z); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("roll of a stranger: %v", err)
	}
	// An entry of the open epoch is proven, not settled; another's opening settles nothing.
	if r, err := l.Receipt(ctx, all[0].index, all[1].open); err == nil {
		t.Errorf("receipt with another entry's opening: %v", r.Settlement())
	}
	if _, err := l.Receipt(ctx, proof.Index(cp.Size()), all[0].open); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("receipt of what isn't published: %v", err)
	}
}

// Markers form a chain that anybody can follow from the published entries.
func TestMarkerChain(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.NewInMemory(t)
	env.Clock.Set(time.Date(2026, 1, 31, 23, 10, 0, 0, time.UTC))
	l := env.Open()
	for e := range 5 {
		if e != 2 { // an epoch without filed entries
			appendN(t, l, e, 7)
		}
		turnEpoch(t, env, l)
	}
	var last *proof.Marker
	var lastText []byte
	counts := map[proof.Kind]uint64{}
	err := env.Store.Leaves(ctx, 0, proof.Index(l.Checkpoint().Size()), func(leaf ledger.Leaf) error {
		e, err := proof.ParseEntry(leaf.Text)
		if err != nil {
			return err
		}
		m, ok := e.(proof.Marker)
		if ok {
			if m.At() != leaf.Index {
				t.Errorf("marker of epoch %d stands at %d, says %d", m.Epoch, leaf.Index, m.At())
			}
			if until := m.Until.Time(); !until.Truncate(time.Hour).Equal(until) || until.Sub(m.Opened.Time()) > time.Hour {
				t.Errorf("epoch %d lasts from %v to %v", m.Epoch, m.Opened.Time(), until)
			}
			if last != nil {
				if m.Epoch != last.Epoch+1 || m.Closed.Previous != proof.LeafHash(lastText) || m.Opened < last.Until {
					t.Errorf("marker %d doesn't follow %d", m.Epoch, last.Epoch)
				}
				var want []proof.Count
				for _, k := range proof.Kinds() {
					if counts[k] > 0 {
						want = append(want, proof.Count{Kind: k, N: counts[k]})
					}
				}
				if d := cmp.Diff(want, m.Closed.Counts); d != "" {
					t.Errorf("counts of epoch %d: %s", last.Epoch, d)
				}
			}
			last, lastText = &m, leaf.Text
			clear(counts)
		}
		if e.In() != last.Epoch {
			t.Errorf("entry %d says epoch %d in epoch %d", leaf.Index, e.In(), last.Epoch)
		}
		counts[e.Kind()]++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if last.Epoch != 5 {
		t.Errorf("%d epochs were opened, want 5", last.Epoch)
	}
	// February's epochs have February's key.
	if k, _ := env.Labeler.Key("2026-02"); last.VRF != k.Public() {
		t.Error("the label key wasn't replaced at the end of the month")
	}
}

// An idle log closes its epochs all the same, by its own timer.
func TestIdleEpochCloses(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	cfg := env.Config()
	cfg.Epoch, cfg.Clock = 50*time.Millisecond, nil
	l := env.OpenWith(cfg)
	ledgertest.Await(t, "three epochs to close", func() bool { return l.OpenEpoch().Number >= 3 })
	env.Close(l)
	c, err := env.Store.Epoch(context.Background(), 1)
	if err != nil || c.Size != 1 || c.Items != 0 || c.Bits != 0 {
		t.Errorf("an empty epoch: %+v %v", c, err)
	}
	if _, _, err := l.Bucket(c, proof.Label{1}); err != nil {
		t.Errorf("absence in an empty epoch: %v", err)
	}
}

// After days without a broker one long epoch is closed late, and the next is on schedule again.
func TestMissedEpochs(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	start := time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)
	env.Clock.Set(start)
	cfg := env.Config()
	cfg.Epoch = 0 // a day
	l := env.OpenWith(cfg)
	if until := l.OpenEpoch().Until; !until.Equal(time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)) {
		t.Fatalf("a day ends at %v", until)
	}
	appendN(t, l, 0, 3)
	env.Close(l)
	env.Clock.Advance(3 * 24 * time.Hour)
	l = env.OpenWith(cfg)
	ledgertest.Await(t, "the missed epoch to close", func() bool { return l.OpenEpoch().Number > 0 })
	open := l.OpenEpoch()
	if open.Number != 1 || !open.Opened.Equal(start.Add(72*time.Hour)) || !open.Until.Equal(time.Date(2026, 3, 5, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("after three days: %+v", open)
	}
	appendN(t, l, 0, 1)
}

// The log's time never goes back: a little, and it stands still; a lot, and nothing is accepted until the clock is right.
func TestClockStepsBack(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	start := time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)
	env.Clock.Set(start)
	var out bytes.Buffer
	var mu sync.Mutex
	cfg := env.Config()
	cfg.Logger = slog.New(slog.NewTextHandler(lockedWriter{&mu, &out}, nil))
	l := env.OpenWith(cfg)
	appendN(t, l, 0, 1)
	env.Clock.Advance(-30 * time.Minute)
	appendN(t, l, 0, 2)
	mu.Lock()
	if n := strings.Count(out.String(), "the clock stepped back"); n != 1 {
		t.Errorf("%d alarms for a clock that stepped back, want 1:\n%s", n, out.String())
	}
	mu.Unlock()
	env.Clock.Advance(-40 * time.Minute)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("append with a clock 70 minutes behind: %v", err)
	}
	env.Clock.Set(start.Add(time.Minute))
	appendN(t, l, 0, 1)
	if n := l.Checkpoint().Size(); n != 5 {
		t.Errorf("%d entries, want 5", n)
	}
	env.Close(l)
	// Nor across a restart.
	env.Clock.Set(start.Add(-2 * time.Hour))
	l = env.OpenWith(cfg)
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("append with a clock before the last marker: %v", err)
	}
}

// A clock that jumps far ahead, be it for a moment, closes nothing: the marker would keep the log from going on until that time has come.
func TestClockJumpsAhead(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	start := time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)
	env.Clock.Set(start)
	l := env.Open()
	appendN(t, l, 0, 1)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	for _, step := range []time.Duration{31*24*time.Hour + time.Second, 10 * 365 * 24 * time.Hour} {
		env.Clock.Set(start.Add(step))
		_, err := l.Append(context.Background(), g)
		if !errors.Is(err, ledger.ErrUnavailable) || !strings.Contains(err.Error(), "set the clock right") {
			t.Errorf("append with a clock %v ahead: %v", step, err)
		}
		if n := l.OpenEpoch().Number; n != 0 {
			t.Fatalf("epoch %d was opened by a clock %v ahead", n, step)
		}
	}
	// The clock is right again, and so is the log.
	env.Clock.Set(start.Add(time.Minute))
	appendN(t, l, 0, 1)
	if n := l.OpenEpoch().Number; n != 0 {
		t.Errorf("epoch %d is open, want 0", n)
	}
	// A month without a broker awake isn't a jump, however often it happens.
	for e := range proof.Epoch(3) {
		env.Clock.Advance(31 * 24 * time.Hour)
		appendN(t, l, 0, 1)
		if n := l.OpenEpoch().Number; n != e+1 {
			t.Errorf("epoch %d is open, want %d", n, e+1)
		}
	}
}

// A log with long epochs waits for two of them.
func TestClockAheadByLongEpochs(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	start := time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)
	env.Clock.Set(start)
	cfg := env.Config()
	cfg.Epoch = 90 * 24 * time.Hour
	l := env.OpenWith(cfg)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	env.Clock.Set(start.Add(180*24*time.Hour + time.Second))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("append with a clock more than two epochs ahead: %v", err)
	}
	env.Clock.Set(start.Add(180 * 24 * time.Hour))
	appendN(t, l, 0, 1)
	if n := l.OpenEpoch().Number; n != 1 {
		t.Errorf("epoch %d is open, want 1", n)
	}
}

// At a start it takes the operator's word that the log really stood still so long.
func TestClockAheadAtStart(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	start := time.Date(2026, 3, 1, 10, 30, 0, 0, time.UTC)
	env.Clock.Set(start)
	l := env.Open()
	appendN(t, l, 0, 3)
	env.Close(l)
	size := l.Checkpoint().Size()
	later := start.Add(400 * 24 * time.Hour)
	env.Clock.Set(later)
	_, err := ledger.Open(context.Background(), env.Config())
	if !errors.Is(err, ledger.ErrUnavailable) || !strings.Contains(err.Error(), "ConfirmClock") {
		t.Fatalf("opening 400 days later: %v", err)
	}
	if next, err := env.Store.Next(context.Background()); err != nil || uint64(next) != size {
		t.Errorf("the refused start left the order at %d (%v), want %d", next, err, size)
	}
	cfg := env.Config()
	cfg.ConfirmClock = true
	l = env.OpenWith(cfg)
	appendN(t, l, 0, 1)
	if open := l.OpenEpoch(); open.Number != 1 || !open.Opened.Equal(later) {
		t.Errorf("after a confirmed start: %+v", open)
	}
	// The word was for the start alone.
	env.Clock.Advance(32 * 24 * time.Hour)
	g, _ := ledgertest.Disclosure(ledgertest.Person(1))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("a jump after a confirmed start: %v", err)
	}
	env.Close(l)
	env.Clock.Set(later)
	env.Close(env.Open()) // needs no word any more
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

// An entry that can't be labelled holds the epoch open, and everything else with it: it can't be left out.
func TestUnlabelledEntryHoldsEpoch(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	l := env.Open()
	env.Faults.Arm(ledgertest.CallLabel, ledgertest.Fail, -1)
	appendN(t, l, 0, 3)
	open := l.OpenEpoch()
	env.Clock.Set(open.Until)
	g, _ := ledgertest.Disclosure(ledgertest.Person(5))
	if _, err := l.Append(context.Background(), g); !errors.Is(err, ledger.ErrUnavailable) {
		t.Errorf("append while the epoch can't close: %v", err)
	}
	if l.OpenEpoch().Number != open.Number {
		t.Fatal("the epoch closed without all labels")
	}
	env.Faults.Disarm()
	for {
		if _, err := l.Append(context.Background(), g); err == nil {
			break
		}
	}
	c, err := env.Store.Epoch(context.Background(), open.Number)
	if err != nil || c.Items != 3 {
		t.Errorf("closed epoch %+v, %v", c, err)
	}
}

// Published files are made again from the store when they are lost or damaged, with the same bytes.
func TestPublicationIsRebuilt(t *testing.T) {
	env := ledgertest.New(t)
	l := env.Open()
	appendN(t, l, 0, 300)
	turnEpoch(t, env, l)
	appendN(t, l, 0, 20)
	env.Wait(l)
	env.Close(l)
	before := readTree(t, env.Dir)
	for name, spoil := range map[string]func(){
		"all lost": func() { os.RemoveAll(env.Dir) },
		"a tile damaged": func() {
			name := filepath.Join(env.Dir, "tile/1/000.p/1")
			b, _ := os.ReadFile(name)
			b[0] ^= 1
			if err := os.WriteFile(name, b, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		"a bundle lost": func() { os.RemoveAll(filepath.Join(env.Dir, "tile/entries/001.p")) },
	} {
		spoil()
		l := env.Open()
		appendN(t, l, 0, 1)
		env.Wait(l)
		env.Close(l)
		after := readTree(t, env.Dir)
		for f, data := range before {
			if strings.Contains(f, ".p/") || f == "checkpoint" {
				continue
			}
			if after[f] != data {
				t.Errorf("%s: %s differs or is missing", name, f)
			}
		}
		before = after
		checkWithFsck(t, env)
	}
}

// TestIndexesWaitForTheirSecret: while the keys don't answer nothing is published without the indexes that belong to it, for nobody would make them later. Of an epoch whose secret is destroyed the log goes on without.
func TestIndexesWaitForTheirSecret(t *testing.T) {
	env := ledgertest.New(t)
	l := env.Open()
	var indexes []string
	for range 3 {
		appendN(t, l, 0, 5)
		turnEpoch(t, env, l)
	}
	env.Wait(l)
	env.Close(l)
	for f := range readTree(t, env.Dir) {
		if strings.HasPrefix(f, "index/") {
			indexes = append(indexes, f)
		}
	}
	if err := os.RemoveAll(env.Dir); err != nil {
		t.Fatal(err)
	}
	env.Faults.Arm(ledgertest.CallSeed, ledgertest.Fail, 2)
	l = env.Open()
	env.Wait(l)
	env.Close(l)
	after := readTree(t, env.Dir)
	for _, f := range indexes {
		if after[f] == "" {
			t.Errorf("%s is missing", f)
		}
	}
	if env.Faults.Fired() != 2 || len(indexes) < 3 {
		t.Errorf("%d failures, %d files", env.Faults.Fired(), len(indexes))
	}
	checkWithFsck(t, env)

	if err := os.RemoveAll(env.Dir); err != nil {
		t.Fatal(err)
	}
	cfg := env.Config()
	cfg.Labeler = noSeed{cfg.Labeler}
	l = env.OpenWith(cfg)
	env.Wait(l)
	after = readTree(t, env.Dir)
	if _, err := os.Stat(filepath.Join(env.Dir, "index", "1")); err == nil || after["checkpoint"] == "" || len(after) < 3 {
		t.Errorf("%v, %d files", err, len(after))
	}
}

// noSeed is a Labeler that has no secret of epoch 1 any more.
type noSeed struct{ ledger.Labeler }

func (s noSeed) RollSeed(ctx context.Context, name string, epoch proof.Epoch) ([32]byte, error) {
	if epoch == 1 {
		return [32]byte{}, ledger.ErrLabelsOver
	}
	return s.Labeler.RollSeed(ctx, name, epoch)
}

func readTree(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s has mode %v (%v)", p, info.Mode(), err)
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
