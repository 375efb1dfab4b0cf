package portal

import (
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/identity"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// erasuresPage says what an erasure is, and what became of those that were asked for.
type erasuresPage struct {
	Requests []erasing
	CoolOff  string
}

type erasing struct {
	ID          string
	Asked, Due  time.Time
	Undoable    bool
	Identifiers []erasingIdentifier
}

// erasingIdentifier has a state of the catalogue: waiting, due, hold, contest, undone, done.
type erasingIdentifier struct {
	Type  string
	State string
	Basis string
	Ended time.Time
	Link  string // of the entry
}

func (p *Portal) erasures(r *request, s *Session, _ *identity.Session) error {
	requests, err := p.cfg.Broker.ErasureRequests(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	data := &erasuresPage{}
	if data.CoolOff, err = r.lang.duration(p.cfg.Broker.CoolOff()); err != nil {
		return err
	}
	for i := range requests {
		e, err := p.showErasing(r, s, &requests[i])
		if err != nil {
			return err
		}
		data.Requests = append(data.Requests, e)
	}
	return r.render(http.StatusOK, "erasures", "erasures.title", data)
}

func (p *Portal) showErasing(r *request, s *Session, e *broker.ErasureRequest) (erasing, error) {
	out := erasing{ID: uuid.UUID(e.ID).String(), Asked: e.Asked.In(p.zone), Due: e.Due.In(p.zone), Undoable: e.Undoable()}
	for _, x := range e.Identifiers {
		y := erasingIdentifier{Type: string(x.Type), State: x.State, Basis: x.Basis, Ended: x.Ended.In(p.zone)}
		switch {
		case x.State == store.ErasureWaiting && x.Blocked != "":
			y.State = x.Blocked
		case x.State == store.ErasureWaiting && !p.now().Before(e.Due):
			y.State = "due"
		case x.State == store.ErasureDone && x.Index != 0:
			// An identifier that was attached goes with its erasure, and is not shown any more until it is attached again.
			_, err := p.cfg.Broker.OwnRecord(r.Context(), s.Subjects, x.Index)
			if err == nil {
				y.Link = "/acces/" + x.Index.String()
			} else if broker.AsProblem(err).Status != http.StatusNotFound {
				return erasing{}, err
			}
		}
		out.Identifiers = append(out.Identifiers, y)
	}
	return out, nil
}

// askErasurePage is the form, with what follows.
type askErasurePage struct {
	Choices  []choice
	Asked    []string // types that are asked for already
	Shared   []string // types that can't be chosen
	Sure     field
	Due      time.Time
	Mistakes []mistake
	Operator *Operator
}

// choice is one of several identifiers in a form.
type choice struct {
	identifier
	Checked bool
}

func (p *Portal) askErasure(r *request, s *Session, _ *identity.Session) error {
	return p.showAskErasure(r, s, nil, nil)
}

func (p *Portal) showAskErasure(r *request, s *Session, chosen []string, mistakes []mistake) error {
	requests, err := p.cfg.Broker.ErasureRequests(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	data := &askErasurePage{Due: p.now().Add(p.cfg.Broker.CoolOff()).In(p.zone), Mistakes: mistakes, Operator: &p.cfg.Operator}
	waiting := map[proof.SubjectType]int{}
	for i := range requests {
		for _, x := range requests[i].Identifiers {
			if x.State == store.ErasureWaiting {
				waiting[x.Type]++
			}
		}
	}
	for _, x := range s.Subjects {
		switch typ := string(x.Type()); {
		case !broker.Erasable(x.Type()):
			if !slices.Contains(data.Shared, typ) {
				data.Shared = append(data.Shared, typ)
			}
		case waiting[x.Type()] > 0 && count(s.Subjects, x.Type()) <= waiting[x.Type()]:
			if !slices.Contains(data.Asked, typ) {
				data.Asked = append(data.Asked, typ)
			}
		default:
			c := choice{identifier: showIdentifier(s, x)}
			c.Checked = slices.Contains(chosen, c.Mark)
			data.Choices = append(data.Choices, c)
		}
	}
	data.Sure = field{Name: "sur", Type: "checkbox", Label: "ask.sure", Required: true}
	for _, m := range mistakes {
		if m.Field == data.Sure.Name {
			data.Sure.Mistake = m.Key
		}
	}
	status := http.StatusOK
	if len(mistakes) > 0 {
		status = http.StatusBadRequest
	}
	return r.render(status, "ask", "ask.title", data)
}

func count(subjects []proof.Subject, t proof.SubjectType) (n int) {
	for _, x := range subjects {
		if x.Type() == t {
			n++
		}
	}
	return n
}

func (p *Portal) requestErasure(r *request, s *Session, who *identity.Session) error {
	var subjects []proof.Subject
	var mistakes []mistake
	for _, v := range r.PostForm["identifiant"] {
		x, ok := markedSubject(s, s.Subjects, v)
		if !ok || !broker.Erasable(x.Type()) {
			subjects = nil // a form of another session, or one that was tampered with: nothing of it is done
			break
		}
		subjects = append(subjects, x)
	}
	if len(subjects) == 0 {
		mistakes = append(mistakes, mistake{"identifiant", "ask.none"})
	}
	if r.PostForm.Get("sur") != "1" {
		mistakes = append(mistakes, mistake{"sur", "ask.unsure"})
	}
	if len(mistakes) > 0 {
		return p.showAskErasure(r, s, r.PostForm["identifiant"], mistakes)
	}
	if err := p.cfg.Broker.RequestErasure(r.Context(), r.knownAs(s.Subjects), subjects, who.AuthTime); err != nil {
		return err
	}
	p.leaveMessage(r.w, "flash.erasure_asked")
	r.seeOther("/effacer")
	return nil
}

func (p *Portal) undoErasure(r *request, s *Session, _ *identity.Session) error {
	id, ok := storeID(r.PathValue("id"))
	if !ok {
		return &broker.Problem{Status: http.StatusNotFound, Code: "erasure.unknown"}
	}
	if err := p.cfg.Broker.UndoErasure(r.Context(), r.knownAs(s.Subjects), id); err != nil {
		return err
	}
	p.leaveMessage(r.w, "flash.erasure_undone")
	r.seeOther("/effacer")
	return nil
}

// storeID reads an id in a path: its one form.
func storeID(s string) (store.ID, bool) {
	id, err := uuid.Parse(s)
	return store.ID(id), err == nil && id.String() == s
}
