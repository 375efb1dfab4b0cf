package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// Citizens is the part of [broker.Broker] for what people do beside reading, as far as the operator has a part in it.
type Citizens interface {
	SetAgencyAddresses(ctx context.Context, id, contact, dpo string) error
	AllContests(ctx context.Context, state string, after store.ID, limit int) (*broker.ContestPage, error)
	AddHold(ctx context.Context, subjects []proof.Subject, basis, reference string, until time.Time) (store.ID, error)
	Holds(context.Context) ([]broker.Hold, error)
	RemoveHold(context.Context, store.ID) error
	GrantDelegation(context.Context, broker.Grant) (store.ID, error)
	Delegations(ctx context.Context, before store.ID) ([]broker.Delegation, error)
	EndDelegation(context.Context, store.ID) error
}

var _ Citizens = (*broker.Broker)(nil)

type citizens struct{ b Citizens }

// citizenCalls are these calls, if the broker has them.
func citizenCalls(b Broker) map[string]call {
	c, ok := b.(Citizens)
	if !ok {
		return nil
	}
	s := &citizens{c}
	return map[string]call{
		"POST /agencies/{id}/addresses": s.addresses,
		"GET /contests":                 s.contests,
		"GET /holds":                    s.holds,
		"POST /holds":                   s.addHold,
		"POST /holds/{id}/remove":       s.removeHold,
		"GET /delegations":              s.delegations,
		"POST /delegations":             s.grant,
		"POST /delegations/{id}/revoke": s.endDelegation,
	}
}

// AgencyAddresses says where mails about contests go; empty: nowhere.
type AgencyAddresses struct {
	Contact string `json:"contact"`
	DPO     string `json:"dpo"`
}

func (s *citizens) addresses(ctx context.Context, r *http.Request, body []byte) (any, error) {
	var in AgencyAddresses
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	return Done{ID: id}, s.b.SetAgencyAddresses(ctx, id, in.Contact, in.DPO)
}

// Contest as the operator sees it: how it stands, not what it says.
type Contest struct {
	ID           string    `json:"id"`
	Disclosure   string    `json:"disclosure"`
	Agency       string    `json:"agency"`
	State        string    `json:"state"`
	Overdue      bool      `json:"overdue"`
	Erased       bool      `json:"erased,omitempty"`
	Outcome      string    `json:"outcome,omitempty"`
	Filed        time.Time `json:"filed_at"`
	Due          time.Time `json:"due_at"`
	Acknowledged time.Time `json:"acknowledged_at,omitzero"`
	Extended     time.Time `json:"extended_at,omitzero"`
	Ended        time.Time `json:"ended_at,omitzero"`
}

// Contests is a page of them, the oldest first.
type Contests struct {
	Contests []Contest `json:"contests"`
	Next     string    `json:"next,omitempty"` // after of the next page
}

func (s *citizens) contests(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	q := r.URL.Query()
	var after store.ID
	if text := q.Get("after"); text != "" {
		id, err := parseID("/after", text)
		if err != nil {
			return nil, err
		}
		after = id
	}
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil && q.Get("limit") != "" {
		return nil, bad("/limit", "The limit is not a number.", "Give 1 to 200.")
	}
	page, err := s.b.AllContests(ctx, q.Get("state"), after, limit)
	if err != nil {
		return nil, err
	}
	out := Contests{Contests: []Contest{}}
	if page.Next != (store.ID{}) {
		out.Next = uuid.UUID(page.Next).String()
	}
	for i := range page.Contests {
		c := &page.Contests[i]
		out.Contests = append(out.Contests, Contest{
			uuid.UUID(c.ID).String(), uuid.UUID(c.Disclosure).String(), c.Agency, c.State, c.Overdue, c.Erased, string(c.Outcome), c.Filed, c.Due, c.Acknowledged, c.Extended, c.Ended,
		})
	}
	return out, nil
}

func parseID(parameter, text string) (store.ID, error) {
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		return store.ID{}, bad(parameter, "This is not an id.", "Give the UUID as it is listed.")
	}
	return store.ID(id), nil
}

// parseSubjects are those of one person.
func parseSubjects(in []Subject) ([]proof.Subject, error) {
	var out []proof.Subject
	for i := range in {
		s, err := in[i].parse()
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// NewHold keeps identifiers of somebody from being erased.
type NewHold struct {
	Subjects  []Subject `json:"subjects"`
	Basis     string    `json:"basis"`
	Reference string    `json:"reference"`
	Until     time.Time `json:"until,omitzero"`
}

// Hold as it is listed: never whom it is about.
type Hold struct {
	ID          string    `json:"id"`
	Basis       string    `json:"basis"`
	Reference   string    `json:"reference"`
	Identifiers int       `json:"identifiers"`
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until,omitzero"`
	Over        bool      `json:"over"`
}

func (s *citizens) addHold(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in NewHold
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	subjects, err := parseSubjects(in.Subjects)
	if err != nil {
		return nil, err
	}
	id, err := s.b.AddHold(ctx, subjects, in.Basis, in.Reference, in.Until)
	return Done{ID: uuid.UUID(id).String()}, err
}

func (s *citizens) holds(ctx context.Context, _ *http.Request, _ []byte) (any, error) {
	list, err := s.b.Holds(ctx)
	out := []Hold{}
	for _, h := range list {
		out = append(out, Hold{uuid.UUID(h.ID).String(), h.Basis, h.Reference, h.Identifiers, h.Since, h.Until, h.Over})
	}
	return out, err
}

func (s *citizens) removeHold(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	id, err := parseID("/id", r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return Done{ID: r.PathValue("id")}, s.b.RemoveHold(ctx, id)
}

// NewDelegation lets somebody read another's histories.
type NewDelegation struct {
	Kind     string    `json:"kind"` // guardian, representative
	Delegate Subject   `json:"delegate"`
	Subjects []Subject `json:"subjects"`
	Evidence string    `json:"evidence"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
}

// DelegationParties are the two sides of one, as a file holds them.
type DelegationParties struct {
	Delegate Subject   `json:"delegate"`
	Subjects []Subject `json:"subjects"`
}

// ParseParties reads and checks them. Errors never repeat a value.
func ParseParties(b []byte) (DelegationParties, error) {
	var raw struct {
		Delegate json.RawMessage `json:"delegate"`
		Subjects json.RawMessage `json:"subjects"`
	}
	var out DelegationParties
	if err := decode(b, &raw); err != nil || raw.Delegate == nil || raw.Subjects == nil {
		return out, bad("", "This is not the JSON of a delegation's two sides.", `Give one object: {"delegate": a subject of type pivot, "subjects": [one or more subjects]}.`)
	}
	var err error
	if out.Delegate, err = ParseSubject(raw.Delegate); err != nil {
		return out, err
	}
	out.Subjects, err = ParseSubjects(raw.Subjects)
	return out, err
}

// Delegation as it is listed: neither side is named.
type Delegation struct {
	ID          string    `json:"id"`
	Kind        string    `json:"kind"`
	Identifiers int       `json:"identifiers"`
	Granted     time.Time `json:"granted"`
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until,omitzero"`
	Ended       time.Time `json:"ended,omitzero"`
	EndedBy     string    `json:"ended_by,omitempty"`
	InForce     bool      `json:"in_force"`
}

func (s *citizens) grant(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in NewDelegation
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	g := broker.Grant{Kind: broker.DelegationKind(in.Kind), Evidence: in.Evidence, Since: in.Since, Until: in.Until}
	var err error
	if g.Delegate, err = in.Delegate.parse(); err != nil {
		return nil, err
	}
	if g.Subjects, err = parseSubjects(in.Subjects); err != nil {
		return nil, err
	}
	id, err := s.b.GrantDelegation(ctx, g)
	return Done{ID: uuid.UUID(id).String()}, err
}

func (s *citizens) delegations(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	var before store.ID
	if text := r.URL.Query().Get("before"); text != "" {
		id, err := parseID("/before", text)
		if err != nil {
			return nil, err
		}
		before = id
	}
	list, err := s.b.Delegations(ctx, before)
	out := []Delegation{}
	for _, d := range list {
		out = append(out, Delegation{uuid.UUID(d.ID).String(), string(d.Kind), d.Identifiers, d.Granted, d.Since, d.Until, d.Ended, d.EndedBy, d.InForce})
	}
	return out, err
}

func (s *citizens) endDelegation(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	id, err := parseID("/id", r.PathValue("id"))
	if err != nil {
		return nil, err
	}
	return Done{ID: r.PathValue("id")}, s.b.EndDelegation(ctx, id)
}

// SetAgencyAddresses says where mails about contests of an agency's disclosures go.
func (c *Client) SetAgencyAddresses(ctx context.Context, id string, in AgencyAddresses) (Done, error) {
	return post[Done](ctx, c, in, "agencies", id, "addresses")
}

// Contests lists contests in a state (open, overdue, answered, withdrawn; empty: all) after one, the oldest first. limit 0 means 50.
func (c *Client) Contests(ctx context.Context, state, after string, limit int) (Contests, error) {
	q := url.Values{}
	for k, v := range map[string]string{"state": state, "after": after} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if limit != 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[Contests](ctx, c, "/contests?"+q.Encode())
}

// AddHold keeps identifiers from being erased.
func (c *Client) AddHold(ctx context.Context, h NewHold) (Done, error) {
	return post[Done](ctx, c, h, "holds")
}

// Holds lists them.
func (c *Client) Holds(ctx context.Context) ([]Hold, error) { return get[[]Hold](ctx, c, "/holds") }

// RemoveHold ends one.
func (c *Client) RemoveHold(ctx context.Context, id string) (Done, error) {
	return post[Done](ctx, c, nil, "holds", id, "remove")
}

// GrantDelegation lets somebody read another's histories.
func (c *Client) GrantDelegation(ctx context.Context, d NewDelegation) (Done, error) {
	return post[Done](ctx, c, d, "delegations")
}

// Delegations lists them, newest first, those before one (empty: from the newest).
func (c *Client) Delegations(ctx context.Context, before string) ([]Delegation, error) {
	q := ""
	if before != "" {
		q = "?before=" + url.QueryEscape(before)
	}
	return get[[]Delegation](ctx, c, "/delegations"+q)
}

// EndDelegation revokes one.
func (c *Client) EndDelegation(ctx context.Context, id string) (Done, error) {
	return post[Done](ctx, c, nil, "delegations", id, "revoke")
}
