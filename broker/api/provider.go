package api

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// Holders is the part of [broker.Broker] that providers reach, to check what was recorded of their answers. All methods may be called concurrently. Every error goes through [broker.AsProblem].
type Holders interface {
	// AuthenticateProvider finds the providers of a certificate whose private key the caller has shown to hold: at least one. It is called for each request and must be cheap.
	AuthenticateProvider(*x509.Certificate) ([]string, error)
	// ProviderReceipts returns one result for each id, in their order.
	ProviderReceipts(ctx context.Context, providers []string, ids []store.ID) ([]broker.Receipts, error)
	// IntentProofs shows the keys that sign intents, newest first.
	IntentProofs(context.Context) ([]broker.KeyProof, error)
}

// Limits of what providers may fetch: each receipt costs about as much as a request of an agency, and agencies come first.
const (
	maxIDs     = 100 // disclosures of one call
	maxFetches = 4   // calls at once, of all providers
)

// fetching is a Holders of which so many calls are carried out at once. A place is taken for that alone: one provider that sends or reads slowly keeps no other from its receipts.
type fetching struct {
	Holders
	places chan struct{}
}

func (f *fetching) place() (leave func(), err error) {
	select {
	case f.places <- struct{}{}:
		return func() { <-f.places }, nil
	default:
		return nil, &broker.Problem{Status: 503, Code: "busy", Title: "Too many providers fetch receipts at the moment.", Detail: "Try again.", RetryAfter: time.Second}
	}
}

func (f *fetching) ProviderReceipts(ctx context.Context, providers []string, ids []store.ID) ([]broker.Receipts, error) {
	leave, err := f.place()
	if err != nil {
		return nil, err
	}
	defer leave()
	return f.Holders.ProviderReceipts(ctx, providers, ids)
}

func (f *fetching) IntentProofs(ctx context.Context) ([]broker.KeyProof, error) {
	leave, err := f.place()
	if err != nil {
		return nil, err
	}
	defer leave()
	return f.Holders.IntentProofs(ctx)
}

// holderRoutes adds the calls of providers, if the broker has them.
func (a *API) holderRoutes(b Holders) {
	b = &fetching{b, make(chan struct{}, maxFetches)}
	for _, r := range []struct {
		method, path string
		serve        func(*exchange, []string) *broker.Problem
	}{
		{"GET", "/v1/provider/disclosures/{id}", func(x *exchange, providers []string) *broker.Problem { return x.receiptsOf(b, providers) }},
		{"POST", "/v1/provider/receipts", func(x *exchange, providers []string) *broker.Problem { return x.receipts(b, providers) }},
		{"GET", "/v1/provider/keys", func(x *exchange, _ []string) *broker.Problem { return x.intentKeys(b) }},
	} {
		a.handle(r.method, r.path, anybody, func(x *exchange) *broker.Problem {
			providers, p := x.provider(b)
			if p != nil {
				return p
			}
			return r.serve(x, providers)
		})
	}
}

// provider authenticates a provider, and takes one call from its allowance.
func (x *exchange) provider(b Holders) ([]string, *broker.Problem) {
	var cert *x509.Certificate
	if x.r.TLS != nil && len(x.r.TLS.PeerCertificates) > 0 {
		cert = x.r.TLS.PeerCertificates[0]
	}
	ids, err := b.AuthenticateProvider(cert)
	if err != nil {
		return nil, x.problem(err)
	}
	if len(ids) == 0 {
		return nil, x.problem(errors.New("api: the broker authenticated nobody"))
	}
	x.caller = broker.Caller{ID: "provider/" + ids[0]} // no agency's id has a slash
	return ids, x.api.limits.take(x)
}

// Bodies of the providers' calls, as they are documented.

type idsBody struct {
	IDs []string `json:"ids" minItems:"1" maxItems:"100" doc:"Ids of disclosures, as in X-Request-ID and in the intents."`
}

type receiptsBody struct {
	ID       string   `json:"id" doc:"Of the disclosure, as it was asked for."`
	Receipts []string `json:"receipts,omitempty" doc:"Of all its entries, at their best by now, the asked identifier's first; with what a provider may see opened."`
	Erased   bool     `json:"erased,omitempty" doc:"Somebody's keys were destroyed since: their receipt names no subject and can't settle."`
	Code     string   `json:"code,omitempty" doc:"Why there are no receipts, as the code of a problem: disclosure.unknown, disclosure.in_progress, receipt.pending, disclosure.retired …"`
}

type batchBody struct {
	Disclosures []receiptsBody `json:"disclosures" doc:"One for each id, in their order."`
}

type keyBody struct {
	Entry string `json:"entry" doc:"The key@v1 entry that brought the key into force."`
	Proof string `json:"proof" doc:"c2sp.org/tlog-proof@v1 of that entry."`
}

type keysBody struct {
	Keys []keyBody `json:"keys" doc:"The keys that sign intents, newest first."`
}

func receiptsBodyOf(id string, r *broker.Receipts) receiptsBody {
	out := receiptsBody{ID: id, Erased: r.Erased}
	for _, text := range r.Receipts {
		out.Receipts = append(out.Receipts, string(text))
	}
	if r.Problem != nil {
		out.Code = r.Problem.Code
	}
	return out
}

// receiptsOf serves GET /v1/provider/disclosures/{id}. A malformed id is the id of nothing.
func (x *exchange) receiptsOf(b Holders, providers []string) *broker.Problem {
	id := x.r.PathValue("id")
	found, err := b.ProviderReceipts(x.r.Context(), providers, []store.ID{parseID(id)})
	if err == nil && len(found) != 1 {
		err = errors.New("api: not one result for one id")
	}
	if err != nil {
		return x.problem(err)
	}
	if p := found[0].Problem; p != nil {
		return x.problem(p)
	}
	x.disclosure = formatID(found[0].ID)
	return x.json(receiptsBodyOf(x.disclosure, &found[0]))
}

// receipts serves POST /v1/provider/receipts.
func (x *exchange) receipts(b Holders, providers []string) *broker.Problem {
	body, p := x.body()
	if p != nil {
		return p
	}
	in, ok := decodeIDs(body)
	if !ok {
		return &broker.Problem{Status: 400, Code: "request.json.invalid", Title: "The body is not JSON of the expected form.", Detail: `Send {"ids": ["…"]}.`}
	}
	if len(in.IDs) < 1 || len(in.IDs) > maxIDs {
		return &broker.Problem{Status: 400, Code: "request.invalid", Title: "No ids, or too many.", Detail: "Send 1 to " + itoa(maxIDs) + " ids in one call.", Parameter: "/ids"}
	}
	ids := make([]store.ID, len(in.IDs))
	for i, id := range in.IDs {
		if ids[i] = parseID(id); ids[i] == (store.ID{}) {
			return &broker.Problem{Status: 400, Code: "request.invalid", Title: "This is not the id of a disclosure.", Detail: "Send UUIDs in lower case.", Parameter: "/ids/" + itoa(int64(i))}
		}
	}
	found, err := b.ProviderReceipts(x.r.Context(), providers, ids)
	if err == nil && len(found) != len(ids) {
		err = errors.New("api: not one result for each id")
	}
	if err != nil {
		return x.problem(err)
	}
	out := batchBody{Disclosures: make([]receiptsBody, len(found))}
	for i := range found {
		out.Disclosures[i] = receiptsBodyOf(in.IDs[i], &found[i])
	}
	return x.json(out)
}

// decodeIDs parses the body of POST /v1/provider/receipts; false if it isn't of that form. How many ids there are, and of what, is for the caller to judge.
func decodeIDs(body []byte) (in idsBody, ok bool) {
	s := scanner{b: body, path: make([]byte, 0, 64)}
	p := s.object([]string{"ids"}, func(at int, _ string) *broker.Problem {
		if at < 0 {
			return s.unknown()
		}
		return s.list(len(body), func() *broker.Problem {
			id, p := s.string()
			in.IDs = append(in.IDs, id)
			return p
		})
	})
	return in, p == nil && s.end() == nil
}

// intentKeys serves GET /v1/provider/keys.
func (x *exchange) intentKeys(b Holders) *broker.Problem {
	ks, err := b.IntentProofs(x.r.Context())
	if err != nil {
		return x.problem(err)
	}
	out := keysBody{Keys: make([]keyBody, len(ks))}
	for i, k := range ks {
		out.Keys[i] = keyBody{string(k.Entry), string(k.TLogProof)}
	}
	return x.json(out)
}
