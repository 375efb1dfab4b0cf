package monitor_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/monitor"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// scene is a log, and a monitor of it with a clock.
type scene struct {
	*ledgertest.Published
	t    *testing.T
	now  time.Time
	dir  string
	cfg  monitor.Config
	mon  *monitor.Monitor
	last monitor.Status
}

func newScene(t *testing.T, more ...reader.Source) *scene {
	t.Helper()
	s := &scene{Published: ledgertest.NewPublished(t), t: t, now: ledgertest.Month.Add(time.Hour), dir: t.TempDir()}
	s.Now = func() time.Time { return s.now }
	s.Govern()
	s.Disclose(10)
	s.Sign()
	s.cfg = monitor.Config{Sources: append([]reader.Source{source(t, s.Dir)}, more...), Policy: s.Policy, Dir: s.dir, Now: s.Now}
	s.open()
	t.Cleanup(func() { s.mon.Close() })
	return s
}

func source(t testing.TB, place string) reader.Source {
	t.Helper()
	src, err := reader.Open(place, reader.Options{Timeout: time.Second, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func (s *scene) open() {
	s.t.Helper()
	var err error
	if s.mon, err = monitor.Open(s.cfg); err != nil {
		s.t.Fatal(err)
	}
}

// restart opens the monitor again, as after kill -9: nothing is said to it.
func (s *scene) restart() { s.t.Helper(); s.mon.Close(); s.open() }

// look looks and returns which alarms there are, sorted.
func (s *scene) look() []monitor.Code {
	s.t.Helper()
	st, err := s.mon.Look(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	s.last = st
	return codes(st)
}

func codes(st monitor.Status) []monitor.Code {
	var out []monitor.Code
	for _, a := range st.Alarms {
		if !slices.Contains(out, a.Code) {
			out = append(out, a.Code)
		}
	}
	slices.Sort(out)
	return out
}

func (s *scene) want(when string, want ...monitor.Code) {
	s.t.Helper()
	slices.Sort(want)
	if got := s.look(); !slices.Equal(got, want) {
		s.t.Errorf("%s: %v, want %v: %+v", when, got, want, s.last.Alarms)
	}
}

// day lets a day pass: the epoch is closed on time and the witnesses cosign.
func (s *scene) day() {
	s.t.Helper()
	s.Disclose(300)
	s.now = s.Open().Until.Time()
	s.Turn()
	s.now = s.now.Add(time.Minute)
	s.Sign()
}

// A log that keeps its promises raises no alarm, over many days and restarts of the monitor, and each entry is followed once.
func TestQuiet(t *testing.T) {
	s := newScene(t)
	s.want("at first")
	for i := range 5 {
		s.day()
		s.want(fmt.Sprintf("day %d", i))
		if s.last.Size != s.Size() || s.last.Epoch != uint64(i+1) || !s.last.Witnessed || len(s.last.Events) > 0 {
			t.Errorf("%+v", s.last)
		}
		s.restart()
	}
	s.want("nothing new")
}

// The real ledger is quiet, too.
func TestRealLog(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.NewInMemory(t)
	env.Clock.Early()
	l := env.Open()
	told, err := env.Labeler.Told(env.Clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(ctx, ledger.Group{Entries: []proof.Entry{told, proof.KeyChanged{Key: "checkpoint.1", Use: proof.UseCheckpoint, State: proof.Active, Public: proof.Hash{1}}}}); err != nil {
		t.Fatal(err)
	}
	env.Wait(l)
	m, err := monitor.Open(monitor.Config{Sources: []reader.Source{source(t, env.Dir)}, Policy: env.Policy, Dir: t.TempDir(), Now: env.Clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for range 3 {
		g, openings := ledgertest.Disclosure(ledgertest.Person(1))
		a, err := l.Append(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ledger.FreshReceipt(a, 0, openings[0])
		if err != nil {
			t.Fatal(err)
		}
		env.Wait(l)
		if err := m.Hear(r.Checkpoint()); err != nil {
			t.Fatal(err)
		}
		if st, err := m.Look(ctx); err != nil || len(st.Alarms) > 0 {
			t.Fatalf("%+v %v", st, err)
		}
		env.Clock.Set(l.OpenEpoch().Until)
	}
}

// branch is another history under the same keys.
func (s *scene) branch(n int) *ledgertest.Published {
	q := ledgertest.NewPublished(s.t)
	q.Signer, q.Witnesses, q.Policy, q.Now = s.Signer, s.Witnesses, s.Policy, s.Now
	q.Disclose(n)
	q.Sign()
	return q
}

// evidence demands that the two checkpoints of a fork are kept.
func (s *scene) evidence(roots ...proof.Hash) {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "evidence", "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	kept := map[proof.Hash]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			s.t.Fatal(err)
		}
		cp, err := proof.VerifyCheckpoint(b, s.Policy)
		if err != nil {
			s.t.Fatal(err)
		}
		kept[cp.Root()] = true
	}
	for _, r := range roots {
		if !kept[r] {
			s.t.Errorf("no evidence of root %s in %v", r, files)
		}
	}
}

func checkpoint(t testing.TB, p *ledgertest.Published) proof.Checkpoint {
	t.Helper()
	cp, err := reader.Checkpoint(t.Context(), source(t, p.Dir), p.Policy)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// A fork is found wherever it shows: at the log itself, between two mirrors, in a receipt that somebody else got. The evidence is kept, and the alarm stands, also when the log comes back.
func TestFork(t *testing.T) {
	t.Run("the log", func(t *testing.T) {
		s := newScene(t)
		s.look()
		ours := checkpoint(t, s.Published)
		q := s.branch(600)
		good := s.Dir
		s.cfg.Sources = []reader.Source{source(t, q.Dir)}
		s.restart()
		if st, err := s.mon.Look(t.Context()); err == nil || !slices.Equal(codes(st), []monitor.Code{monitor.Fork}) || st.Size != ours.Size() {
			t.Fatalf("%+v %v", st, err)
		}
		s.evidence(ours.Root(), checkpoint(t, q).Root())
		s.cfg.Sources = []reader.Source{source(t, good)}
		s.restart()
		s.day()
		s.want("the log came back", monitor.Fork)
		if st := s.last; st.Size != s.Size() || len(st.Events) > 0 {
			t.Errorf("%+v", st)
		}
	})
	for name, n := range map[string]int{"longer": 600, "shorter": 5} {
		t.Run("a mirror, "+name, func(t *testing.T) {
			s := newScene(t)
			s.want("alone")
			q := s.branch(n)
			s.cfg.Sources = append(s.cfg.Sources, source(t, q.Dir))
			s.restart()
			s.want("with the other", monitor.Fork)
			s.evidence(checkpoint(t, s.Published).Root(), checkpoint(t, q).Root())
			s.day()
			s.want("it is followed all the same", monitor.Fork)
			if s.last.Size != s.Size() {
				t.Errorf("followed to %d", s.last.Size)
			}
		})
	}
	t.Run("at the first look", func(t *testing.T) {
		s := newScene(t)
		q := s.branch(5)
		s.cfg.Sources = append(s.cfg.Sources, source(t, q.Dir))
		s.restart()
		s.want("both", monitor.Fork)
		s.evidence(checkpoint(t, s.Published).Root(), checkpoint(t, q).Root())
	})
	t.Run("the empty tree is of every history", func(t *testing.T) { // a log signs it when it asks its witnesses first
		s := newScene(t)
		s.look()
		if err := s.mon.Hear(s.Checkpoint(0, sha256.Sum256(nil))); err != nil {
			t.Fatal(err)
		}
		s.want("heard of")
	})
	t.Run("a receipt", func(t *testing.T) {
		s := newScene(t)
		s.look()
		q := s.branch(5)
		theirs := checkpoint(t, q)
		if err := s.mon.Hear(theirs.Note()); err != nil {
			t.Fatal(err)
		}
		s.restart()
		s.want("heard of", monitor.Fork)
		s.evidence(checkpoint(t, s.Published).Root(), theirs.Root())
	})
}

// A checkpoint that somebody was shown and that isn't published: an alarm after a while, which ends when it is published.
func TestHidden(t *testing.T) {
	s := newScene(t)
	s.want("at first")
	old := checkpoint(t, s.Published)
	s.Disclose(5)
	shown := s.Sign()
	if err := tiles.WriteFile(s.Dir, "checkpoint", old.Note()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.mon.Hear(shown.Note()); err != nil {
			t.Fatal(err)
		}
	}
	s.want("at once")
	s.now = s.now.Add(11 * time.Minute)
	s.restart()
	s.want("later", monitor.Hidden)
	s.Sign()
	s.want("published")
	if len(s.last.Events) != 1 || s.last.Events[0].Event != "cleared" {
		t.Errorf("%+v", s.last.Events)
	}
	if err := s.mon.Hear([]byte("x")); err == nil {
		t.Error("what is no checkpoint is heard")
	}
}

// A larger tree whose files can't be read is kept: it is an alarm after a while, and is compared as soon as the log is as large, also when the place that served it is gone.
func TestLargerUnreadable(t *testing.T) {
	setup := func(t *testing.T, n int) (*scene, *ledgertest.Published) {
		s := newScene(t)
		s.want("alone")
		q := s.branch(n)
		p := newPlace(t, q.Dir)
		p.set(below(""))
		s.from(source(t, s.Dir), p.source)
		s.want("at once")
		return s, q
	}
	t.Run("it stays", func(t *testing.T) {
		s, q := setup(t, 600)
		s.now = s.now.Add(11 * time.Minute)
		s.restart()
		s.want("later", monitor.Hidden, monitor.Unreachable)
		for range 3 { // it grows there
			q.Disclose(1)
			q.Sign()
			s.now = s.now.Add(11 * time.Minute)
			s.want("still", monitor.Hidden, monitor.Unreachable)
			if len(s.last.Events) > 0 || s.last.Size != s.Size() {
				t.Errorf("%+v", s.last)
			}
		}
	})
	t.Run("it is gone", func(t *testing.T) {
		s, q := setup(t, 20)
		s.from(source(t, s.Dir))
		s.day()
		s.want("the log is larger", monitor.Fork)
		s.evidence(checkpoint(t, s.Published).Root(), checkpoint(t, q).Root())
	})
	t.Run("there are very many", func(t *testing.T) { // what places serve leaves room for what is given
		s := newScene(t)
		s.look()
		s.mon.Close()
		var notes []any
		for i := range uint64(500) {
			notes = append(notes, map[string]any{"note": string(s.Checkpoint(1000+i, proof.Hash{1})), "since": s.now, "place": "https://mirror.example"})
		}
		s.edit(func(state map[string]any) { state["heard"] = notes })
		p := newPlace(t, s.branch(600).Dir)
		p.set(below(""))
		s.from(source(t, s.Dir), p.source)
		s.want("one more")
		if err := s.mon.Hear(s.Checkpoint(2000, proof.Hash{1})); err != nil {
			t.Error(err)
		}
		s.edit(func(state map[string]any) {
			if n := len(state["heard"].([]any)); n != 501 {
				t.Errorf("%d are kept", n)
			}
		})
	})
	t.Run("it is as large, and read in part", func(t *testing.T) {
		s := newScene(t)
		q := s.branch(0)
		q.Disclose(int(s.Size() - q.Size()))
		q.Sign()
		fork, log := newPlace(t, q.Dir), newPlace(t, s.Dir)
		fork.set(below("tile/entries"))
		log.set(below("tile/entries"))
		s.from(fork.source, log.source)
		if got := s.blind(); !slices.Equal(got, []monitor.Code{monitor.Fork}) {
			t.Errorf("neither can be read: %v", got)
		}
		log.set(up)
		s.now = s.now.Add(11 * time.Minute)
		s.want("the log can be read", monitor.Fork, monitor.Unreachable)
		if !s.last.Witnessed || s.last.Size != s.Size() {
			t.Errorf("%+v", s.last)
		}
		s.want("again", monitor.Fork, monitor.Unreachable)
	})
	t.Run("two places serve another history alone, and one of them not to be read", func(t *testing.T) {
		s := newScene(t)
		s.look()
		q := s.branch(0)
		q.Disclose(int(s.Size()-q.Size()) + 3)
		q.Sign()
		whole, part := newPlace(t, q.Dir), newPlace(t, q.Dir)
		part.set(below(""))
		s.from(whole.source, part.source)
		if got := s.blind(); !slices.Equal(got, []monitor.Code{monitor.Fork}) {
			t.Errorf("%v", got)
		}
		s.restart()
		if got := s.blind(); !slices.Equal(got, []monitor.Code{monitor.Fork}) {
			t.Errorf("again: %v", got)
		}
	})
	t.Run("it was the only place", func(t *testing.T) {
		s := newScene(t)
		s.look()
		q := s.branch(20)
		p := newPlace(t, q.Dir)
		p.set(below(""))
		s.from(p.source)
		s.blind()
		s.from(source(t, s.Dir))
		s.day()
		s.want("the log is back", monitor.Fork)
		s.evidence(checkpoint(t, s.Published).Root(), checkpoint(t, q).Root())
	})
	t.Run("its entries can't be read", func(t *testing.T) {
		s := newScene(t)
		s.look()
		old := t.TempDir()
		if err := os.CopyFS(old, os.DirFS(s.Dir)); err != nil {
			t.Fatal(err)
		}
		p := newPlace(t, s.Dir)
		p.set(below("tile/entries"))
		s.from(p.source, source(t, old))
		s.Disclose(20)
		s.Sign()
		s.want("at once")
		s.now = s.now.Add(11 * time.Minute)
		s.want("later", monitor.Hidden, monitor.Unreachable)
		p.set(up)
		s.want("it is read")
	})
}

// A log that serves an older tree everywhere.
func TestRollback(t *testing.T) {
	s := newScene(t)
	old := checkpoint(t, s.Published)
	s.day()
	s.want("at first")
	now := checkpoint(t, s.Published)
	if err := tiles.WriteFile(s.Dir, "checkpoint", old.Note()); err != nil {
		t.Fatal(err)
	}
	if st, err := s.mon.Look(t.Context()); err == nil || !slices.Equal(codes(st), []monitor.Code{monitor.Rollback}) || st.Size != now.Size() {
		t.Errorf("%+v %v", st, err)
	}
	if err := tiles.WriteFile(s.Dir, "checkpoint", now.Note()); err != nil {
		t.Fatal(err)
	}
	s.want("it is back")
}

// An alarm that time brings about is raised once and cleared once.
func TestStalled(t *testing.T) {
	s := newScene(t)
	s.want("at first")
	s.now = s.Open().Until.Time().Add(9 * time.Minute)
	s.want("tolerated")
	s.now = s.now.Add(2 * time.Minute)
	s.want("overdue", monitor.Stalled)
	if len(s.last.Events) != 1 {
		t.Errorf("%+v", s.last.Events)
	}
	for range 3 {
		s.now = s.now.Add(time.Minute)
		s.restart()
		s.want("still", monitor.Stalled)
		if len(s.last.Events) != 0 {
			t.Errorf("it is said again: %+v", s.last.Events)
		}
	}
	s.TurnAt(proof.TimeOf(s.now))
	s.now = s.now.Add(time.Minute)
	s.Sign()
	s.want("it goes on, late", monitor.EpochLate)
	if len(s.last.Events) != 2 {
		t.Errorf("%+v", s.last.Events)
	}
}

// An epoch that is to last for years would let every verdict wait as long; a month is what the configuration of a broker allows.
func TestEpochLong(t *testing.T) {
	s := newScene(t)
	s.want("at first")
	lasts := func(d time.Duration) {
		s.Mark = func(m *proof.Marker) { m.Until = m.Opened + proof.Time(d/time.Millisecond) }
	}
	lasts(proof.MaxEpoch)
	s.day()
	s.want("a month")
	lasts(100 * 365 * 24 * time.Hour)
	s.day()
	s.want("a century", monitor.EpochLong)
	if a := s.last.Alarms; len(a) != 1 || a[0].Place != "epoch 2" || !a[0].Standing {
		t.Errorf("%+v", a)
	}
	s.now = s.now.Add(time.Hour)
	s.restart()
	s.want("an hour later", monitor.EpochLong)
	if len(s.last.Events) > 0 {
		t.Errorf("it is said again: %+v", s.last.Events)
	}
	s.dir = t.TempDir()
	s.cfg.Dir = s.dir
	s.restart()
	s.want("a monitor that begins now", monitor.EpochLong)
	s.mon.Close()
	s.edit(func(state map[string]any) { state["book"] = map[string]any{} })
	s.open()
	s.want("one of which an earlier version read the marker", monitor.EpochLong)
}

func TestQuorum(t *testing.T) {
	s := newScene(t)
	s.SignWith(s.Witnesses[0])
	s.want("at first")
	for range 3 { // growth doesn't start the time anew
		s.now = s.now.Add(5 * time.Minute)
		s.Disclose(1)
		s.SignWith(s.Witnesses[0])
		s.look()
	}
	s.want("after 15 minutes", monitor.NoQuorum)
	s.now = s.now.Add(time.Minute)
	s.SignWith(s.Witnesses[0], s.Witnesses[2])
	s.want("it is back")
	for range 10 { // each look sees a tree that isn't covered yet, and all before it are
		s.now = s.now.Add(8 * time.Minute)
		s.Disclose(1)
		s.Sign()
		s.look()
		s.Disclose(1)
		s.SignWith(s.Witnesses[0])
		s.want("in turns")
	}
}

func TestWitnessSilent(t *testing.T) {
	s := newScene(t)
	s.want("at first")
	s.now = s.now.Add(2 * time.Hour)
	s.SignWith(s.Witnesses[:2]...)
	s.want("one is missing", monitor.WitnessSilent)
	if a := s.last.Alarms[0]; a.Place != "witness2.example" {
		t.Errorf("%+v", a)
	}
	s.Sign()
	s.want("it is back")
}

// A mirror that stands still serves for ever what a witness cosigned once.
func TestWitnessSilentBesideOldMirror(t *testing.T) {
	s := newScene(t)
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(s.Dir)); err != nil {
		t.Fatal(err)
	}
	s.from(source(t, s.Dir), source(t, old))
	s.want("at first")
	s.now = s.now.Add(2 * time.Hour)
	s.want("nothing new to cosign")
	for range 3 {
		s.now = s.now.Add(30 * time.Minute)
		s.Disclose(1)
		s.SignWith(s.Witnesses[:2]...)
		s.look()
	}
	s.want("one is missing", monitor.WitnessSilent)
	s.restart()
	s.Sign()
	s.want("it is back")
}

// A witness that the policy names and that never cosigned is missed, too.
func TestWitnessNeverSeen(t *testing.T) {
	s := newScene(t)
	s.SignWith(s.Witnesses[:2]...)
	s.want("at first")
	s.now = s.now.Add(2 * time.Hour)
	s.SignWith(s.Witnesses[:2]...)
	s.want("later", monitor.WitnessSilent)
}

// Clocks: the log's, a witness's, the monitor's own.
func TestClocks(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(s *scene)
		want []monitor.Code
	}{
		"a marker of a time that hasn't come": {func(s *scene) { s.TurnAt(s.Open().Until); s.Sign() }, []monitor.Code{monitor.MarkerAhead, monitor.WitnessClock}},
		"a marker that is back-dated": {func(s *scene) {
			u := s.Open().Until
			s.now = u.Time().Add(8 * time.Minute)
			s.look()
			s.TurnAt(u)
			s.Sign()
		}, []monitor.Code{monitor.MarkerBehind}},
		"an epoch that is closed early": {func(s *scene) { s.now = s.now.Add(time.Hour); s.TurnAt(proof.TimeOf(s.now)); s.Sign() }, []monitor.Code{monitor.EpochEarly}},
		"a witness ahead":               {func(s *scene) { now := s.now; s.now = now.Add(time.Hour); s.Sign(); s.now = now }, []monitor.Code{monitor.WitnessClock}},
		"a witness behind":              {func(s *scene) { now := s.now; s.now = now.Add(-2 * time.Hour); s.Sign(); s.now = now }, []monitor.Code{monitor.WitnessClock}},
		"the monitor's own":             {func(s *scene) { s.now = s.now.Add(-10 * time.Minute); s.Sign() }, []monitor.Code{monitor.OwnClock}},
		"within the tolerance": {func(s *scene) {
			s.now = s.Open().Until.Time().Add(-4 * time.Minute)
			s.TurnAt(s.Open().Until)
			s.Sign()
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.want("at first")
			tt.do(s)
			s.want("then", tt.want...)
		})
	}
}

// A marker isn't back-dated because it was made while the log couldn't be read, and a mirror that stood still could. One that is back-dated beside a mirror that is away is found all the same, as the log grows.
func TestMarkerOfUnreadableLog(t *testing.T) {
	setup := func(t *testing.T) (*scene, *place, *place) {
		s := newScene(t)
		s.now = s.Open().Until.Time().Add(-10 * time.Minute)
		s.Sign()
		old := t.TempDir()
		if err := os.CopyFS(old, os.DirFS(s.Dir)); err != nil {
			t.Fatal(err)
		}
		log, mirror := newPlace(t, s.Dir), newPlace(t, old)
		s.from(log.source, mirror.source)
		s.want("at first")
		return s, log, mirror
	}
	all := func(string) bool { return true }
	for name, down := range map[string]func(string) bool{"the log is away": all, "its files are": below("")} {
		t.Run(name, func(t *testing.T) {
			s, log, _ := setup(t)
			log.set(down)
			s.Disclose(1)
			for range 9 {
				s.now = s.now.Add(time.Minute)
				s.Sign()
				s.look()
				s.restart()
			}
			s.now = s.Open().Until.Time()
			s.Turn()
			for range 9 {
				s.now = s.now.Add(time.Minute)
				s.Sign()
				s.look()
			}
			log.set(up)
			s.want("it is back")
		})
	}
	t.Run("the mirror is away", func(t *testing.T) {
		s, _, mirror := setup(t)
		mirror.set(all)
		until := s.Open().Until
		for range 20 {
			s.now = s.now.Add(time.Minute)
			s.Disclose(1)
			s.Sign()
			s.look()
		}
		s.TurnAt(until)
		s.Sign()
		s.want("back-dated", monitor.MarkerBehind, monitor.Unreachable)
	})
}

// What breaks the rules of entries is an alarm under the code of fsck, once, and stands until it is acknowledged.
func TestEntries(t *testing.T) {
	for name, tt := range map[string]struct {
		do   func(s *scene)
		want fsck.Code
	}{
		"malformed":        {func(s *scene) { s.Raw([]byte("x")) }, fsck.EntryMalformed},
		"unknown":          {func(s *scene) { s.Raw([]byte("regard/later@v1\nepoch 0\n")) }, fsck.EntryUnknown},
		"of another epoch": {func(s *scene) { s.Raw([]byte("regard/later@v1\nepoch 1\n")); s.look() }, fsck.EntryEpoch},
		"a skipped epoch":  {func(s *scene) { s.day(); s.Mark = func(m *proof.Marker) { m.Epoch++ }; s.day(); s.Mark = nil }, fsck.MarkerOrder},
		"a restart": {func(s *scene) {
			cp := s.Sign()
			s.Append(proof.Restart{Reason: "restored", Size: cp.Size(), Root: cp.Root()})
		}, fsck.RestartSeen},
		"a restart of none": {func(s *scene) { s.Append(proof.Restart{Reason: "restored", Size: 3, Root: proof.Hash{1}}) }, fsck.RestartRoot},
		"another index":     {func(s *scene) { s.Mark = func(m *proof.Marker) { m.Closed.Index[0] ^= 1 }; s.day(); s.Mark = nil }, fsck.IndexRoot},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t)
			s.want("at first")
			tt.do(s)
			s.Sign()
			if got := s.look(); !slices.Contains(got, monitor.Code(tt.want)) {
				t.Fatalf("%+v", s.last.Alarms)
			}
			n := s.last.Active()
			for range 2 {
				s.restart()
				s.look()
				if len(s.last.Events) > 0 || s.last.Active() != n {
					t.Errorf("%+v", s.last)
				}
			}
			for _, a := range s.last.Alarms {
				if a.What == "" || a.Do == "" || a.Place == "" || a.Severity != monitor.Describe(a.Code).Severity {
					t.Errorf("%+v", a)
				}
				if err := monitor.Acknowledge(s.dir, "nobody@knows", a.Key()); err != nil {
					t.Fatal(err)
				}
			}
			s.look()
			if s.last.Active() != 0 || len(s.last.Alarms) == 0 {
				t.Errorf("after it was acknowledged: %+v", s.last.Alarms)
			}
		})
	}
}

// What may come yet is looked at again: a blob, an index, the end of a delay.
func TestMended(t *testing.T) {
	s := newScene(t)
	h := s.Blob([]byte("a bundle of later"))
	blob := filepath.Join(s.Dir, filepath.FromSlash(fsck.BlobName(h)))
	if err := os.Remove(blob); err != nil {
		t.Fatal(err)
	}
	d := s.Append(proof.Deferred{Authority: "parquet", Article: "11 CPP", Month: "2026-03", Commitment: proof.Commitment{6}})
	s.Append(proof.PolicyActivated{Revision: "r2", Bundle: h})
	s.Sign()
	s.want("a blob is missing", monitor.Code(fsck.GovernanceBlob))
	s.Blob([]byte("a bundle of later"))
	s.restart()
	s.want("it came")
	s.day()
	index := filepath.Join(s.Dir, "index", "0", "tile", "entries")
	if err := os.Rename(index, index+"-away"); err != nil {
		t.Fatal(err)
	}
	s.want("an index is missing", monitor.Code(fsck.IndexMissing))
	if err := os.Rename(index+"-away", index); err != nil {
		t.Fatal(err)
	}
	s.want("it came")
	for s.Open().Opened.Time().Before(ledgertest.Month.AddDate(0, 1, 0)) {
		s.day()
	}
	s.want("a month later", monitor.Code(fsck.DeferredOverdue))
	s.Append(proof.Opened{Deferred: d, Commitment: proof.Commitment{6}})
	s.Sign()
	s.want("it ended, late", monitor.Code(fsck.DeferredOverdue))
	if len(s.last.Events) != 2 {
		t.Errorf("%+v", s.last.Events)
	}
}

// Places that can't be read, that are damaged, that have something else.
func TestPlaces(t *testing.T) {
	var answer atomic.Pointer[http.HandlerFunc]
	place := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }))
	defer place.Close()
	s := newScene(t, source(t, place.URL))
	set := func(h http.HandlerFunc) { answer.Store(&h) }
	good := http.HandlerFunc(tiles.Handler(s.Dir).ServeHTTP)
	set(good)
	s.want("both")
	set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	s.want("down for a moment")
	s.now = s.now.Add(11 * time.Minute)
	s.Sign()
	s.want("down", monitor.Unreachable)
	if s.last.Places[1].Problem == "" || s.last.Places[0].Size != s.Size() {
		t.Errorf("%+v", s.last.Places)
	}
	set(good)
	s.want("up")
	set(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>\x1b[2J") })
	s.want("something else", monitor.Invalid)
	if strings.ContainsRune(s.last.Places[1].Problem, '\x1b') {
		t.Error("it steers the terminal")
	}
	other := ledgertest.NewPublished(t)
	other.Sign()
	set(tiles.Handler(other.Dir).ServeHTTP)
	s.want("another log", monitor.Invalid)
	// The larger tree is damaged: it is followed at the other place.
	set(good)
	s.Disclose(300)
	s.Sign()
	set(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/tile") {
			w.Write(make([]byte, 32))
			return
		}
		good(w, r)
	})
	s.cfg.Sources[0], s.cfg.Sources[1] = s.cfg.Sources[1], s.cfg.Sources[0]
	s.restart()
	s.want("damaged", monitor.Damaged)
	if s.last.Size != s.Size() {
		t.Errorf("%+v", s.last)
	}
	// None can be read: nothing is said of the log, and its alarms stay as they are.
	s.now = s.Open().Until.Time().Add(time.Hour)
	s.Sign()
	set(good)
	s.want("overdue", monitor.Stalled)
	dir := s.Dir + "-away"
	if err := os.Rename(filepath.Join(s.Dir, "checkpoint"), dir); err != nil {
		t.Fatal(err)
	}
	set(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if st, err := s.mon.Look(t.Context()); !errors.Is(err, monitor.ErrBlind) || !slices.Equal(codes(st), []monitor.Code{monitor.Stalled}) {
		t.Errorf("%+v %v", st, err)
	}
}

// place serves a log's directory over HTTP, but for the files that down says can't be read now.
type place struct {
	source reader.Source
	down   atomic.Pointer[func(path string) bool]
}

func newPlace(t *testing.T, dir string) *place {
	t.Helper()
	p := &place{}
	p.set(func(string) bool { return false })
	files := tiles.Handler(dir)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (*p.down.Load())(r.URL.Path) {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.source = source(t, server.URL)
	return p
}

func (p *place) set(down func(path string) bool) { p.down.Store(&down) }

// below is down for all files whose names begin so; the empty one is for all but the checkpoint.
func below(prefix string) func(string) bool {
	return func(path string) bool { return path != "/checkpoint" && strings.HasPrefix(path, "/"+prefix) }
}

func up(string) bool { return false }

// from changes the places that the monitor asks.
func (s *scene) from(places ...reader.Source) { s.t.Helper(); s.cfg.Sources = places; s.restart() }

// blind looks and returns which alarms there are; the log can't be followed.
func (s *scene) blind() []monitor.Code {
	s.t.Helper()
	st, err := s.mon.Look(s.t.Context())
	if err == nil {
		s.t.Fatalf("it is followed: %+v", st)
	}
	s.last = st
	return codes(st)
}

// A log that serves its checkpoint and nothing else is away, and what time brings about is said all the same.
func TestCheckpointAlone(t *testing.T) {
	s := newScene(t)
	p := newPlace(t, s.Dir)
	s.from(p.source)
	s.want("at first")
	p.set(below(""))
	s.Disclose(1)
	s.SignWith()
	if got := s.blind(); len(got) > 0 || s.last.Places[0].Problem == "" {
		t.Errorf("at once: %+v", s.last)
	}
	s.now = s.now.Add(11 * time.Minute)
	s.restart()
	if got, want := s.blind(), []monitor.Code{monitor.NoQuorum, monitor.Unreachable}; !slices.Equal(got, want) {
		t.Errorf("later: %v, want %v", got, want)
	}
	s.now = s.Open().Until.Time().Add(11 * time.Minute)
	if got, want := s.blind(), []monitor.Code{monitor.Stalled, monitor.NoQuorum, monitor.Unreachable, monitor.WitnessSilent}; !slices.Equal(got, want) {
		t.Errorf("after the epoch's end: %v, want %v", got, want)
	}
	p.set(up)
	s.Sign()
	s.want("it is back", monitor.Stalled)
}

// A mirror that can't be read in part doesn't keep the monitor from following the log elsewhere; the alarm goes on as long as the file can't be read, also when no other look needs it.
func TestPartlyReadable(t *testing.T) {
	for _, part := range []string{"tile", "tile/entries", "index", "blob"} {
		t.Run(part, func(t *testing.T) {
			s := newScene(t)
			p := newPlace(t, s.Dir)
			s.from(p.source, source(t, s.Dir))
			s.want("at first")
			p.set(below(part))
			s.Append(proof.PolicyActivated{Revision: "r2", Bundle: s.Blob([]byte("a bundle of later"))})
			s.day()
			s.want("down for a moment")
			if s.last.Size != s.Size() || s.last.Places[0].Problem == "" || s.last.Places[1].Problem != "" {
				t.Errorf("%+v", s.last)
			}
			s.restart()
			for range 2 {
				s.now = s.now.Add(6 * time.Minute)
				s.look()
			}
			s.want("down", monitor.Unreachable)
			p.set(up)
			s.want("up")
		})
	}
}

// Endless faults don't fill the state, and the monitor says that there are more.
func TestManyAlarms(t *testing.T) {
	s := newScene(t)
	for range 5000 {
		s.Raw([]byte("x"))
	}
	s.Sign()
	s.want("all malformed", monitor.Code(fsck.EntryMalformed))
	if n := len(s.last.Alarms); n != 101 {
		t.Errorf("%d alarms", n)
	}
	if info, err := os.Stat(filepath.Join(s.dir, "state.json")); err != nil || info.Size() > 100_000 {
		t.Errorf("%v %v", info, err)
	}
}

// What comes after a hundred alarms that were acknowledged is said like the first.
func TestMoreAlarms(t *testing.T) {
	s := newScene(t)
	s.want("at first")
	add := func(n int) (raised int) {
		for range n {
			s.Raw([]byte("x"))
		}
		s.Sign()
		s.want("malformed", monitor.Code(fsck.EntryMalformed))
		for _, e := range s.last.Events {
			if e.Event == "raised" {
				raised++
			}
		}
		return raised
	}
	acknowledge := func(is func(monitor.Alarm) bool) {
		var keys []string
		for _, a := range s.last.Alarms {
			if is(a) {
				keys = append(keys, a.Key())
			}
		}
		if err := monitor.Acknowledge(s.dir, keys...); err != nil {
			t.Fatal(err)
		}
	}
	if n := add(150); n != 101 {
		t.Errorf("%d raised of 150", n)
	}
	acknowledge(func(monitor.Alarm) bool { return true })
	if n := add(1); n != 1 || s.last.Active() != 1 {
		t.Errorf("%d raised, %d active after all were acknowledged", n, s.last.Active())
	}
	if n := add(150); n != 100 || s.last.Active() != 101 { // 99 by themselves, and that there are more
		t.Errorf("%d raised, %d active", n, s.last.Active())
	}
	acknowledge(func(a monitor.Alarm) bool { return a.Place == "more" })
	if n := add(0); n != 0 || s.last.Active() != 100 {
		t.Errorf("%d raised by nothing new, %d active", n, s.last.Active())
	}
	if n := add(2); n != 1 || s.last.Active() != 101 {
		t.Errorf("%d raised, %d active after it was acknowledged that there are more", n, s.last.Active())
	}
}

// What is looked at again, and is one of more than are listed, isn't said at each look.
func TestMoreThatMayEnd(t *testing.T) {
	s := newScene(t)
	for i := range 130 {
		s.Append(proof.Deferred{Authority: "parquet", Article: "11 CPP", Month: "2026-03", Commitment: proof.Commitment{1, byte(i)}})
	}
	s.now = s.now.AddDate(0, 2, 0)
	s.Sign()
	s.want("overdue", monitor.Code(fsck.DeferredOverdue), monitor.Stalled)
	if n := s.last.Active(); n != 102 {
		t.Errorf("%d active", n)
	}
	if err := monitor.Acknowledge(s.dir, "deferred.overdue@more"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		s.restart()
		s.look()
		if n := s.last.Active(); n != 101 || len(s.last.Events) > 0 {
			t.Errorf("%d active, %+v", n, s.last.Events)
		}
	}
}

// A monitor that is cut off at any time goes on where it was, and the first look at a long log is saved on the way.
func TestCutOff(t *testing.T) {
	s := newScene(t)
	s.Disclose(80_000)
	s.Sign()
	for i := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i*40)*time.Millisecond)
		_, _ = s.mon.Look(ctx)
		cancel()
		s.restart()
	}
	s.want("at last")
	if s.last.Size != s.Size() {
		t.Error(s.last.Size)
	}
}

// A state that is damaged, in use, or another log's is refused.
func TestState(t *testing.T) {
	s := newScene(t)
	s.look()
	if _, err := monitor.Open(s.cfg); err == nil {
		t.Error("two monitors share a state")
	}
	s.mon.Close()
	file := filepath.Join(s.dir, "state.json")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{"cut": string(good[:len(good)/2]), "empty": "", "another version": strings.Replace(string(good), "@v1", "@v2", 1), "another place": strings.Replace(string(good), `"next":`, `"next":9`, 1)} {
		if err := os.WriteFile(file, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := monitor.Open(s.cfg); err == nil {
			m.Close()
			t.Errorf("%s: it is used", name)
		}
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*monitor.Config){
		"no place": func(c *monitor.Config) { c.Sources = nil }, "a place twice": func(c *monitor.Config) { c.Sources = append(c.Sources, c.Sources[0]) }, "no policy": func(c *monitor.Config) { c.Policy = nil },
		"another log of the same name": func(c *monitor.Config) { c.Policy = ledgertest.NewPublished(t).Policy },
		"a short secret":               func(c *monitor.Config) { c.Webhook = &monitor.Webhook{URL: "http://x/", Secret: []byte("short")} },
		"no address":                   func(c *monitor.Config) { c.Webhook = &monitor.Webhook{URL: "x", Secret: make([]byte, 32)} },
	} {
		cfg := s.cfg
		cfg.Sources = slices.Clone(cfg.Sources)
		change(&cfg)
		if m, err := monitor.Open(cfg); err == nil {
			m.Close()
			t.Errorf("%s: it is opened", name)
		}
	}
	s.open()
}

// edit changes the state of a monitor that is closed.
func (s *scene) edit(change func(state map[string]any)) {
	s.t.Helper()
	file := filepath.Join(s.dir, "state.json")
	b, err := os.ReadFile(file)
	if err != nil {
		s.t.Fatal(err)
	}
	var state map[string]any
	if err := json.Unmarshal(b, &state); err != nil {
		s.t.Fatal(err)
	}
	change(state)
	if b, err = json.Marshal(state); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// The state of an earlier version is taken up, and says as much as it did then.
func TestEarlierState(t *testing.T) {
	s := newScene(t)
	s.now = s.Open().Until.Time().Add(8 * time.Minute)
	s.Sign()
	s.want("at first")
	s.mon.Close()
	s.edit(func(state map[string]any) {
		for _, later := range []string{"newest", "cosigned", "unread"} {
			delete(state, later)
		}
		state["away"] = map[string]any{"https://mirror.example": s.now}
		state["heard"] = []any{map[string]any{"note": string(checkpoint(t, s.Published).Note()), "since": s.now}}
	})
	s.open()
	s.TurnAt(s.Open().Until)
	s.Sign()
	s.want("a marker that is back-dated", monitor.MarkerBehind)
}

// The webhook gets every event once and in order, signed; what it doesn't take is sent later, also after kill -9.
func TestWebhook(t *testing.T) {
	secret := []byte(strings.Repeat("s", 32))
	var up atomic.Bool
	var got []monitor.Event
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.Method != http.MethodPost || r.Header.Get("Regard-Signature") != monitor.Sign(secret, r.Header.Get("Regard-Timestamp"), body) {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		if !up.Load() {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		var e monitor.Event
		if err := json.Unmarshal(body, &e); err != nil {
			t.Error(err)
		}
		got = append(got, e)
	}))
	defer hook.Close()
	s := newScene(t)
	s.cfg.Webhook = &monitor.Webhook{URL: hook.URL, Secret: secret, Pause: time.Millisecond}
	s.restart()
	s.look()
	s.Raw([]byte("x"))
	s.now = s.Open().Until.Time().Add(time.Hour)
	s.Sign()
	s.look()
	if err := s.mon.Deliver(t.Context()); err == nil || len(got) > 0 {
		t.Fatalf("%v %+v", err, got)
	}
	s.restart()
	s.look()
	up.Store(true)
	for range 2 {
		if err := s.mon.Deliver(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(got) != 2 || got[0].Code != monitor.Code(fsck.EntryMalformed) || got[1].Code != monitor.Stalled || got[0].Event != "raised" || got[0].Log != ledgertest.Origin || got[1].Do == "" {
		t.Errorf("%+v", got)
	}
}

// Run looks, tells and ends with its context.
func TestRun(t *testing.T) {
	s := newScene(t)
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	s.mon.Run(ctx, time.Millisecond, func(st monitor.Status, err error) {
		if n++; n == 3 {
			cancel()
		}
		if err != nil || st.Size != s.Size() {
			t.Errorf("%+v %v", st, err)
		}
	})
	if n != 3 {
		t.Errorf("%d looks", n)
	}
}

func TestMetrics(t *testing.T) {
	s := newScene(t)
	s.look()
	s.now = s.Open().Until.Time().Add(time.Hour)
	s.Sign()
	s.look()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(s.mon.Collector())
	w := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, want := range []string{
		fmt.Sprintf("regard_monitor_log_size %d\n", s.Size()), "regard_monitor_open_epoch 0\n", `regard_monitor_alarms{code="log.stalled",severity="critical"} 1`, "regard_monitor_followed_timestamp_seconds 1.7",
		`regard_monitor_witness_seen_timestamp_seconds{witness="witness0.example"}`, "regard_monitor_events_lost_total 0\n", fmt.Sprintf("regard_monitor_place_size{place=%q} %d\n", s.Dir, s.Size()),
	} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("no %s in\n%s", want, w.Body)
		}
	}
	if w.Code != http.StatusOK {
		t.Error(w.Code)
	}
}

// Every code says what it means and what to do.
func TestCodes(t *testing.T) {
	for c := range monitor.Codes {
		if _, twice := fsck.Codes[fsck.Code(c)]; twice {
			t.Errorf("%s has two meanings", c)
		}
	}
	for c := range fsck.Codes {
		if info := monitor.Describe(monitor.Code(c)); info.Means == "" || info.Do == "" {
			t.Errorf("%s: %+v", c, info)
		}
	}
	for c, info := range monitor.Codes {
		if info.Means == "" || info.Do == "" || info.Severity == "" {
			t.Errorf("%s: %+v", c, info)
		}
	}
}
