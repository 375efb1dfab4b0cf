// Package client is how an agency asks a broker: one request, its answer, and the check of its receipt.
//
// What it guarantees. An answer comes back only with a receipt that was verified: signed by a log of the policy, included, opened to exactly what was asked (subject, purpose, legal basis, recipient,
// context, object) and to these very data. A broker that records something else than it was asked is found out here. A request is repeated only with its Idempotency-Key, so the provider is asked once.
//
// What it doesn't. When a request is repeated after its person was erased, nobody can show whom the record is about: there are no data then, only what isn't about the person is compared, and
// Result.PersonHidden says so. A provisional receipt rests on the log's word alone; fetch it again later (Disclosure), and once more when the epoch is closed, to hold the proof that it is in the person's roll.
package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/ledger/proof"
)

// ErrReceipt: the broker's receipt does not prove what it should. Keep the bytes (Result.Receipt) as evidence, use no data of this answer, and tell the operator and the supervisory authority.
var ErrReceipt = errors.New("the receipt does not prove what was asked and answered")

// Config of a Client.
type Config struct {
	URL string // https://host:port
	// Certificate of the agency.
	Certificate tls.Certificate
	Roots       *x509.CertPool // nil: the system's
	// Policy names the log's keys and the witnesses. Mandatory.
	Policy *proof.Policy
	// RefuseProvisional demands the quorum of witnesses; an answer that has only a provisional receipt is then an error.
	RefuseProvisional bool
	// Attempts of one request while the broker is busy or the connection fails; 0 means 4.
	Attempts int
}

// Client is safe for concurrent use.
type Client struct {
	cfg  Config
	base *url.URL
	http *http.Client
}

// New checks the configuration. It opens no connection.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, errors.New("the broker's URL has to be https://host:port")
	}
	if len(cfg.Certificate.Certificate) == 0 {
		return nil, errors.New("a client certificate is needed")
	}
	if cfg.Policy == nil {
		return nil, errors.New("the log's verification key is needed: without it no receipt can be checked")
	}
	if cfg.Attempts == 0 {
		cfg.Attempts = 4
	}
	return &Client{cfg: cfg, base: u, http: &http.Client{
		Timeout: 4 * time.Minute, // a broker may take three and a half: provider, documents, a busy log
		// The certificate is always sent: brokers name no authorities from which a client could choose.
		Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: cfg.Roots,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cfg.Certificate, nil },
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// A Problem is what the broker answered instead of data (RFC 9457).
type Problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
	Source struct {
		Parameter string `json:"parameter"`
		Header    string `json:"header"`
	} `json:"source"`
	Meta struct {
		Provider string `json:"provider"`
	} `json:"meta"`
	retry time.Duration
}

// RetryAfter is when it may be worth asking again; 0: not said.
func (p *Problem) RetryAfter() time.Duration { return p.retry }

func (p *Problem) Error() string {
	s := strconv.Itoa(p.Status) + " " + p.Code + ": " + p.Title
	if at := p.Source.Parameter + p.Source.Header; at != "" {
		s = strconv.Itoa(p.Status) + " " + p.Code + " at " + at + ": " + p.Title
	}
	if p.Detail != "" {
		s += " " + p.Detail
	}
	return s
}

// A Reason of a refusal.
type Reason struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// A Result was recorded by the broker, whatever its outcome.
type Result struct {
	ID       string
	Outcome  string
	AskedAt  time.Time
	Repeated bool
	Reasons  []Reason
	Receipt  []byte
	// PersonHidden: the person was erased since, as the broker says. What the record holds of the subject, context and object can't be seen any more, so it wasn't compared; an earlier receipt shows it.
	PersonHidden bool
	// Verdict of the receipt; its zero value if there was none to check.
	Verdict proof.Verdict
	Data    []byte   // exactly as released; nil unless there was an answer
	Problem *Problem // why there are no data
	// Pause is how long the broker wants to be left alone, because the agency's allowance is used up; 0: not at all.
	Pause time.Duration
}

type body struct {
	ID       string          `json:"id"`
	Outcome  string          `json:"outcome"`
	AskedAt  time.Time       `json:"asked_at"`
	Repeated bool            `json:"repeated"`
	Reasons  []Reason        `json:"reasons"`
	Receipt  string          `json:"receipt"`
	Data     json.RawMessage `json:"data"`
	Nested   *Problem        `json:"problem"`
	Problem
	pause time.Duration
}

// NewKey draws an Idempotency-Key.
func NewKey() string { return rand.Text() }

// Disclose sends one request, which is the JSON of POST /v1/disclosures. While the broker is busy or the connection fails it tries again with the same key; an empty key is drawn.
// The error is a *Problem if nothing was recorded, and wraps ErrReceipt if the receipt is wrong; the Result then holds the receipt and no data.
func (c *Client) Disclose(ctx context.Context, request []byte, key string) (*Result, error) {
	asked := asked{again: key != ""}
	if err := json.Unmarshal(request, &asked); err != nil {
		return nil, fmt.Errorf("the request is not JSON of the expected form (near byte %d)", offset(err))
	}
	if key == "" {
		key = NewKey()
	}
	var res *Result
	for attempt := 1; ; attempt++ {
		b, err := c.call(ctx, http.MethodPost, "/v1/disclosures", request, key)
		if err == nil {
			res, err = c.result(b, &asked)
		}
		var p *Problem
		wait := time.Duration(attempt) * 500 * time.Millisecond
		switch {
		case err == nil || errors.Is(err, ErrReceipt):
			return res, err
		case errors.As(err, &p) && (p.Status != 503 && p.Status != 429 && !(p.Status == 409 && p.retry > 0)):
			return nil, err
		case errors.As(err, &p):
			wait = max(wait, p.retry)
		}
		if attempt == c.cfg.Attempts {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-time.After(min(wait, 10*time.Second)):
		}
	}
}

// Disclosure fetches what became of an earlier request, with the newest form of its receipt. There are no data in it.
func (c *Client) Disclosure(ctx context.Context, id string) (*Result, error) {
	if !IsID(id) {
		return nil, errors.New("this is not the id of a disclosure")
	}
	b, err := c.call(ctx, http.MethodGet, "/v1/disclosures/"+id, nil, "")
	if err != nil {
		return nil, err
	}
	r, err := c.result(b, nil)
	if err == nil && r.ID != id {
		return nil, errors.New("the broker answered about another disclosure")
	}
	return r, err
}

// IsID reports whether s has the form of a disclosure's id: a UUID in lower case. It can be used in a file's name.
func IsID(s string) bool {
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 64 << 20

func (c *Client) call(ctx context.Context, method, path string, request []byte, key string) (*body, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.base.String(), "/")+path, bytes.NewReader(request))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json, application/problem+json")
	if request != nil {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the broker: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("reading the broker's answer: %w", err)
	}
	if len(text) > maxAnswer {
		return nil, errors.New("the broker's answer is too large")
	}
	b := &body{}
	if err := json.Unmarshal(text, b); err != nil {
		return nil, fmt.Errorf("the broker answered %d with something that is not its JSON: is this a broker's URL?", res.StatusCode)
	}
	if res.Header.Get("RateLimit-Remaining") == "0" { // draft-ietf-httpapi-ratelimit-headers-03
		if s, err := strconv.Atoi(res.Header.Get("RateLimit-Reset")); err == nil && s > 0 {
			b.pause = time.Duration(min(s, 3600)) * time.Second
		}
	}
	if res.StatusCode != http.StatusOK {
		b.Status = res.StatusCode
		if s, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && s > 0 {
			b.retry = time.Duration(s) * time.Second
		}
		p := b.Problem
		b.Nested = &p
		if b.ID == "" {
			return nil, &p
		}
	}
	return b, nil
}

// result checks the receipt, and only then hands out the data.
func (c *Client) result(b *body, asked *asked) (*Result, error) {
	r := &Result{ID: b.ID, Outcome: b.Outcome, AskedAt: b.AskedAt, Repeated: b.Repeated, Reasons: b.Reasons, Receipt: []byte(b.Receipt), Problem: b.Nested, Pause: b.pause}
	receipt, err := proof.ParseReceipt(r.Receipt)
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	v, err := receipt.Verify(c.cfg.Policy, proof.VerifyOptions{AllowProvisional: !c.cfg.RefuseProvisional})
	if err != nil {
		return r, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if err := check(receipt.Opening(), b, asked); err != nil {
		if asked != nil && asked.again && b.Nested != nil && b.Nested.Code == "idempotency.expired" { // no proof of a lie, nor of a mistake
			err = fmt.Errorf("%w; the broker says that the Idempotency-Key was used long ago: if you made another request under it, the receipt is that request's, and you need a new key", err)
		}
		return r, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	r.PersonHidden = hidden(receipt.Opening())
	if _, later := receipt.Entry().(proof.Deferred); later && r.PersonHidden && asked != nil {
		return r, fmt.Errorf("%w: its person part is hidden, and no erasure reaches a delayed entry before the delay ends", ErrReceipt)
	}
	r.Verdict, r.Data = v, b.Data
	return r, nil
}

// hidden reports whether an opening shows nothing of the person part, as after an erasure: which destroys all of it, and nothing else.
func hidden(o proof.Opening) bool {
	for _, f := range o.Schema().Fields() {
		if _, p := o.Value(f.Field); f.Person != (p == proof.Hidden) && f.Readers&proof.ReaderAgency != 0 {
			return false
		}
	}
	return true
}

// check compares what was recorded with what was asked and answered.
func check(o proof.Opening, b *body, asked *asked) error {
	if o.Schema() != proof.SchemaDisclosure {
		return errors.New("it is not about a disclosure")
	}
	same := func(f proof.Field, want string) error {
		if o.Text(f) != want {
			return fmt.Errorf("its %s is not the one of this request", o.Schema().Name(f))
		}
		return nil
	}
	// White space alone is none, and an older broker records it.
	said := func(f proof.Field, want string) error {
		if strings.TrimSpace(o.Text(f)) == "" && strings.TrimSpace(want) == "" {
			return nil
		}
		return same(f, want)
	}
	err := errors.Join(same(proof.DisclosureID, b.ID), same(proof.DisclosureOutcome, b.Outcome), same(proof.DisclosureRole, proof.RoleAsked))
	if asked != nil {
		if service, _, _ := strings.Cut(o.Text(proof.DisclosureService), "@"); service != asked.Service {
			err = errors.Join(err, errors.New("its service is not the one of this request"))
		}
		err = errors.Join(err, same(proof.DisclosurePurpose, asked.Purpose), same(proof.DisclosureLegalBasis, asked.LegalBasis), same(proof.DisclosureRecipient, asked.Recipient),
			same(proof.DisclosureOfficial, asked.Official))
		if asked.again && b.Repeated && b.Data == nil && hidden(o) {
			return err
		}
		err = errors.Join(err, said(proof.DisclosureContext, asked.Context), said(proof.DisclosureObject, asked.Object))
		subject, serr := asked.Subject.canonical()
		if serr != nil {
			return errors.Join(err, errors.New("the subject that was asked has no canonical form, and the broker answered"))
		}
		if got, oerr := o.Subject(); oerr != nil || !got.Equal(subject) {
			err = errors.Join(err, errors.New("its subject is not the one of this request"))
		}
	}
	if err != nil || b.Data == nil {
		return err
	}
	return o.CheckPayload(b.Data)
}

// offset of a JSON error; its text could repeat a value.
func offset(err error) int64 {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return syntax.Offset
	case errors.As(err, &kind):
		return kind.Offset
	}
	return 0
}

// asked is a request as far as its record repeats it.
type asked struct {
	Service    string  `json:"service"`
	Purpose    string  `json:"purpose"`
	LegalBasis string  `json:"legal_basis"`
	Recipient  string  `json:"recipient"`
	Context    string  `json:"context"`
	Object     string  `json:"object"`
	Official   string  `json:"official"`
	Subject    subject `json:"subject"`
	// again: the caller gave the Idempotency-Key, and so may have asked before. Under one that was drawn nothing can be a repeat, whatever the broker says.
	again bool
}

type subject struct {
	Type         string     `json:"type"`
	Value        string     `json:"value"`
	BirthName    string     `json:"birth_name"`
	GivenNames   givenNames `json:"given_names"`
	BirthDate    string     `json:"birth_date"`
	Sex          string     `json:"sex"`
	BirthPlace   string     `json:"birth_place"`
	BirthCountry string     `json:"birth_country"`
}

type givenNames string

// UnmarshalJSON takes one text or a list.
func (g *givenNames) UnmarshalJSON(b []byte) error {
	var one string
	if err := json.Unmarshal(b, &one); err == nil {
		*g = givenNames(one)
		return nil
	}
	var list []string
	err := json.Unmarshal(b, &list)
	*g = givenNames(strings.Join(list, " "))
	return err
}

// canonical is the subject under which the broker has to file the request (docs/formats.md, section 5).
func (s *subject) canonical() (proof.Subject, error) {
	switch proof.SubjectType(s.Type) {
	case proof.TypePivot:
		return proof.Pivot{BirthName: s.BirthName, GivenNames: string(s.GivenNames), BirthDate: s.BirthDate, Sex: s.Sex, BirthPlace: s.BirthPlace, BirthCountry: s.BirthCountry}.Subject()
	case proof.TypeNIR:
		return proof.NIR(s.Value)
	case proof.TypeINE:
		return proof.INE(s.Value)
	case proof.TypeFranceTravail:
		return proof.FranceTravail(s.Value)
	case proof.TypeSIREN:
		return proof.SIREN(s.Value)
	case "siret":
		v := strings.ReplaceAll(s.Value, " ", "")
		if err := proof.SIRET(v); err != nil {
			return proof.Subject{}, err
		}
		return proof.SIREN(v[:9])
	}
	return proof.Subject{}, proof.ErrSubject
}
