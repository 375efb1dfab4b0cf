package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
)

type registrar struct {
	fake
	calls []string
}

func (r *registrar) note(format string, args ...any) {
	r.calls = append(r.calls, fmt.Sprintf(format, args...))
}

func values(list []proof.Subject) (out []string) {
	for _, s := range list {
		out = append(out, string(s.Type())+" "+s.Value())
	}
	return out
}

func (r *registrar) SetAgencyAddresses(_ context.Context, id, contact, dpo string) error {
	r.note("addresses %s %s %s", id, contact, dpo)
	return r.err
}

func (r *registrar) AllContests(_ context.Context, state string, after store.ID, limit int) (*broker.ContestPage, error) {
	r.note("contests %q %x %d", state, after[:1], limit)
	return &broker.ContestPage{Next: store.ID{9}, Contests: []broker.Contest{{ID: store.ID{8}, Agency: "mairie", State: "open", Overdue: true, Text: "secret", Filed: time.Unix(1, 0).UTC(), Due: time.Unix(2, 0).UTC()}}}, r.err
}

func (r *registrar) AddHold(_ context.Context, s []proof.Subject, basis, reference string, until time.Time) (store.ID, error) {
	r.note("hold %v %s %s %d", values(s), basis, reference, until.Unix())
	return store.ID{1}, r.err
}

func (r *registrar) Holds(context.Context) ([]broker.Hold, error) {
	return []broker.Hold{{ID: store.ID{1}, Basis: "b", Reference: "r", Identifiers: 2, Since: time.Unix(1, 0).UTC(), Over: true}}, r.err
}

func (r *registrar) RemoveHold(_ context.Context, id store.ID) error {
	r.note("remove %x", id[:1])
	return r.err
}

func (r *registrar) GrantDelegation(_ context.Context, g broker.Grant) (store.ID, error) {
	r.note("grant %s %v to %v for %s, %d to %d", g.Kind, values(g.Subjects), values([]proof.Subject{g.Delegate}), g.Evidence, g.Since.Unix(), g.Until.Unix())
	return store.ID{2}, r.err
}

func (r *registrar) Delegations(_ context.Context, before store.ID) ([]broker.Delegation, error) {
	r.note("delegations %x", before[:1])
	return []broker.Delegation{{ID: store.ID{2}, Kind: broker.Guardian, Identifiers: 1, Granted: time.Unix(1, 0).UTC(), Since: time.Unix(1, 0).UTC(), InForce: true}}, r.err
}

func (r *registrar) EndDelegation(_ context.Context, id store.ID) error {
	r.note("end %x", id[:1])
	return r.err
}

func id(n byte) string { return fmt.Sprintf("%02x000000-0000-0000-0000-000000000000", n) }

func TestCitizens(t *testing.T) {
	r, log := &registrar{}, &output.Buffer{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	h, err := Handler(Config{Broker: r, Status: func(context.Context) Status { return Status{} }, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	s, err := Listen(path, h, nil)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve()                           //nolint:errcheck // ends with Shutdown
	defer s.Shutdown(context.Background()) //nolint:errcheck // the test is over
	c := NewClient(path)
	ctx := t.Context()
	subject, err := ParseSubject([]byte(camille))
	if err != nil {
		t.Fatal(err)
	}
	parties, err := ParseParties([]byte(`{"delegate": ` + camille + `, "subjects": [{"type": "siret", "value": "13002526500013"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	day := time.Unix(86400, 0).UTC()
	if d, err := c.SetAgencyAddresses(ctx, "mairie", AgencyAddresses{"a@b.fr", ""}); err != nil || d.ID != "mairie" {
		t.Error(d, err)
	}
	page, err := c.Contests(ctx, "overdue", id(7), 9)
	want := Contests{Next: id(9), Contests: []Contest{{ID: id(8), Disclosure: id(0), Agency: "mairie", State: "open", Overdue: true, Filed: time.Unix(1, 0).UTC(), Due: time.Unix(2, 0).UTC()}}}
	if d := cmp.Diff(want, page); d != "" || err != nil {
		t.Error(d, err)
	}
	if d, err := c.AddHold(ctx, NewHold{Subjects: []Subject{subject}, Basis: "b", Reference: "r", Until: day}); err != nil || d.ID != id(1) {
		t.Error(d, err)
	}
	holds, err := c.Holds(ctx)
	if d := cmp.Diff([]Hold{{ID: id(1), Basis: "b", Reference: "r", Identifiers: 2, Since: time.Unix(1, 0).UTC(), Over: true}}, holds); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, err := c.RemoveHold(ctx, id(1)); err != nil {
		t.Error(err)
	}
	if d, err := c.GrantDelegation(ctx, NewDelegation{Kind: "representative", Delegate: parties.Delegate, Subjects: parties.Subjects, Evidence: "RNE", Since: day, Until: day.Add(time.Second)}); err != nil || d.ID != id(2) {
		t.Error(d, err)
	}
	list, err := c.Delegations(ctx, id(3))
	if d := cmp.Diff([]Delegation{{ID: id(2), Kind: "guardian", Identifiers: 1, Granted: time.Unix(1, 0).UTC(), Since: time.Unix(1, 0).UTC(), InForce: true}}, list); d != "" || err != nil {
		t.Error(d, err)
	}
	if _, err := c.EndDelegation(ctx, id(2)); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff([]string{
		"addresses mairie a@b.fr ", `contests "overdue" 07 9`, "hold [pivot MARTIN|CAMILLE ZOE|1990-01-31|F|75056|99100] b r 86400", "remove 01",
		"grant representative [siren 130025265] to [pivot MARTIN|CAMILLE ZOE|1990-01-31|F|75056|99100] for RNE, 86400 to 86401", "delegations 03", "end 02",
	}, r.calls); d != "" {
		t.Error(d)
	}
	// Ids of another form, and what the broker refuses.
	r.calls = nil
	for what, err := range map[string]error{
		"contests": second(c.Contests(ctx, "", "x", 0)), "remove": second(c.RemoveHold(ctx, "x")), "end": second(c.EndDelegation(ctx, strings.ToUpper(id(0xab)))), "delegations": second(c.Delegations(ctx, "x")),
	} {
		var e *Error
		if !errors.As(err, &e) || e.Status != 400 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if len(r.calls) != 0 {
		t.Errorf("%v", r.calls)
	}
	r.err = &broker.Problem{Status: 409, Code: "erasure.in_progress", Title: "Too late."}
	for what, err := range map[string]error{
		"hold": second(c.AddHold(ctx, NewHold{Subjects: []Subject{subject}})), "holds": second(c.Holds(ctx)), "remove": second(c.RemoveHold(ctx, id(1))), "addresses": second(c.SetAgencyAddresses(ctx, "a", AgencyAddresses{})),
		"grant": second(c.GrantDelegation(ctx, NewDelegation{Delegate: subject})), "list": second(c.Delegations(ctx, "")), "end": second(c.EndDelegation(ctx, id(2))), "contests": second(c.Contests(ctx, "", "", 0)),
	} {
		var e *Error
		if !errors.As(err, &e) || e.Code != "erasure.in_progress" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if strings.Contains(log.String(), "MARTIN") {
		t.Error("a person stands in the log")
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"delegate": ` + camille + `}`, `{"delegate": {"type": "pivot", "birth_name": "Martin"}, "subjects": 7}`, `{"delegate": ` + camille + `, "subjects": []}`, `{"delegate": ` + camille + `, "subjects": [` + camille + `], "more": 1}`} {
		_, err := ParseParties([]byte(bad))
		if p := broker.AsProblem(err); err == nil || p.Status != 400 || strings.Contains(p.Title+p.Detail, "Martin") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
