package api

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// Contesting is the part of [broker.Broker] by which an agency answers people who contest its disclosures. An id of another agency has the error of an unknown one.
type Contesting interface {
	// Contests lists those in a state, or all, with an id after one.
	Contests(ctx context.Context, c broker.Caller, state string, after store.ID, limit int) (*broker.ContestPage, error)
	Contest(ctx context.Context, c broker.Caller, id store.ID) (*broker.Contest, error)
	// The following may be repeated: the same again changes nothing.
	AcknowledgeContest(ctx context.Context, c broker.Caller, id store.ID) (*broker.Contest, error)
	ExtendContest(ctx context.Context, c broker.Caller, id store.ID, reason string) (*broker.Contest, error)
	AnswerContest(ctx context.Context, c broker.Caller, id store.ID, outcome broker.ContestOutcome, text string) (*broker.Contest, error)
}

var _ Contesting = (*broker.Broker)(nil)

var (
	answerNames    = []string{"outcome", "text"}
	extensionNames = []string{"reason"}
)

// maxLines bounds a text of several lines in bytes: 2,000 characters have 8,000 at most.
const maxLines = 8000

type contestAnswerBody struct {
	Outcome string `json:"outcome" enum:"explained,corrected,upheld,rejected" doc:"explained: the request was right, and this is why; corrected: something was wrong and has been put right; upheld: the request should not have been made; rejected: it isn't about this, or is unfounded."`
	Text    string `json:"text" maxLength:"2000" doc:"What the person reads. Line breaks are allowed; tabs become spaces, and marks that change the direction of text are left out."`
}

type contestExtensionBody struct {
	Reason string `json:"reason" maxLength:"2000" doc:"Why it takes two further months; the person reads it. Line breaks are allowed, as in an answer."`
}

type contestBody struct {
	ID           string     `json:"id" format:"uuid"`
	Disclosure   string     `json:"disclosure" format:"uuid" doc:"Yours that is contested."`
	Role         string     `json:"role" enum:"asked,answer" doc:"Who contests: the one that was asked about, or somebody whom only the answer identifies."`
	Namesake     bool       `json:"namesake" doc:"Known by names and birth date alone: it may be somebody else of that name, so say nothing about the one you asked about."`
	Lang         string     `json:"lang" enum:"fr,en" doc:"Of the person."`
	State        string     `json:"state" enum:"open,answered,withdrawn"`
	Overdue      bool       `json:"overdue" doc:"It is open, and the deadline has passed."`
	Erased       bool       `json:"erased" doc:"The person was erased, and the texts with them."`
	Text         string     `json:"text,omitempty" doc:"What the person says. Plain text, to be shown as such."`
	FiledAt      time.Time  `json:"filed_at"`
	DueAt        time.Time  `json:"due_at" doc:"One month after it was filed; three if it was extended (GDPR, article 12(3))."`
	Acknowledged *time.Time `json:"acknowledged_at,omitempty"`
	Extended     *time.Time `json:"extended_at,omitempty"`
	Extension    string     `json:"extension,omitempty" doc:"Why."`
	Ended        *time.Time `json:"ended_at,omitempty" doc:"When it was answered or withdrawn."`
	Outcome      string     `json:"outcome,omitempty" enum:"explained,corrected,upheld,rejected"`
	Answer       string     `json:"answer,omitempty"`
}

type contestsBody struct {
	Next     string        `json:"next,omitempty" format:"uuid" doc:"after of the next page; absent on the last."`
	Contests []contestBody `json:"contests" doc:"The oldest first."`
}

func showContest(c *broker.Contest) contestBody {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	return contestBody{
		ID: formatID(c.ID), Disclosure: formatID(c.Disclosure), Role: c.Role, Namesake: c.Namesake, Lang: c.Lang, State: c.State, Overdue: c.Overdue, Erased: c.Erased, Text: c.Text,
		FiledAt: c.Filed, DueAt: c.Due, Acknowledged: at(c.Acknowledged), Extended: at(c.Extended), Extension: c.Extension, Ended: at(c.Ended), Outcome: string(c.Outcome), Answer: c.Answer,
	}
}

// contestRoutes adds the calls about contests, if the broker has them.
func (a *API) contestRoutes(b Contesting) {
	one := func(f func(x *exchange, id store.ID) (*broker.Contest, error)) func(*exchange) *broker.Problem {
		return func(x *exchange) *broker.Problem {
			leave, p := a.place()
			if p != nil {
				return p
			}
			defer leave()
			c, err := f(x, parseID(x.r.PathValue("id"))) // a malformed id is the id of nothing
			if err != nil {
				return x.problem(err)
			}
			return x.json(showContest(c))
		}
	}
	a.handle("GET", "/v1/contests", agencies, func(x *exchange) *broker.Problem { return x.contests(b) })
	a.handle("GET", "/v1/contests/{id}", agencies, one(func(x *exchange, id store.ID) (*broker.Contest, error) { return b.Contest(x.r.Context(), x.caller, id) }))
	a.handle("POST", "/v1/contests/{id}/acknowledge", agencies, one(func(x *exchange, id store.ID) (*broker.Contest, error) {
		return b.AcknowledgeContest(x.r.Context(), x.caller, id)
	}))
	a.handle("POST", "/v1/contests/{id}/extend", agencies, func(x *exchange) *broker.Problem {
		reason, p := contestText(x, decodeExtension)
		if p != nil {
			return p
		}
		return one(func(x *exchange, id store.ID) (*broker.Contest, error) {
			return b.ExtendContest(x.r.Context(), x.caller, id, reason.Text)
		})(x)
	})
	a.handle("POST", "/v1/contests/{id}/answer", agencies, func(x *exchange) *broker.Problem {
		answer, p := contestText(x, decodeAnswer)
		if p != nil {
			return p
		}
		return one(func(x *exchange, id store.ID) (*broker.Contest, error) {
			return b.AnswerContest(x.r.Context(), x.caller, id, broker.ContestOutcome(answer.Outcome), answer.Text)
		})(x)
	})
}

// contestText reads a body. A place is taken when it is here, so that slow senders hold none.
func contestText(x *exchange, decode func([]byte) (*contestAnswerBody, *broker.Problem)) (*contestAnswerBody, *broker.Problem) {
	body, p := x.body()
	if p != nil {
		return nil, p
	}
	return decode(body)
}

// contests serves GET /v1/contests.
func (x *exchange) contests(b Contesting) *broker.Problem {
	q := x.r.URL.Query()
	for name, values := range q {
		if name != "state" && name != "after" && name != "limit" || len(values) != 1 {
			return &broker.Problem{Status: 400, Code: "request.parameter.unknown", Title: "The address has a parameter that is not known, or twice.", Detail: "Use state, after and limit, each once."}
		}
	}
	var after store.ID
	if q.Has("after") {
		if after = parseID(q.Get("after")); after == (store.ID{}) {
			return &broker.Problem{Status: 400, Code: "request.invalid", Title: "The page isn't named.", Detail: "Send ?after=, with next of the page before.", Parameter: "/after"}
		}
	}
	limit := 0
	if q.Has("limit") {
		n, err := strconv.ParseUint(q.Get("limit"), 10, 16)
		if err != nil || n == 0 {
			return &broker.Problem{Status: 400, Code: "request.invalid", Title: "The limit is not a number from 1 on.", Detail: "Leave it out for 50.", Parameter: "/limit"}
		}
		limit = int(n)
	}
	leave, p := x.api.place()
	if p != nil {
		return p
	}
	defer leave()
	page, err := b.Contests(x.r.Context(), x.caller, q.Get("state"), after, limit)
	if err != nil {
		return x.problem(err)
	}
	out := contestsBody{Contests: []contestBody{}}
	if page.Next != (store.ID{}) {
		out.Next = formatID(page.Next)
	}
	for i := range page.Contests {
		out.Contests = append(out.Contests, showContest(&page.Contests[i]))
	}
	return x.json(out)
}

// lines reads a text that may have line breaks and tabs.
func (s *scanner) lines(limit int) (string, *broker.Problem) {
	if s.peek() != '"' {
		return "", s.wrongType("a string")
	}
	s.breaks = true
	defer func() { s.breaks = false }()
	return s.text(limit)
}

func decodeAnswer(body []byte) (*contestAnswerBody, *broker.Problem) {
	return decodeTexts(body, answerNames, func(s *scanner, at int, out *contestAnswerBody) (p *broker.Problem) {
		if at == 0 {
			out.Outcome, p = s.string()
		} else {
			out.Text, p = s.lines(maxLines)
		}
		return p
	})
}

func decodeExtension(body []byte) (*contestAnswerBody, *broker.Problem) {
	return decodeTexts(body, extensionNames, func(s *scanner, _ int, out *contestAnswerBody) (p *broker.Problem) {
		out.Text, p = s.lines(maxLines)
		return p
	})
}

// decodeTexts reads an object of which every member is mandatory.
func decodeTexts(body []byte, names []string, member func(*scanner, int, *contestAnswerBody) *broker.Problem) (*contestAnswerBody, *broker.Problem) {
	s := scanner{b: body, path: make([]byte, 0, 64)}
	out := &contestAnswerBody{}
	there := make([]bool, len(names))
	p := s.object(names, func(at int, _ string) *broker.Problem {
		if at < 0 {
			return s.unknown()
		}
		there[at] = true
		return member(&s, at, out)
	})
	if p == nil {
		p = s.end()
	}
	for i, ok := range there {
		if p == nil && !ok {
			s.push(names[i])
			p = s.missing()
		}
	}
	if p != nil {
		return nil, p
	}
	return out, nil
}

// documentContests describes these calls.
func documentContests(add func(method, path, id, summary string, ok any, statuses map[int]string, params ...*huma.Param) *huma.Operation,
	content func(string, any) map[string]*huma.MediaType, text func(name, in, doc string, required bool) *huma.Param,
) {
	id := text("id", "path", "Of the contest.", true)
	tagged := func(op *huma.Operation) *huma.Operation { op.Tags = []string{"contests"}; return op }
	unknown := map[int]string{http.StatusNotFound: "The agency has no such contest."}
	with := func(more map[int]string) map[int]string {
		out := map[int]string{http.StatusNotFound: unknown[http.StatusNotFound], 400: "The request is malformed; nothing was changed.", 408: "The body did not arrive in time.", 413: "The body is too large.", 415: "The body is not JSON."}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	states := strings.Join([]string{store.ContestOpen, store.ContestOverdue, store.ContestAnswered, store.ContestWithdrawn}, ", ")
	tagged(add("GET", "/v1/contests", "contests", "The contests of your disclosures, the oldest first, in pages", contestsBody{}, map[int]string{400: "There is no such state or page."},
		text("state", "query", "One of "+states+"; left out: all.", false), text("after", "query", "next of the page before.", false), text("limit", "query", "Contests of a page, 1 to 200; 50 if it is left out.", false)))
	tagged(add("GET", "/v1/contests/{id}", "contest", "One of them", contestBody{}, map[int]string{404: unknown[404]}, id))
	tagged(add("POST", "/v1/contests/{id}/acknowledge", "acknowledgeContest", "Tell the person that you have it in hand. The deadline stays. Repeating it changes nothing", contestBody{}, map[int]string{404: unknown[404], 409: "It was answered or withdrawn."}, id))
	tagged(add("POST", "/v1/contests/{id}/extend", "extendContest", "Take two further months, once and before the deadline, and tell the person why. The same again changes nothing", contestBody{}, with(map[int]string{
		409: "It was answered, withdrawn or extended before, or its deadline has passed.", 410: "The person was erased.",
	}), id)).RequestBody = &huma.RequestBody{Required: true, Content: content("application/json", contestExtensionBody{})}
	tagged(add("POST", "/v1/contests/{id}/answer", "answerContest", "Answer it, and so end it. The same again changes nothing", contestBody{}, with(map[int]string{
		409: "It was answered otherwise, or withdrawn.", 410: "The person was erased.",
	}), id)).RequestBody = &huma.RequestBody{Required: true, Content: content("application/json", contestAnswerBody{})}
}
