package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Subject names a person or business as the subject of a request does, and as type person those whom only answers identified. It is personal data and redacts itself in fmt.
type Subject struct {
	Type         string     `json:"type"`
	Value        string     `json:"value,omitempty"`
	BirthName    string     `json:"birth_name,omitempty"`
	GivenNames   givenNames `json:"given_names,omitempty"`
	BirthDate    string     `json:"birth_date,omitempty"`
	Sex          string     `json:"sex,omitempty"`
	BirthPlace   string     `json:"birth_place,omitempty"`
	BirthCountry string     `json:"birth_country,omitempty"`
}

// givenNames are one text or a list, in civil order.
type givenNames []string

// UnmarshalJSON implements json.Unmarshaler.
func (g *givenNames) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*g = givenNames{one}
		return nil
	}
	var list []string
	if json.Unmarshal(b, &list) != nil {
		return errors.New("given_names is neither a text nor a list of texts")
	}
	*g = list
	return nil
}

// Format implements fmt.Formatter: every verb shows the type of subject at most.
func (s Subject) Format(f fmt.State, _ rune) { fmt.Fprint(f, "subject:[redacted]") }

// ParseSubject reads the JSON of a subject and checks it. Errors never repeat a value.
func ParseSubject(b []byte) (Subject, error) {
	var s Subject
	if err := decode(b, &s); err != nil {
		return s, bad("", "This is not the JSON of a subject.", `Give one object as in a request's "subject": type and value, or type pivot and birth_name, given_names, birth_date, sex, birth_place, birth_country.`)
	}
	_, err := s.parse()
	return s, err
}

// ParseSubjects reads one subject, or a list of a person's: at most 16, each once.
func ParseSubjects(b []byte) ([]Subject, error) {
	if !bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("[")) {
		s, err := ParseSubject(b)
		return []Subject{s}, err
	}
	var list []json.RawMessage
	if err := decode(b, &list); err != nil || len(list) == 0 || len(list) > 16 {
		return nil, bad("", "This is not a list of subjects.", "Give one to sixteen objects as in a request's \"subject\", in brackets.")
	}
	var out []Subject
	for _, one := range list {
		s, err := ParseSubject(one)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (s *Subject) parse() (proof.Subject, error) {
	pivot := proof.Pivot{
		BirthName: s.BirthName, GivenNames: strings.Join(s.GivenNames, " "), BirthDate: s.BirthDate, Sex: s.Sex, BirthPlace: s.BirthPlace, BirthCountry: s.BirthCountry,
	}
	if s.Type == string(proof.TypePerson) {
		if s.Value != "" || s.BirthPlace != "" || s.BirthCountry != "" {
			return proof.Subject{}, bad("/subject", "A subject of type person has birth_name, given_names, birth_date and sex.", "Leave out the rest, or say type pivot.")
		}
		subject, err := pivot.Person().Subject()
		if err != nil {
			return subject, bad("/subject", "The subject is not valid.", strings.TrimSuffix(err.Error(), ": "+proof.ErrSubject.Error()))
		}
		return subject, nil
	}
	asked, err := service.NewAsked(service.SubjectType(s.Type), s.Value, pivot)
	var wrong *service.RequestError
	if errors.As(err, &wrong) {
		return proof.Subject{}, bad(wrong.Parameter, "The subject is not valid.", wrong.Detail)
	}
	return asked.Subject(), err
}

// HistoryQuery asks for a part of a history.
type HistoryQuery struct {
	Subject Subject `json:"subject"`
	Reason  string  `json:"reason"`
	Limit   int     `json:"limit,omitempty"`  // entries, up to 200; 0 means 50
	Before  uint64  `json:"before,omitempty"` // entries below this log index; 0: the newest
	Kind    string  `json:"kind,omitempty"`   // disclosure, access, erasure or opened; empty: all
}

// History is a part of what the log holds about an identifier, newest first.
type History struct {
	Entries []HistoryEntry `json:"entries"`
	Next    uint64         `json:"next,omitempty"`   // before of the next page
	Lost    []LostRange    `json:"lost,omitempty"`   // where entries about the person may stand whose details a restored backup lost
	Logged  int            `json:"logged"`           // records that were opened, each with an access@v1 entry
	Reader  string         `json:"reader,omitempty"` // as whom
}

// LostRange are log indexes, the last included.
type LostRange struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// HistoryEntry is one entry of a history.
type HistoryEntry struct {
	Index      uint64          `json:"log_index"`
	Kind       string          `json:"kind,omitempty"`
	State      string          `json:"state"` // open, erased, retired, damaged
	Disclosure *DisclosureSeen `json:"disclosure,omitempty"`
	Access     *AccessSeen     `json:"access,omitempty"`
	Erasure    *ErasureSeen    `json:"erasure,omitempty"`
	Delay      *DelaySeen      `json:"delay,omitempty"` // that the entry ended
}

// DelaySeen is a lawful delay that is over.
type DelaySeen struct {
	Authority string    `json:"authority"`
	Article   string    `json:"article"`
	Deferred  uint64    `json:"deferred"`           // log index of the entry that stood there from the beginning
	Month     string    `json:"month"`              // by which it was to end
	OpenedAt  time.Time `json:"opened_at,omitzero"` // when the person could see it
}

// DisclosureSeen is a disclosure as the help desk sees it.
type DisclosureSeen struct {
	ID         string    `json:"id"`
	AskedAt    time.Time `json:"asked_at"`
	Role       string    `json:"role"`
	Agency     string    `json:"agency"`
	Provider   string    `json:"provider"`
	Service    string    `json:"service"`
	Released   []string  `json:"released"`
	Purpose    string    `json:"purpose"`
	LegalBasis string    `json:"legal_basis"`
	Outcome    string    `json:"outcome"`
	Cause      string    `json:"cause,omitempty"`
}

// AccessSeen is a reading of a record.
type AccessSeen struct {
	At     time.Time `json:"at"`
	Reader string    `json:"reader"`
	Role   string    `json:"role"`
	Target uint64    `json:"target"`
	Fields []string  `json:"fields"`
	Reason string    `json:"reason"`
}

// ErasureSeen is an erasure.
type ErasureSeen struct {
	AskedAt  time.Time `json:"asked_at"`
	ErasedAt time.Time `json:"erased_at"`
	Reach    uint64    `json:"reach"`
	Ground   string    `json:"ground"`
}

// ErasureOrder has an identifier erased.
type ErasureOrder struct {
	Subject Subject `json:"subject"`
	Ground  string  `json:"ground"`
}

// Erased answers it.
type Erased struct {
	Index uint64 `json:"log_index"` // of the erasure@v1 entry
	Reach uint64 `json:"reach"`     // greatest log index that it covers
}

func (s *calls) history(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in HistoryQuery
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	subject, err := in.Subject.parse()
	if err != nil {
		return nil, err
	}
	by, err := readerOf(ctx, in.Reason)
	if err != nil {
		return nil, err
	}
	page := broker.HistoryPage{Before: proof.Index(in.Before), Limit: in.Limit}
	if in.Kind != "" {
		page.Kind = proof.Kind(in.Kind + "@v1")
	}
	h, err := s.b.History(ctx, subject, by, page)
	if err != nil {
		return nil, err
	}
	return showHistory(h, by.Reader), nil
}

// HistoryFileQuery asks for a person's complete history, to be given to them.
type HistoryFileQuery struct {
	Subjects []Subject `json:"subjects"` // their identifiers
	Reason   string    `json:"reason"`
	From     uint64    `json:"from,omitempty"` // first epoch
	To       *uint64   `json:"to,omitempty"`   // last epoch; the newest that is closed if it isn't given
}

// HistoryFile answers it.
type HistoryFile struct {
	File    []byte `json:"file"`    // regard/history@v1, as it is to be written to a file
	Entries int    `json:"entries"` // in it, those included that explain others
	Logged  int    `json:"logged"`  // records that were opened, each with an access@v1 entry
	Reader  string `json:"reader"`  // as whom
}

func (s *calls) historyFile(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in HistoryFileQuery
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	var subjects []proof.Subject
	for i := range in.Subjects {
		subject, err := in.Subjects[i].parse()
		if err != nil {
			return nil, err
		}
		subjects = append(subjects, subject)
	}
	by, err := readerOf(ctx, in.Reason)
	if err != nil {
		return nil, err
	}
	epochs := proof.EpochRange{From: proof.Epoch(in.From), To: ledger.NewestEpoch}
	if in.To != nil {
		epochs.To = proof.Epoch(*in.To)
	}
	f, err := s.b.HistoryFileBy(ctx, subjects, epochs, by)
	if err != nil {
		return nil, err
	}
	text, err := f.History.AppendText(nil)
	if err != nil {
		return nil, fmt.Errorf("writing a history: %w", err)
	}
	return HistoryFile{text, len(f.History.Entries), f.Logged, by.Reader}, nil
}

// readerOf says who reads: the user at the other end of the socket.
func readerOf(ctx context.Context, reason string) (broker.AccessBy, error) {
	peer, ok := ctx.Value(peerKey{}).(Peer)
	if !ok || peer.UID < 0 {
		return broker.AccessBy{}, &broker.Problem{Status: 403, Code: "peer.unknown", Title: "Nobody knows who asks.", Detail: "Records are opened for a user of this machine alone, over the administration socket."}
	}
	return broker.AccessBy{Reader: fmt.Sprintf("uid-%d", peer.UID), Role: proof.RoleOperator, Reason: reason}, nil
}

func showHistory(h *broker.History, reader string) History {
	out := History{Entries: []HistoryEntry{}, Next: uint64(h.Next), Logged: h.Logged, Reader: reader}
	for _, l := range h.Lost {
		out.Lost = append(out.Lost, LostRange{uint64(l.From), uint64(l.To) - 1})
	}
	for _, e := range h.Entries {
		kind, _, _ := strings.Cut(string(e.Kind), "@")
		v := HistoryEntry{Index: uint64(e.Index), Kind: kind, State: string(e.State)}
		if d := e.Disclosure; d != nil {
			v.Disclosure = &DisclosureSeen{d.ID, d.AskedAt, d.Role, d.Agency, d.Provider, d.Service, append([]string{}, d.Released...), d.Purpose, d.LegalBasis, d.Outcome, d.Cause}
		}
		if a := e.Access; a != nil {
			v.Access = &AccessSeen{a.At, a.Reader, a.Role, uint64(a.Target), a.Fields, a.Reason}
		}
		if x := e.Erasure; x != nil {
			v.Erasure = &ErasureSeen{x.AskedAt, x.ErasedAt, uint64(x.Reach), x.Ground}
		}
		if d := e.Delay; d != nil {
			v.Delay = &DelaySeen{d.Authority, d.Article, uint64(d.Deferred), d.Month, d.OpenedAt}
		}
		out.Entries = append(out.Entries, v)
	}
	return out
}

func (s *calls) erase(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in ErasureOrder
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	subject, err := in.Subject.parse()
	if err != nil {
		return nil, err
	}
	// The caller's hanging up must not leave an erasure half done.
	e, err := s.b.Erase(context.WithoutCancel(ctx), subject, in.Ground)
	return Erased{uint64(e.Index), uint64(e.Reach)}, err
}
