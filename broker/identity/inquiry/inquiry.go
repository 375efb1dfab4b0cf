// Package inquiry asks the body that holds an identifier whether it is a person's, through the broker, as any agency asks.
//
// What it guarantees. Each question is a disclosure of the portal's own agency, under an agreement, decided by the policy and recorded in the log; it stands in the history of whom it was about,
// whatever the answer. Yes means that the body named the person's birth name, given names and birth date, and whatever else the rule compares, beside that identifier; or that identifier beside the person.
// Nothing of the answer is kept or handed on.
//
// What it doesn't. Where a body states no more than names and birth date, a homonym born on the same day who knows the identifier is confirmed, too.
package inquiry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/ledger/proof"
)

// A Rule says how identifiers of one type are checked.
type Rule struct {
	Service, Agreement, Purpose, LegalBasis string
	Scopes                                  []string
	// Identifier is the pointer (RFC 6901) of the identifier in an answer about the person, who is asked about by pivot identity. If it is empty the identifier is asked about, and the pointers below say
	// where the answer states whose it is; the first three are mandatory then.
	Identifier                                                 string
	BirthName, GivenNames, BirthDate, BirthPlace, BirthCountry string
}

// Config of Inquiries.
type Config struct {
	Broker *broker.Broker
	// Agency is the id of the portal's own agency, which has the agreements. It may be registered later.
	Agency string
	Rules  map[proof.SubjectType]Rule
}

// Inquiries checks identifiers; it satisfies identity.Checker.
type Inquiries struct{ cfg Config }

// New checks the rules, but not whether services and agreements are there: they may be registered later.
func New(cfg Config) (*Inquiries, error) {
	if cfg.Broker == nil || !proof.IsToken(cfg.Agency) {
		return nil, errors.New("inquiry: a broker and the id of the portal's agency must be given")
	}
	for typ, r := range cfg.Rules {
		if err := r.Check(); err != nil {
			return nil, fmt.Errorf("inquiry: the rule for %s: %w", typ, err)
		}
	}
	return &Inquiries{cfg}, nil
}

// Check says what is wrong with a rule.
func (r *Rule) Check() error {
	for name, v := range map[string]string{"service": r.Service, "purpose": r.Purpose, "legal_basis": r.LegalBasis} {
		if !proof.IsToken(v) {
			return fmt.Errorf("%s is missing, or not a token", name)
		}
	}
	if r.Agreement != "" && !proof.IsToken(r.Agreement) {
		return errors.New("agreement is not a token")
	}
	if len(r.Scopes) == 0 {
		return errors.New("scopes are missing")
	}
	stated := []string{r.BirthName, r.GivenNames, r.BirthDate, r.BirthPlace, r.BirthCountry}
	if r.Identifier != "" {
		if strings.Join(stated, "") != "" {
			return errors.New("identifier and the fields of a person exclude each other")
		}
		stated = []string{r.Identifier}
	} else if slices.Contains(stated[:3], "") {
		return errors.New("birth_name, given_names and birth_date are needed, or identifier")
	}
	for _, p := range stated {
		if p != "" && (p[0] != '/' || len(p) < 2) {
			return errors.New("a pointer doesn't begin with /")
		}
	}
	return nil
}

// Checks lists the types that can be checked.
func (q *Inquiries) Checks() []proof.SubjectType { return slices.Sorted(maps.Keys(q.cfg.Rules)) }

// Check asks whether an identifier is the person's. An error says that nobody knows.
func (q *Inquiries) Check(ctx context.Context, person proof.Pivot, id proof.Subject) (bool, error) {
	r, ok := q.cfg.Rules[id.Type()]
	if !ok {
		return false, fmt.Errorf("inquiry: no rule for %s", id.Type())
	}
	caller, err := q.caller()
	if err != nil {
		return false, err
	}
	req := &broker.Request{
		Service: r.Service, Scopes: r.Scopes, Agreement: r.Agreement, Purpose: r.Purpose, LegalBasis: r.LegalBasis, Recipient: caller.SIRET,
		Context: "Rattachement d'un identifiant à son espace, à la demande de la personne", Object: "Rattachement d'un identifiant",
		Subject: broker.SubjectInput{Type: string(id.Type()), Value: id.Value()},
	}
	if r.Identifier != "" {
		req.Subject = broker.SubjectInput{Type: string(proof.TypePivot), Pivot: person}
	}
	answer, err := q.cfg.Broker.Disclose(ctx, caller, req)
	if err != nil {
		return false, fmt.Errorf("inquiry: asking %s: %w", r.Service, err)
	}
	defer answer.Free()
	switch answer.Outcome {
	case broker.Released:
	case broker.Empty:
		return false, nil
	case broker.Denied:
		return false, fmt.Errorf("inquiry: the policy refuses the question to %s: does agency %s have an agreement for it?", r.Service, q.cfg.Agency)
	default:
		return false, fmt.Errorf("inquiry: %s gave no answer", r.Service)
	}
	if answer.Data == nil { // sealed for longer than its time: it was asked a quarter of an hour ago
		return false, fmt.Errorf("inquiry: the answer of %s is gone", r.Service)
	}
	var tree any
	if err := json.Unmarshal(answer.Data, &tree); err != nil {
		return false, fmt.Errorf("inquiry: the answer of %s is not JSON", r.Service)
	}
	if r.Identifier != "" {
		return same(id, text(tree, r.Identifier)), nil
	}
	return r.states(tree, person), nil
}

// caller is the portal's agency, as it is registered now.
func (q *Inquiries) caller() (broker.Caller, error) {
	for _, a := range q.cfg.Broker.Agencies() {
		if a.ID == q.cfg.Agency {
			return broker.Caller{ID: a.ID, Name: a.Name, SIRET: a.SIRET}, nil
		}
	}
	return broker.Caller{}, fmt.Errorf("inquiry: agency %s isn't registered", q.cfg.Agency)
}

// states reports whether an answer states that person, in every field that the rule names.
func (r *Rule) states(tree any, person proof.Pivot) bool {
	given, stated := proof.FoldName(person.GivenNames), proof.FoldName(text(tree, r.GivenNames))
	// Bodies state one given name or all of them.
	if stated == "" || given != stated && !strings.HasPrefix(given, stated+" ") {
		return false
	}
	if name := proof.FoldName(text(tree, r.BirthName)); name == "" || name != proof.FoldName(person.BirthName) {
		return false
	}
	for _, f := range []struct{ pointer, known string }{{r.BirthDate, person.BirthDate}, {r.BirthPlace, person.BirthPlace}, {r.BirthCountry, person.BirthCountry}} {
		if f.pointer != "" && text(tree, f.pointer) != f.known {
			return false
		}
	}
	return true
}

// same reports whether text is the identifier, in whatever spelling.
func same(id proof.Subject, text string) bool {
	s, err := identity.ParseIdentifier(id.Type(), text)
	return err == nil && s.Equal(id)
}

var unescape = strings.NewReplacer("~1", "/", "~0", "~")

// text is the string at a pointer (RFC 6901); empty if there is none.
func text(tree any, pointer string) string {
	for _, name := range strings.Split(pointer, "/")[1:] {
		m, ok := tree.(map[string]any)
		if !ok {
			return ""
		}
		tree = m[unescape.Replace(name)]
	}
	s, _ := tree.(string)
	return s
}
