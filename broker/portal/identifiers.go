package portal

import (
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/ledger/proof"
)

// identifiersPage says under which identifiers the person is known here, and takes others.
type identifiersPage struct {
	Own        []identifier // of the identity itself
	Attached   []attached
	Unattached []string // types that the sign-in stated and that could not be attached
	Fields     []field  // of the form that attaches; nil: nothing can be checked here
	Asked      []asked  // who is asked, by type
	Mistakes   []mistake
	Operator   *Operator
}

type attached struct {
	identifier
	Proven string // claim, check
	At     time.Time
}

// asked is who is asked about an identifier of a type, and what is sent.
type asked struct {
	Type     string
	Provider string
	Service  string
	Identity bool // the person's identity is sent, and the identifier answered; otherwise the other way round
}

func (p *Portal) identifiers(r *request, s *Session, who *identity.Session) error {
	return p.showIdentifiers(r, s, who, http.StatusOK, nil)
}

func (p *Portal) showIdentifiers(r *request, s *Session, who *identity.Session, status int, mistakes []mistake) error {
	data := &identifiersPage{Mistakes: mistakes, Operator: &p.cfg.Operator}
	for _, x := range who.Subjects {
		if x.Type() == proof.TypePivot || x.Type() == proof.TypePerson {
			data.Own = append(data.Own, showIdentifier(s, x))
		}
	}
	for _, a := range who.Attached {
		data.Attached = append(data.Attached, attached{showIdentifier(s, a.Subject), a.Proven, a.At.In(p.zone)})
	}
	for _, t := range who.Unattached {
		data.Unattached = append(data.Unattached, string(t))
	}
	if types := p.cfg.Identity.Checkable(); len(types) > 0 {
		n := p.namer(r.lang)
		typ := field{Name: "type", Type: "select", Label: "attach.type", Required: true, Value: r.PostForm.Get("type")}
		for _, t := range types {
			typ.Options = append(typ.Options, option{string(t), r.lang.fixed["identifier."+string(t)]})
			rule := p.cfg.Checks[t]
			a := asked{Type: string(t), Service: n.service(rule.Service), Identity: rule.Identifier != ""}
			if d := n.Services[rule.Service]; d != nil {
				a.Provider = n.provider(string(d.Provider.ID))
			}
			data.Asked = append(data.Asked, a)
		}
		data.Fields = []field{typ, {Name: "valeur", Type: "text", Label: "attach.value", Hint: "attach.hint", Required: true, MaxLength: 64, Autocomplete: "off", Value: r.PostForm.Get("valeur")}}
		marked(data.Fields, mistakes)
	}
	return r.render(status, "identifiers", "identifiers.title", data)
}

// attachMistakes are the words for what keeps an identifier from being attached, and at which field.
var attachMistakes = []struct {
	err error
	mistake
	status int
}{
	{identity.ErrForm, mistake{"valeur", "attach.form"}, http.StatusBadRequest},
	{identity.ErrUnchecked, mistake{"type", "attach.unchecked"}, http.StatusBadRequest},
	{identity.ErrNotTheirs, mistake{"valeur", "attach.not_theirs"}, http.StatusForbidden},
	{identity.ErrTaken, mistake{"valeur", "attach.taken"}, http.StatusConflict},
	{identity.ErrTooMany, mistake{"valeur", "attach.too_many"}, http.StatusConflict},
	{identity.ErrTooOften, mistake{"valeur", "attach.too_often"}, http.StatusTooManyRequests},
	{identity.ErrUnavailable, mistake{"valeur", "attach.unavailable"}, http.StatusServiceUnavailable},
}

func (p *Portal) attach(r *request, s *Session, who *identity.Session) error {
	typ, value := proof.SubjectType(r.PostForm.Get("type")), r.PostForm.Get("valeur")
	if err := p.cfg.Identity.Attach(r.Context(), who, typ, value); err != nil {
		for _, m := range attachMistakes {
			if errors.Is(err, m.err) {
				return p.showIdentifiers(r, s, who, m.status, []mistake{m.mistake})
			}
		}
		return err
	}
	x, err := identity.ParseIdentifier(typ, value)
	if err != nil {
		return err
	}
	// From now on they are told of what is filed under it. The identifier is attached even if this fails; the next sign-in enrols them again.
	if err := p.cfg.Broker.Enrol(r.Context(), r.knownAs(append(slices.Clone(s.Subjects), x))); err != nil {
		p.log.Error("an account isn't enrolled under an identifier that was attached", "type", typ, "error", err)
	}
	p.leaveMessage(r.w, "flash.attached")
	r.seeOther("/identifiants")
	return nil
}

func (p *Portal) detach(r *request, s *Session, who *identity.Session) error {
	var own []proof.Subject
	for _, a := range who.Attached {
		own = append(own, a.Subject)
	}
	x, ok := markedSubject(s, own, r.PostForm.Get("identifiant"))
	if !ok {
		return &broker.Problem{Status: http.StatusNotFound, Code: "identifier.unknown"}
	}
	switch err := p.cfg.Identity.Detach(r.Context(), who, x); {
	case errors.Is(err, identity.ErrNotAttached):
		return &broker.Problem{Status: http.StatusNotFound, Code: "identifier.unknown"}
	case err != nil:
		return err
	}
	left := slices.DeleteFunc(slices.Clone(s.Subjects), x.Equal)
	if err := p.cfg.Broker.Enrol(r.Context(), r.knownAs(left)); err != nil {
		p.log.Error("an account is still enrolled under an identifier that was detached", "type", x.Type(), "error", err)
	}
	p.leaveMessage(r.w, "flash.detached")
	r.seeOther("/identifiants")
	return nil
}
