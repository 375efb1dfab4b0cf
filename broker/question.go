package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/provider"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/policy"
)

// result is what became of it. said is all that the provider's answer left behind; it is sealed before anything else happens to it.
type result struct {
	outcome  Outcome
	cause    string
	said     *envelope
	data     []byte // of said, until it is sealed
	obtained []string
	unknown  bool // what the answer held: the provider was asked, and nobody can tell what it said
	released []string
	others   []service.Filing // the entries beside the asked one
}

// question asks the provider, if the policy granted it. Whatever happens is a result to be recorded.
func (d *disclosure) question(ctx context.Context) {
	grant, ok := d.decision.Granted()
	if !ok {
		d.result = result{outcome: Denied}
		return
	}
	if grant.Obliges(policy.ObligationNotifyPerson) {
		d.fail("obligation/notify_person", &Problem{Status: 503, Code: "obligation.unmet", Title: "This agreement demands that the person is told at once, and this broker can't.", Detail: "Tell the operator. The provider was not asked."})
		return
	}
	if d.waits && d.b.witnesses == nil {
		// Fail closed: this log has no witnesses to wait for.
		d.fail("witnesses/none", &Problem{Status: 503, Code: "witnesses.none", Title: "The service or the agreement demands witnesses, and this log has none.", Detail: "Tell the operator. The provider was not asked."})
		return
	}
	p := d.plan
	req, err := d.ask.Request(p.asked, p.req.Parameters)
	if err != nil {
		// It was checked before the intent; a definition that says otherwise now is a fault of ours.
		d.b.log.Error("a question that was checked doesn't fit the service", "disclosure", uuid.UUID(d.id), "service", p.service.def.Ref())
		d.fail("request/unfit", &Problem{Status: 500, Code: "internal", Title: "Internal error.", Detail: "The provider was not asked; the attempt is recorded."})
		return
	}
	q := provider.Question{Service: p.service.def, Request: req, Disclosure: uuid.UUID(d.id).String(), TraceID: p.traceID, Intent: d.announce}
	answer, err := d.b.providers.Ask(ctx, q)
	if err == nil {
		err = d.read(ctx, q, answer)
	}
	if err != nil {
		d.unanswered(err)
	}
}

// unanswered is the end of a question that got no usable answer: nothing that the provider said is passed on.
func (d *disclosure) unanswered(err error) {
	def := d.plan.service.def
	p := &Problem{Status: 502, Code: causeUnreadable, Title: "The provider gave no usable answer.", Detail: "The attempt is recorded. Try again later, or ask the operator with the id of this disclosure.", Provider: string(def.Provider.ID)}
	asked := true
	var e *provider.Error
	if errors.As(err, &e) {
		asked = e.Asked
		p.Code, p.RetryAfter = e.Cause, e.RetryAfter
		switch e.Cause {
		case provider.CauseIntent:
			p.Status, p.Title, p.RetryAfter = 503, "The question could not be announced to the provider.", time.Second
			p.Detail = "The provider was not asked; the attempt is recorded. Make a new request shortly."
		case provider.CauseTimeout:
			p.Status, p.Title = 504, "The provider didn't answer in time."
		case provider.CauseRefused, provider.CauseBusy, provider.CauseRate:
			p.Status, p.Title = 503, "The provider is not asked at the moment, because it failed too often or is asked too much."
		}
	}
	d.b.log.Warn("no usable answer from a provider", "disclosure", uuid.UUID(d.id), "service", def.Ref(), "cause", p.Code, "error", err)
	d.result.unknown = asked && d.result.obtained == nil // set before a document failed
	d.fail(p.Code, p)
}

// causeUnreadable is recorded when an answer is not what its service promises.
const causeUnreadable = "provider/answer"

// fail sets the outcome, and leaves what is known of the answer as it is.
func (d *disclosure) fail(cause string, problem *Problem) {
	r := &d.result
	r.outcome, r.cause, r.said = Failed, cause, &envelope{problem: problem}
}

// read takes from an answer what was granted and whom it identifies. Everything else is dropped here.
func (d *disclosure) read(ctx context.Context, q provider.Question, answer provider.Answer) error {
	def := d.plan.service.def
	v := def.Judge(answer.Status, answer.Body)
	if v.Outcome != service.OutcomeAnswer {
		d.fail(v.Cause, &Problem{Status: passStatus(v.Status), Code: v.Code, Title: v.Title, Detail: v.Detail, Provider: v.Provider})
		if v.Outcome == service.OutcomeEmpty {
			d.result.outcome = Empty
		}
		d.result.unknown = v.Code == "" // not an error in the service's form: nobody looked what else it is
		if p := d.result.said.problem; p.Code == "" {
			p.Code, p.Title, p.Detail = v.Cause, "The provider could not answer.", "The attempt is recorded. Try again later, or ask the operator with the id of this disclosure."
		}
		if p := d.result.said.problem; p.Provider == "" {
			p.Provider = string(def.Provider.ID)
		}
		return nil
	}
	left, err := d.ask.Filter(answer.Body)
	answer.Drop()
	if err != nil {
		return err
	}
	// From here on the provider has answered about these people, whatever becomes of the rest: their entries say so.
	filings := left.File(d.plan.asked)
	asked := filings[0] // all fields
	d.result.obtained, d.result.others = stringsOf(asked.Obtained), filings[1:]
	documents, err := d.fetch(ctx, q, left.Links())
	if err != nil {
		return err
	}
	data, err := left.Data(documents...)
	if err != nil {
		return err
	}
	r := &d.result
	r.outcome, r.said, r.data, r.released = Released, &envelope{data: data}, data, stringsOf(asked.Released)
	if n := left.Undeclared(); n > 0 {
		d.b.log.Info("dropped what the service doesn't declare", "disclosure", uuid.UUID(d.id), "service", def.Ref(), "members", n)
	}
	return nil
}

// fetch gets the documents behind links of an answer, all together within the time of one question.
func (d *disclosure) fetch(ctx context.Context, q provider.Question, links []service.Link) ([]service.Document, error) {
	if len(links) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, q.Service.Limits.Total)
	defer cancel()
	documents := make([]service.Document, len(links))
	for i, link := range links {
		var err error
		if documents[i], err = d.b.providers.Fetch(ctx, q, link); err != nil {
			return nil, fmt.Errorf("fetching a document: %w", err)
		}
	}
	return documents, nil
}

// passStatus is the HTTP status under which a provider's own error is passed on.
func passStatus(status int) int {
	switch status {
	case 404, 409, 422, 429, 502, 503, 504:
		return status
	}
	return 502
}
