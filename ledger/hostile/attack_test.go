package hostile_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
)

// An attack is one way to cheat, and who notices.
type attack struct {
	name  string // what the operator does, as the table says it
	cheat func(*scene)
	rows  []row
}

// A row is one detector on one attack. It looks at each moment of the days, and at what the cheat left it must accuse from the moment in after on and not before, with what
// wants says.
type row struct {
	who, tool string
	detector  *detector
	// presupposes is what this detector takes for granted on every attack.
	presupposes string
	after       moment
	wants       string // what the accusation says
	assuming    string // what more it takes on this one
	// not is the reason why this detector never accuses; after is then never.
	not string
}

// A detector is set up before the first day, so that it can remember, and returns what looks: nil accuses nobody.
type detector struct {
	setUp func(*scene) (look func() error)
}

// each is a detector that remembers nothing.
func each(look func(*scene) error) *detector {
	return &detector{func(s *scene) func() error { return func() error { return look(s) } }}
}

// accusation is what a command said when its exit code wasn't 0.
type accusation struct {
	command string
	code    int
	said    string
}

func (a *accusation) Error() string {
	return fmt.Sprintf("%s: exit code %d: %s", a.command, a.code, a.said)
}

// regardAudit runs the command as a person would.
func regardAudit(args ...string) error {
	var out, errs strings.Builder
	if code := audit.Main(args, strings.NewReader(""), &out, &errs); code != audit.Proven {
		return &accusation{"regard-audit " + args[0], code, out.String() + errs.String()}
	}
	return nil
}

// TestAttacks plays the days with each cheat, under the eyes of all its detectors.
func TestAttacks(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, a.cheat)
			looks := make([]func() error, len(a.rows))
			for i, r := range a.rows {
				looks[i] = r.detector.setUp(s)
			}
			s.play(func() {
				for i, r := range a.rows {
					r.judge(t, s.at, looks[i]())
				}
			})
		})
	}
}

// TestHonest is the control: the same days without a cheat, under the eyes of every detector there is.
func TestHonest(t *testing.T) {
	t.Parallel()
	s := newScene(t, nil)
	looks, names := map[*detector]func() error{}, map[*detector]string{}
	for _, a := range attacks {
		for _, r := range a.rows {
			if looks[r.detector] == nil {
				looks[r.detector], names[r.detector] = r.detector.setUp(s), r.who+" with "+r.tool
			}
		}
	}
	s.play(func() {
		for d, look := range looks {
			if err := look(); err != nil {
				t.Errorf("%s: %s accuses an honest operator: %v", s.at.after(), names[d], err)
			}
		}
	})
}

func (r row) judge(t *testing.T, at moment, err error) {
	t.Helper()
	name := at.after() + ": " + r.who + " with " + r.tool + ": "
	switch {
	case at < r.after && err != nil:
		t.Errorf("%saccuses before the table says so (%s): %v", name, r.after.after(), err)
	case at >= r.after && err == nil:
		t.Errorf("%sdoesn't notice", name)
	case at >= r.after && !strings.Contains(err.Error(), r.wants):
		t.Errorf("%saccuses of something else: %v; want %q", name, err, r.wants)
	}
}

// verify runs regard-audit verify on the receipt of the deed, when there is one to be had.
func verify(reader proof.Reader) *detector {
	return each(func(s *scene) error {
		if s.at < atOnce {
			return nil
		}
		o := s.holders()
		if reader == proof.ReaderPerson {
			o = s.person()
		}
		r := o.Receipt(s.income, reader)
		return regardAudit("verify", "--policy", s.policy, s.write("income.receipt", must(r.AppendText(nil))))
	})
}

// maxAge is how old a root may be for the readers of these tests.
const maxAge = 30 * time.Hour

// history runs regard-audit verify-history on the complete history that a person gets of all closed epochs.
func history(who func(*scene) proof.Subject) *detector {
	return each(func(s *scene) error {
		return regardAudit("verify-history", "--policy", s.policy, s.write("history.regard.json", s.history(s.person(), who(s))))
	})
}

func (s *scene) history(o *hostile.Operator, about proof.Subject) []byte {
	s.t.Helper()
	text, err := o.History(about, 0, o.Current().Number-1).AppendText(nil)
	s.ok(err)
	return text
}

// stale verifies Alice's history as verify-history --max-age does, by the time of the days.
func stale(s *scene) error {
	_, err := s.verifyHistory(maxAge)
	return err
}

// erasures verifies Alice's history, which must hold, and compares it with what she knows: that she never asked for an erasure.
func erasures(s *scene) error {
	v, err := s.verifyHistory(0)
	if err != nil {
		return err
	}
	if n := v.Count(proof.RecordErased) + v.Count(proof.RecordErasing); n > 0 {
		return fmt.Errorf("%d records are erased, and I didn't ask for that", n)
	}
	return nil
}

// overdue is what a person's history says of delays, whomever they are about.
func overdue(s *scene) error {
	v, err := s.verifyHistory(0)
	if err == nil && v.Deferrals.Overdue > 0 {
		err = fmt.Errorf("%d delays are overdue", v.Deferrals.Overdue)
	}
	return err
}

// compare gives verify-history the history that Alice gets, and one that she gets by another way.
func compare(s *scene) error {
	another := s.write("another.regard.json", s.history(s.o, s.alice))
	return regardAudit("verify-history", "--policy", s.policy, "--compare", another, s.write("history.regard.json", s.history(s.person(), s.alice)))
}

// checkKept checks the log as it is served against the checkpoint of the receipt that a holder has.
func checkKept(s *scene) error {
	if s.at < atOnce {
		return nil
	}
	kept := s.write("kept.checkpoint", s.holders().Receipt(s.income, proof.ReaderAgency).Checkpoint())
	return regardAudit("fsck", s.publish(), "--policy", s.policy, "--checkpoint", kept, "--json")
}

func (s *scene) verifyHistory(maxAge time.Duration) (*proof.HistoryVerdict, error) {
	h := must(proof.ParseHistory(s.history(s.person(), s.alice)))
	v, err := h.Verify(must(proof.ParsePolicy(s.policyText)), proof.HistoryOptions{Now: proof.TimeOf(s.now()), MaxAge: maxAge})
	return &v, err
}

// check runs regard-audit fsck on the whole log as it is served.
func check(s *scene) error {
	return regardAudit("fsck", s.publish(), "--policy", s.policy, "--json")
}

// publish writes what the public is served at the moment to a directory, once.
func (s *scene) publish() string {
	s.t.Helper()
	dir := filepath.Join(s.dir, "public", fmt.Sprint(s.at))
	if !s.published[s.at] {
		s.ok(s.public().WriteTo(dir))
		s.published[s.at] = true
	}
	return dir
}

// TestRowsAreComplete keeps the table honest: a row that accuses says what and when, one that doesn't says why.
func TestRowsAreComplete(t *testing.T) {
	var problems []error
	for _, a := range attacks {
		for _, r := range a.rows {
			detected := r.after != never
			if r.who == "" || r.tool == "" || r.presupposes == "" || r.detector == nil || r.after == before || (r.wants != "") != detected || (r.not == "") != detected {
				problems = append(problems, fmt.Errorf("%s: the row of %s with %s isn't complete", a.name, r.who, r.tool))
			}
		}
		if a.cheat == nil || !slices.ContainsFunc(a.rows, func(r row) bool { return r.after != never }) {
			problems = append(problems, fmt.Errorf("%s: nobody notices", a.name))
		}
	}
	if err := errors.Join(problems...); err != nil {
		t.Error(err)
	}
}
