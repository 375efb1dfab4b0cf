package portal

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// rowsOfDelegated bounds the records that are opened at once: each is an access.
const rowsOfDelegated = 25

// delegationsPage lists whose histories the person may read, and who may read theirs.
type delegationsPage struct{ Mine, Others []delegation }

type delegation struct {
	ID          string
	Kind        string // guardian, representative
	Name        string // of the other side; empty if it isn't known
	Identifiers []identifier
	Evidence    string
	Since       time.Time
	Until       time.Time // zero: until it is revoked
	Ended       time.Time
	EndedBy     string
	State       string // force, future, over, ended
}

func (p *Portal) showDelegation(s *Session, d *broker.Delegation) delegation {
	out := delegation{
		ID: uuid.UUID(d.ID).String(), Kind: string(d.Kind), Evidence: d.Evidence, Since: d.Since.In(p.zone), Ended: d.Ended, EndedBy: d.EndedBy, State: "over",
	}
	if !d.Until.IsZero() {
		out.Until = d.Until.In(p.zone)
	}
	switch {
	case !d.Ended.IsZero():
		out.State, out.Ended = "ended", d.Ended.In(p.zone)
	case d.InForce:
		out.State = "force"
	case p.now().Before(d.Since):
		out.State = "future"
	}
	if !d.Mine && !d.Delegate.IsZero() {
		out.Name = nameOf(d.Delegate)
	}
	for _, x := range ordered(d.Subjects) {
		if d.Mine && out.Name == "" {
			out.Name = nameOf(x)
		}
		out.Identifiers = append(out.Identifiers, showIdentifier(s, x))
	}
	return out
}

func (p *Portal) delegations(r *request, s *Session, _ *identity.Session) error {
	list, err := p.cfg.Broker.DelegationsOf(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	data := &delegationsPage{}
	for i := range list {
		d := p.showDelegation(s, &list[i])
		if list[i].Mine {
			data.Mine = append(data.Mine, d)
		} else {
			data.Others = append(data.Others, d)
		}
	}
	return r.render(http.StatusOK, "delegations", "delegations.title", data)
}

var errNoDelegation = &broker.Problem{Status: http.StatusNotFound, Code: "delegation.unknown"}

func (p *Portal) revokeDelegation(r *request, s *Session, _ *identity.Session) error {
	id, ok := storeID(r.PathValue("id"))
	if !ok {
		return errNoDelegation
	}
	if err := p.cfg.Broker.RevokeDelegation(r.Context(), r.knownAs(s.Subjects), id); err != nil {
		return err
	}
	p.leaveMessage(r.w, "flash.delegation_revoked")
	r.seeOther("/mandats")
	return nil
}

// delegatedPage is another person's history: before anything of it is opened, what opening means; afterwards, what was opened.
type delegatedPage struct {
	delegation
	Fields []field
	Limit  int
	Read   bool
	Logged int
	Lost   bool
	Of     string // type of the identifier that was read, for the catalogue
	Days   []day
	Count  int
	Older  []field // of the form that opens what is before these; nil: there is nothing

	Period   []field // of the form that makes a file
	Mistakes []mistake
	Nothing  bool // no closed epoch in the time for which a file was asked
}

// delegatedKinds are what can be read, as forms name it. One at a time: what is opened becomes an access of this history, so a page of everything would soon show its reader's own steps.
var delegatedKinds = []delegatedKind{
	{"demandes", "delegated.demandes", proof.KindDisclosure}, {"differes", "delegated.differes", proof.KindOpened}, {"ouvertures", "delegated.ouvertures", proof.KindAccess}, {"effacements", "delegated.effacements", proof.KindErasure},
}

type delegatedKind struct {
	name, label string // label is a key of the catalogue
	kind        proof.Kind
}

// delegatedBy finds a delegation that is in force, whose delegate is the account.
func (p *Portal) delegatedBy(r *request, s *Session) (*broker.Delegation, error) {
	id, ok := storeID(r.PathValue("id"))
	if !ok {
		return nil, errNoDelegation
	}
	list, err := p.cfg.Broker.DelegationsOf(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return nil, err
	}
	for i := range list {
		if d := &list[i]; d.ID == id && d.Mine && d.InForce && len(d.Subjects) > 0 {
			return d, nil
		}
	}
	return nil, errNoDelegation
}

// delegated asks before anything is opened. Nothing is opened by this.
func (p *Portal) delegated(r *request, s *Session, _ *identity.Session) error {
	d, err := p.delegatedBy(r, s)
	if err != nil {
		return err
	}
	return r.askDelegated(s, d, http.StatusOK, p.period(url.Values{}), false)
}

// askDelegated shows what can be opened.
func (r *request) askDelegated(s *Session, d *broker.Delegation, status int, of *period, nothing bool) error {
	data := &delegatedPage{delegation: r.p.showDelegation(s, d), Limit: rowsOfDelegated, Period: of.fields(), Mistakes: of.mistakes, Nothing: nothing}
	var err error
	if data.Fields, err = r.delegatedFields(s, d); err != nil {
		return err
	}
	return r.render(status, "delegated", "delegated.title", data)
}

// delegatedFile opens another person's history for some time, for a file that can be verified. Each record in it is an access, as on the page.
func (p *Portal) delegatedFile(r *request, s *Session, _ *identity.Session) error {
	d, err := p.delegatedBy(r, s)
	if err != nil {
		return err
	}
	of := p.period(r.PostForm)
	if len(of.mistakes) > 0 {
		return r.askDelegated(s, d, http.StatusBadRequest, of, false)
	}
	epochs, ok, err := p.cfg.Broker.EpochsBetween(r.Context(), of.from, of.to.AddDate(0, 0, 1))
	if err != nil {
		return err
	}
	if !ok {
		return r.askDelegated(s, d, http.StatusOK, of, true)
	}
	var text []byte
	err = p.makeHistory(r, s, func() (*broker.HistoryFile, error) {
		return p.cfg.Broker.DelegatedFile(r.Context(), r.knownAs(s.Subjects), d.ID, epochs)
	}, func(h *proof.History) (err error) {
		text, err = h.AppendText(nil)
		return err
	})
	if isCode(err, "history.open") { // closed in this instant, and not published yet
		return r.askDelegated(s, d, http.StatusOK, of, true)
	}
	if err != nil {
		return err
	}
	r.download("historique.regard.json", "application/json")
	r.write(http.StatusOK, text)
	return nil
}

func (r *request) delegatedFields(s *Session, d *broker.Delegation) ([]field, error) {
	whose := field{Name: "identifiant", Type: "select", Label: "delegated.under"}
	for _, x := range ordered(d.Subjects) {
		i := showIdentifier(s, x)
		label, err := r.lang.text("their." + i.Type)
		if err != nil {
			return nil, err
		}
		if i.Value != "" {
			label += " " + i.Value
		}
		whose.Options = append(whose.Options, option{i.Mark, label})
	}
	what := field{Name: "genre", Type: "select", Label: "delegated.kind"}
	for _, k := range delegatedKinds {
		what.Options = append(what.Options, option{k.name, r.lang.fixed[k.label]})
	}
	return []field{whose, what}, nil
}

// readDelegated opens a page of another person's history. It is no GET: opening leaves an access in the log.
func (p *Portal) readDelegated(r *request, s *Session, _ *identity.Session) error {
	d, err := p.delegatedBy(r, s)
	if err != nil {
		return err
	}
	subject, ok := markedSubject(s, d.Subjects, r.PostForm.Get("identifiant"))
	kind := slices.IndexFunc(delegatedKinds, func(k delegatedKind) bool { return k.name == r.PostForm.Get("genre") })
	before := uint64(0)
	if v := r.PostForm.Get("avant"); v != "" && ok {
		before, err = strconv.ParseUint(v, 10, 63)
		ok = err == nil
	}
	if !ok || kind < 0 {
		return &broker.Problem{Status: http.StatusBadRequest, Code: "form.wrong"}
	}
	h, err := p.cfg.Broker.DelegatedHistory(r.Context(), r.knownAs(s.Subjects), d.ID, subject, broker.HistoryPage{Before: proof.Index(before), Limit: rowsOfDelegated, Kind: delegatedKinds[kind].kind})
	if err != nil {
		return err
	}
	data := &delegatedPage{delegation: p.showDelegation(s, d), Limit: rowsOfDelegated, Period: p.period(url.Values{}).fields(), Read: true, Logged: h.Logged, Lost: len(h.Lost) > 0, Of: string(subject.Type()), Count: len(h.Entries)}
	if data.Fields, err = r.delegatedFields(s, d); err != nil {
		return err
	}
	data.Fields[0].Value, data.Fields[1].Value = mark(s, subject), delegatedKinds[kind].name
	n := p.namer(r.lang)
	list := &historyPage{}
	for i := range h.Entries {
		e := n.seen(&h.Entries[i], subject.Type())
		x := p.row(&e, n)
		x.Bare = true
		list.add(x)
	}
	data.Days = list.Days
	if h.Next > 0 {
		data.Older = []field{
			{Name: "identifiant", Type: "hidden", Value: mark(s, subject)}, {Name: "genre", Type: "hidden", Value: delegatedKinds[kind].name}, {Name: "avant", Type: "hidden", Value: h.Next.String()},
		}
	}
	return r.render(http.StatusOK, "delegated", "delegated.title", data)
}

// seen is an entry of another person's history in outline.
func (n *namer) seen(h *broker.HistoryEntry, t proof.SubjectType) broker.OwnEntry {
	e := broker.OwnEntry{Index: h.Index, Kind: h.Kind, State: h.State, Delay: h.Delay, Namesake: t == proof.TypePerson && h.Kind != proof.KindErasure}
	switch {
	case h.Disclosure != nil:
		d := h.Disclosure
		e.At, e.ID, e.Role, e.Agency, e.Provider, e.Service = d.AskedAt, d.ID, d.Role, d.Agency, d.Provider, d.Service
		e.Purpose, e.LegalBasis, e.Outcome = d.Purpose, d.LegalBasis, d.Outcome
		if def := n.Services[serviceID(d.Service)]; def != nil {
			for scope := range def.Scopes {
				if slices.ContainsFunc(def.ScopeFields(scope), func(p service.Pointer) bool { return slices.Contains(d.Released, string(p)) }) {
					e.Scopes = append(e.Scopes, scope)
				}
			}
			slices.Sort(e.Scopes)
		}
	case h.Access != nil:
		e.At, e.Reader, e.ReaderRole, e.Reason, e.Target = h.Access.At, h.Access.Reader, h.Access.Role, h.Access.Reason, h.Access.Target
	case h.Erasure != nil:
		e.At, e.Reach = h.Erasure.ErasedAt, h.Erasure.Reach
	}
	return e
}
