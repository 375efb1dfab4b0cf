package api

import (
	"context"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
)

// Auditing is the part of [broker.Broker] that accredited auditors reach. It refuses who isn't one.
type Auditing interface {
	// Openings opens records; every access to one is logged before.
	Openings(context.Context, broker.Caller, *broker.OpeningsRequest) (*broker.Openings, error)
	// Erased opens what is left of erased records of whole epochs, after an audit@v1 entry; ErasedPage goes on with it.
	Erased(context.Context, broker.Caller, *broker.ErasedRequest) (*broker.Openings, error)
	ErasedPage(ctx context.Context, c broker.Caller, audit, from proof.Index) (*broker.Openings, error)
	// Rolls is a page of the rolls of a closed epoch, in the text of regard/rolls@v1.
	Rolls(ctx context.Context, c broker.Caller, epoch proof.Epoch, after *proof.Label) ([]byte, error)
	// PutStatement publishes what the auditor states about the index of a closed epoch.
	PutStatement(ctx context.Context, c broker.Caller, epoch proof.Epoch, signed []byte) error
}

var _ Auditing = (*broker.Broker)(nil)

// Names of the members of the bodies, in the order of the switch statements below.
var (
	openingsNames = []string{"indexes", "from", "to", "disclosure", "limit", "reason"}
	erasedNames   = []string{"from_epoch", "to_epoch", "reason"}
)

type openingsBody struct {
	Indexes    []uint64 `json:"indexes,omitempty" doc:"Log indexes of the entries, each once." minItems:"1" maxItems:"64"`
	From       *uint64  `json:"from,omitempty" doc:"Or all entries that stand for a record from this log index …" minimum:"0"`
	To         *uint64  `json:"to,omitempty" doc:"… to this one, both included, in pages." minimum:"0"`
	Disclosure string   `json:"disclosure,omitempty" format:"uuid" doc:"Or all entries of a disclosure."`
	Limit      int      `json:"limit,omitempty" doc:"With from and to: entries of a page." minimum:"1" maximum:"64" default:"64"`
	Reason     string   `json:"reason" doc:"Why they are opened, without names: the people read it, and it stays readable after an erasure." maxLength:"200"`
}

type erasedBody struct {
	FromEpoch uint64 `json:"from_epoch" doc:"First epoch; closed." minimum:"0"`
	ToEpoch   uint64 `json:"to_epoch" doc:"Last epoch, included; closed." minimum:"0"`
	Reason    string `json:"reason" doc:"Token: everybody reads it in the log." pattern:"^[a-z0-9][a-z0-9._-]{0,63}$"`
}

type openedBody struct {
	Index        uint64 `json:"index" doc:"Log index of the entry."`
	Kind         string `json:"kind" doc:"Its type." example:"disclosure@v1"`
	State        string `json:"state" enum:"open,erased,retired,damaged,lost,opened,none"`
	Code         string `json:"code,omitempty" doc:"Why it isn't open." example:"record.erased"`
	Access       uint64 `json:"access,omitempty" doc:"Log index of the access@v1 entry; of the deferred@v1 entry if the record is deferred: the access is told with it."`
	Opened       uint64 `json:"opened,omitempty" doc:"Of a deferred@v1 entry whose delay is over: log index of the opened@v1 entry, which has the record now."`
	ReceiptState string `json:"receipt_state,omitempty" enum:"provisional,witnessed"`
	Receipt      string `json:"receipt,omitempty" doc:"Proof that the entry is in the log, with the fields of an auditor opened (docs/formats.md, section 7)."`
}

type openingsAnswer struct {
	Audit   uint64       `json:"audit,omitempty" doc:"Of erased records: log index of the audit@v1 entry."`
	From    uint64       `json:"from,omitempty" doc:"Of erased records: first log index that the audit covers."`
	To      uint64       `json:"to,omitempty" doc:"Of erased records: the last one."`
	Closed  int          `json:"closed,omitempty" doc:"Of erased records: entries of this page that aren't erased, and stay closed."`
	Next    uint64       `json:"next,omitempty" doc:"Log index at which the next page begins; absent on the last."`
	Entries []openedBody `json:"entries"`
}

// integer reads a whole number that isn't negative.
func (s *scanner) integer() (uint64, *broker.Problem) {
	if c := s.peek(); c < '0' || c > '9' {
		return 0, s.wrongType("a whole number")
	}
	text, p := s.number()
	if p != nil {
		return 0, p
	}
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, s.wrongType("a whole number below 2^63")
	}
	return n, nil
}

func decodeOpenings(body []byte) (*broker.OpeningsRequest, *broker.Problem) {
	s := scanner{b: body, path: make([]byte, 0, 64)}
	req := &broker.OpeningsRequest{}
	index := func() (*proof.Index, *broker.Problem) {
		n, p := s.integer()
		i := proof.Index(n)
		return &i, p
	}
	p := s.object(openingsNames, func(at int, _ string) (p *broker.Problem) {
		switch at {
		case 0:
			p = s.array(func() *broker.Problem {
				n, p := s.integer()
				req.Indexes = append(req.Indexes, proof.Index(n))
				return p
			})
			if p == nil && len(req.Indexes) == 0 {
				p = s.problem("request.invalid", "The list is empty.", "Send an index, or leave it out.")
			}
		case 1:
			req.From, p = index()
		case 2:
			req.To, p = index()
		case 3:
			var id string
			if id, p = s.string(); p == nil {
				if req.Disclosure = parseID(id); formatID(req.Disclosure) != id {
					p = s.problem("request.invalid", "This is not the id of a disclosure.", "Send the UUID in its usual form.")
				}
			}
		case 4:
			var n uint64
			if n, p = s.integer(); p == nil {
				if n < 1 || n > broker.MaxOpenings {
					p = s.problem("request.invalid", "The limit is out of range.", "Send 1 to "+strconv.Itoa(broker.MaxOpenings)+".")
				}
				req.Limit = int(min(n, broker.MaxOpenings)) // #nosec G115 -- bounded
			}
		case 5:
			req.Reason, p = s.string()
		default:
			p = s.unknown()
		}
		return p
	})
	if p == nil {
		p = s.end()
	}
	if p != nil {
		return nil, p
	}
	return req, nil
}

func decodeErased(body []byte) (*broker.ErasedRequest, *broker.Problem) {
	s := scanner{b: body, path: make([]byte, 0, 64)}
	req := &broker.ErasedRequest{}
	there := [3]bool{}
	p := s.object(erasedNames, func(at int, _ string) (p *broker.Problem) {
		var n uint64
		switch at {
		case 0:
			n, p = s.integer()
			req.From = proof.Epoch(n)
		case 1:
			n, p = s.integer()
			req.To = proof.Epoch(n)
		case 2:
			req.Reason, p = s.string()
		default:
			return s.unknown()
		}
		there[at] = true
		return p
	})
	if p == nil {
		p = s.end()
	}
	for i, ok := range there {
		if p == nil && !ok {
			s.push(erasedNames[i])
			p = s.missing()
		}
	}
	if p != nil {
		return nil, p
	}
	return req, nil
}

// place takes a place among the requests that are carried out at once.
func (a *API) place() (leave func(), p *broker.Problem) {
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, nil
	default:
		return nil, &broker.Problem{Status: 503, Code: "busy", Title: "The broker is busy.", Detail: "Nothing was asked or recorded. Try again.", RetryAfter: time.Second}
	}
}

// openings serves POST /v1/audit/openings.
func (a *API) openings(x *exchange) *broker.Problem {
	req, key, p := posted(x, decodeOpenings)
	if p != nil {
		return p
	}
	req.IdempotencyKey = key
	leave, p := a.place()
	if p != nil {
		return p
	}
	defer leave()
	return x.opened(a.cfg.Broker.Openings(x.r.Context(), x.caller, req))
}

// erased serves POST /v1/audit/erased.
func (a *API) erased(x *exchange) *broker.Problem {
	req, key, p := posted(x, decodeErased)
	if p != nil {
		return p
	}
	req.IdempotencyKey = key
	leave, p := a.place()
	if p != nil {
		return p
	}
	defer leave()
	return x.opened(a.cfg.Broker.Erased(x.r.Context(), x.caller, req))
}

// erasedPage serves GET /v1/audit/erased/{audit}.
func (a *API) erasedPage(x *exchange) *broker.Problem {
	audit, ok := number(x.r.PathValue("audit"))
	if !ok {
		return &broker.Problem{Status: 404, Code: "audit.unknown", Title: "There is no such audit of yours.", Detail: "Begin one with POST /v1/audit/erased."}
	}
	from, ok := number(x.r.URL.Query().Get("from"))
	if !ok {
		return &broker.Problem{Status: 400, Code: "request.invalid", Title: "The page isn't named.", Detail: "Send ?from=, with next of the page before."}
	}
	leave, p := a.place()
	if p != nil {
		return p
	}
	defer leave()
	return x.opened(a.cfg.Broker.ErasedPage(x.r.Context(), x.caller, proof.Index(audit), proof.Index(from)))
}

// number reads a whole number as it is written in addresses: one spelling.
func number(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 63)
	return n, err == nil && strconv.FormatUint(n, 10) == s
}

func (x *exchange) opened(o *broker.Openings, err error) *broker.Problem {
	if err != nil {
		return x.problem(err)
	}
	out := openingsAnswer{Audit: uint64(o.Audit), From: uint64(o.From), To: uint64(o.To), Closed: o.Closed, Next: uint64(o.Next), Entries: []openedBody{}}
	for i := range o.Entries {
		e := &o.Entries[i]
		b := openedBody{Index: uint64(e.Index), Kind: string(e.Kind), State: string(e.State), Access: uint64(e.Access), Opened: uint64(e.Opened), Receipt: string(e.Receipt)}
		if e.State != broker.OpeningOpen {
			b.Code = "record." + b.State
		} else {
			b.ReceiptState = e.ReceiptState.String()
		}
		out.Entries = append(out.Entries, b)
	}
	return x.json(out)
}

func (x *exchange) epoch() (proof.Epoch, *broker.Problem) {
	n, ok := number(x.r.PathValue("epoch"))
	if !ok {
		return 0, &broker.Problem{Status: 404, Code: "epoch.open", Title: "This epoch is open, or is yet to come.", Detail: "Ask when it is closed: the log's markers say so."}
	}
	return proof.Epoch(n), nil
}

// rolls serves GET /v1/audit/epochs/{epoch}/rolls.
func (a *API) rolls(x *exchange) *broker.Problem {
	epoch, p := x.epoch()
	if p != nil {
		return p
	}
	var after *proof.Label
	if q := x.r.URL.Query(); q.Has("after") {
		b, err := base64.RawURLEncoding.Strict().DecodeString(q.Get("after"))
		if err != nil || len(b) != len(proof.Label{}) {
			return &broker.Problem{Status: 400, Code: "request.invalid", Title: "The page isn't named.", Detail: "Send ?after=, with the last label of the page before in base64url without padding, or nothing."}
		}
		after = (*proof.Label)(b)
	}
	leave, p := a.place()
	if p != nil {
		return p
	}
	defer leave()
	text, err := a.cfg.Broker.Rolls(x.r.Context(), x.caller, epoch, after)
	if err != nil {
		return x.problem(err)
	}
	x.w.Header()["Content-Type"] = asText
	x.write(http.StatusOK, text)
	return nil
}

// statement serves PUT /v1/audit/epochs/{epoch}/statement.
func (a *API) statement(x *exchange) *broker.Problem {
	epoch, p := x.epoch()
	if p != nil {
		return p
	}
	media, _, _ := strings.Cut(x.r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(media), "text/plain") || x.r.Header.Get("Content-Encoding") != "" {
		return &broker.Problem{Status: 415, Code: "request.body.type", Title: "The body has to be a signed note.", Detail: "Send Content-Type: text/plain, not compressed."}
	}
	note, p := x.read()
	if p != nil {
		return p
	}
	leave, p := a.place()
	if p != nil {
		return p
	}
	defer leave()
	if err := a.cfg.Broker.PutStatement(x.r.Context(), x.caller, epoch, note); err != nil {
		return x.problem(err)
	}
	return x.json(statementBody{"audit/" + epoch.String() + "/" + x.caller.ID})
}

type statementBody struct {
	Path string `json:"path" doc:"Where it is published, under the public log's address." example:"audit/812/cour-des-comptes"`
}

// documentAudit describes what auditors call.
func documentAudit(o *huma.OpenAPI, add func(method, path, id, summary string, ok any, statuses map[int]string, params ...*huma.Param) *huma.Operation,
	content func(string, any) map[string]*huma.MediaType, text func(name, in, doc string, required bool) *huma.Param,
) {
	key := text("Idempotency-Key", "header", "1 to 255 printable ASCII characters without spaces: for a day the same key and body are shown the same without another entry in the log.", false)
	epoch := text("epoch", "path", "Number of a closed epoch.", true)
	auditors := func(op *huma.Operation) *huma.Operation { op.Tags = []string{"audit"}; return op }
	auditors(add("POST", "/v1/audit/openings", "openings", "Open records: the fields of an auditor. Before that, an access@v1 entry for each stands in its subject's roll", openingsAnswer{}, map[int]string{
		400: "The request is malformed; nothing was opened.", 404: "There is no such disclosure.", 408: "The body did not arrive in time.", 409: "The Idempotency-Key was used with another request, or its request is still running.",
		413: "The body is too large.", 415: "The body is not JSON.",
	}, key)).RequestBody = &huma.RequestBody{Required: true, Content: content("application/json", openingsBody{})}
	auditors(add("POST", "/v1/audit/erased", "erased", "Open what is left of erased records of whole closed epochs. Before that, audit@v1 says so in the log", openingsAnswer{}, map[int]string{
		400: "The request is malformed; nothing was opened.", 404: "The epoch is not closed.", 408: "The body did not arrive in time.", 409: "The Idempotency-Key was used with another request, or its request is still running.",
		413: "The body is too large.", 415: "The body is not JSON.",
	}, key)).RequestBody = &huma.RequestBody{Required: true, Content: content("application/json", erasedBody{})}
	auditors(add("GET", "/v1/audit/erased/{audit}", "erasedPage", "The next page of it, within a day", openingsAnswer{}, map[int]string{400: "The page isn't one of the audit.", 404: "There is no such audit of yours.", 410: "It was begun more than a day ago."},
		text("audit", "path", "Log index of the audit@v1 entry.", true), text("from", "query", "next of the page before.", true)))
	rolls := auditors(add("GET", "/v1/audit/epochs/{epoch}/rolls", "rolls", "The rolls of a closed epoch, opened: log indexes and salts, no identities", nil, map[int]string{
		400: "The page isn't named.", 404: "The epoch is not closed.", 410: "The rolls can't be opened any more: their retention has ended, or they were lost.",
	}, epoch, text("after", "query", "Last label of the page before, base64url without padding; left out for the first.", false)))
	plain := &huma.Schema{Type: huma.TypeString}
	rolls.Responses["200"] = &huma.Response{Description: "A page of regard/rolls@v1 (docs/formats.md, section 7)", Content: map[string]*huma.MediaType{"text/plain": {Schema: plain}}}
	auditors(add("PUT", "/v1/audit/epochs/{epoch}/statement", "statement", "Publish your regard/index-audit@v1 note about the index of a closed epoch", statementBody{}, map[int]string{
		400: "It isn't a statement signed by your key.", 404: "The epoch is not closed.", 408: "The body did not arrive in time.", 409: "You made another statement about this epoch.",
		413: "The body is too large.", 415: "The body is not text.", 422: "It says something else than the log's marker.",
	}, epoch)).RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"text/plain": {Schema: plain}}}
}
