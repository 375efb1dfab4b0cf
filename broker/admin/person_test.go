package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
)

type historian struct {
	fake
	subject proof.Subject
	by      broker.AccessBy
	page    broker.HistoryPage
	ground  string
	epochs  proof.EpochRange
}

func (h *historian) History(_ context.Context, s proof.Subject, by broker.AccessBy, page broker.HistoryPage) (*broker.History, error) {
	h.subject, h.by, h.page = s, by, page
	return &broker.History{Next: 3, Logged: 1, Entries: []broker.HistoryEntry{
		{Index: 5, Kind: proof.KindDisclosure, State: broker.HistoryOpen, Disclosure: &broker.DisclosureSeen{Agency: "mairie"}},
		{Index: 4, Kind: proof.KindAccess, State: broker.HistoryErased},
		{Index: 3, State: broker.HistoryDamaged},
	}}, nil
}

func (h *historian) Erase(_ context.Context, s proof.Subject, ground string) (broker.Erasure, error) {
	h.subject, h.ground = s, ground
	return broker.Erasure{Index: 9, Reach: 8}, nil
}

const camille = `{"type": "pivot", "birth_name": "Martin", "given_names": ["Camille", "Zoé"], "birth_date": "1990-01-31", "sex": "F", "birth_place": "75056", "birth_country": "99100"}`

func TestHistoryIsReadByTheUserAtTheOtherEnd(t *testing.T) {
	h := &historian{}
	handler, err := Handler(Config{Broker: h, Status: func(context.Context) Status { return Status{} }})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	s, err := Listen(path, handler, nil)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve()                           //nolint:errcheck // ends with Shutdown
	defer s.Shutdown(context.Background()) //nolint:errcheck // the test is over
	subject, err := ParseSubject([]byte(camille))
	if err != nil {
		t.Fatal(err)
	}
	c := NewClient(path)
	got, err := c.History(t.Context(), HistoryQuery{Subject: subject, Reason: "call", Limit: 7, Before: 6, Kind: "disclosure"})
	if err != nil {
		t.Fatal(err)
	}
	uid := fmt.Sprintf("uid-%d", os.Getuid())
	if d := cmp.Diff(broker.AccessBy{Reader: uid, Role: "operator", Reason: "call"}, h.by); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(broker.HistoryPage{Before: 6, Limit: 7, Kind: proof.KindDisclosure}, h.page); d != "" {
		t.Error(d)
	}
	want := History{Next: 3, Logged: 1, Reader: uid, Entries: []HistoryEntry{
		{Index: 5, Kind: "disclosure", State: "open", Disclosure: &DisclosureSeen{Agency: "mairie", Released: []string{}}}, {Index: 4, Kind: "access", State: "erased"}, {Index: 3, State: "damaged"},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if h.subject.Value() != "MARTIN|CAMILLE ZOE|1990-01-31|F|75056|99100" {
		t.Error("the subject is not the one that was given")
	}
	e, err := c.Erase(t.Context(), ErasureOrder{Subject: subject, Ground: "rgpd-17"})
	if err != nil || e != (Erased{9, 8}) || h.ground != "rgpd-17" {
		t.Errorf("%+v, %v, ground %q", e, err, h.ground)
	}
}

// Over any other listener nobody knows who reads: nothing is read.
func TestHistoryNeedsAPeer(t *testing.T) {
	h := &historian{}
	handler, err := Handler(Config{Broker: h, Status: func(context.Context) Status { return Status{} }})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("POST", "/history", strings.NewReader(`{"reason": "r", "subject": `+camille+`}`)))
	if w.Code != 403 || !h.subject.IsZero() {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestSubjects(t *testing.T) {
	for in, want := range map[string]string{
		camille: "pivot MARTIN|CAMILLE ZOE|1990-01-31|F|75056|99100",
		`{"type": "pivot", "birth_name": "Martin", "given_names": "Camille", "birth_country": "99100"}`:          "pivot MARTIN|CAMILLE||||99100",
		`{"type": "person", "birth_name": "Martin", "given_names": "Camille", "birth_date": "1990", "sex": "F"}`: "person MARTIN|CAMILLE|1990|F",
		`{"type": "siret", "value": "13002526500013"}`:                                                           "siren 130025265",
		`{"type": "nir", "value": "190017505600112"}`:                                                            "",
		`{"type": "nir", "value": "1", "birth_name": "Martin"}`:                                                  "",
		`{"type": "pivot", "value": "Martin"}`:                                                                   "",
		`{"type": "person", "birth_name": "Martin", "birth_place": "75056"}`:                                     "",
		`{"type": "person", "value": "Martin"}`:                                                                  "",
		`{"type": "person"}`:                                                                                     "",
		`{"type": "Martin"}`:                                                                                     "",
		`{"birth_name": "Martin"}`:                                                                               "",
		`{"type": "pivot", "birth_name": "Martin", "given_names": 7}`:                                            "",
		`{"type": "pivot", "Martin": ""}`:                                                                        "",
		`{"type": "nir", "value": "190017505600112"} {}`:                                                         "",
		`"Martin"`: "",
		``:         "",
	} {
		s, err := ParseSubject([]byte(in))
		if (err == nil) != (want != "") {
			t.Errorf("%s: %v", in, err)
			continue
		}
		if err != nil {
			p := broker.AsProblem(err)
			if text := p.Title + p.Detail + p.Parameter + p.Error(); p.Status != 400 || strings.Contains(text, "Martin") || strings.Contains(text, "190017505600112") {
				t.Errorf("%s: %d %s", in, p.Status, text)
			}
			continue
		}
		subject, err := s.parse()
		if got := string(subject.Type()) + " " + subject.Value(); err != nil || got != want {
			t.Errorf("%s: %s, want %s (%v)", in, got, want, err)
		}
		q := HistoryQuery{Subject: s, Reason: "r"}
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			if text := fmt.Sprintf(verb, s) + fmt.Sprintf(verb, q) + fmt.Sprintf(verb, &q); strings.Contains(text, "Martin") {
				t.Errorf("%s shows %s", verb, text)
			}
		}
	}
}

func (h *historian) HistoryFileBy(_ context.Context, s []proof.Subject, epochs proof.EpochRange, by broker.AccessBy) (*broker.HistoryFile, error) {
	h.subject, h.by, h.epochs = s[len(s)-1], by, epochs
	return nil, &broker.Problem{Status: 404, Code: "history.open", Title: "These epochs are not all closed and published."}
}

// TestHistoryFileIsAskedBySomebody: subjects, epochs and reader arrive as they were given, and the broker's word comes back.
func TestHistoryFileIsAskedBySomebody(t *testing.T) {
	h := &historian{}
	handler, err := Handler(Config{Broker: h, Status: func(context.Context) Status { return Status{} }})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	s, err := Listen(path, handler, nil)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve()                           //nolint:errcheck // ends with Shutdown
	defer s.Shutdown(context.Background()) //nolint:errcheck // the test is over
	subjects, err := ParseSubjects([]byte(` [` + camille + `, {"type": "siren", "value": "130025265"}]`))
	if err != nil || len(subjects) != 2 {
		t.Fatal(err)
	}
	to := uint64(9)
	var refused *Error
	if _, err := NewClient(path).HistoryFile(t.Context(), HistoryFileQuery{Subjects: subjects, Reason: "desk", From: 3, To: &to}); !errors.As(err, &refused) || refused.Code != "history.open" {
		t.Error(err)
	}
	if h.subject.Value() != "130025265" || h.epochs != (proof.EpochRange{From: 3, To: 9}) || h.by != (broker.AccessBy{Reader: fmt.Sprintf("uid-%d", os.Getuid()), Role: "operator", Reason: "desk"}) {
		t.Errorf("%+v %+v", h.epochs, h.by)
	}
	// Over another listener nobody knows who reads.
	h.subject = proof.Subject{}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("POST", "/history/file", strings.NewReader(`{"reason": "r", "subjects": [`+camille+`]}`)))
	if w.Code != 403 || !h.subject.IsZero() {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, bad := range []string{`[]`, `[1]`, `[` + strings.Repeat(camille+",", 16) + camille + `]`, `[{"type": "nir", "value": "190017505600112"}]`} {
		if _, err := ParseSubjects([]byte(bad)); err == nil || strings.Contains(err.Error(), "190017505600112") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if one, err := ParseSubjects([]byte(camille)); err != nil || len(one) != 1 {
		t.Error(err)
	}
}
