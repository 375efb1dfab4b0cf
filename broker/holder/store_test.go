package holder

import (
	"database/sql"
	"log/slog"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// TestStoreThatSaidWitnessed: a store of before called witnessed what was signed, where that was enough. What was witnessed stays so when a policy that doesn't demand it is used, too.
func TestStoreThatSaidWitnessed(t *testing.T) {
	for name, x := range map[string]struct {
		demands []bool // of those who opened it, in order: whether the log's signature is enough
		want    State
		due     bool
	}{
		"of before":                        {[]bool{true}, Signed, false},
		"of before, with witnesses":        {[]bool{false}, Witnessed, false},
		"with witnesses, and then without": {[]bool{false, true}, Witnessed, false},
		"without, and then with":           {[]bool{true, false}, Signed, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			open := func() *Store {
				s, err := OpenStore(t.Context(), dir, RoleAgency)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := open()
			if err := s.do("noting", func(tx *sql.Tx) error {
				_, err := tx.Exec("INSERT INTO held (id, at, service, state, due) VALUES ('id', 1000, 's', ?, 0)", int(Witnessed))
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for _, signedIsEnough := range x.demands {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s = open()
				if err := s.demand(signedIsEnough); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
			defer s.Close()
			st, err := s.Status(t.Context())
			if err != nil || st.Counts[x.want] != 1 || st.OldestUnproven.IsZero() == x.due {
				t.Errorf("%+v, %v", st, err)
			}
		})
	}
}

// TestRefutedStays: receipts that were on their way when something was refuted, or accepted by hand, don't take that back.
func TestRefutedStays(t *testing.T) {
	s, err := OpenStore(t.Context(), t.TempDir(), RoleProvider)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	is := func(want State) {
		t.Helper()
		if h, err := s.held(t.Context(), "id"); err != nil || h.State != want {
			t.Fatalf("%+v, %v, want %s", h, err, want)
		}
	}
	x := exchange{disclosure: "id", service: "s", at: now, question: proof.Hash{1}}
	if err := s.answered(&x); err != nil {
		t.Fatal(err)
	}
	advance := func(to State) {
		t.Helper()
		if err := s.advance("id", progress{state: to}, now, now); err != nil {
			t.Fatal(err)
		}
	}
	advance(Witnessed)
	is(Witnessed)
	// A part of the answer, and a further question that isn't answered, change nothing; a second one does.
	part, unknown, second := x, x, x
	part.question, part.said.Part = proof.Hash{2}, true
	unknown.question, unknown.unidentified = proof.Hash{3}, true
	for _, x := range []*exchange{&part, &unknown} {
		if err := s.answered(x); err != nil {
			t.Fatal(err)
		}
		is(Witnessed)
	}
	second.question, second.intent = proof.Hash{4}, []byte("regard/intent@v1")
	if err := s.answered(&second); err != errTwice {
		t.Fatal(err)
	}
	is(Refuted)
	advance(Settled)
	is(Refuted)
	if err := s.Accept("id", "looked into"); err != nil {
		t.Fatal(err)
	}
	advance(Settled)
	is(Accepted)
	if err := s.refuted("id", errTwice, now, nil); err != nil {
		t.Fatal(err)
	}
	is(Accepted)
}

// TestLookAtOldState: what the store said before a refutation doesn't end the refusal.
func TestLookAtOldState(t *testing.T) {
	s, err := OpenStore(t.Context(), t.TempDir(), RoleProvider)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := watch{log: slog.New(slog.DiscardHandler)}
	if err := w.times.defaults(); err != nil {
		t.Fatal(err)
	}
	before := Status{} // as a look read it
	w.refuted()
	w.update(before, time.Now())
	if code := w.refusing(time.Now()); code != AlarmRefuted {
		t.Errorf("%q", code)
	}
	if err := w.look(t.Context(), s, time.Now); err != nil {
		t.Fatal(err)
	}
	if code := w.refusing(time.Now()); code != "" {
		t.Errorf("after a look at a store without any: %q", code)
	}
}
