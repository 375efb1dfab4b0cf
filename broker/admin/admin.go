// Package admin is the administration of a running broker: HTTP over a unix socket in its data directory, and the client that the regard command uses.
//
// What it guarantees. Only processes of the broker's own user or of root are answered: the kernel says who is at the other end (SO_PEERCRED), the file mode is the second lock. A change that
// was answered stands in the log and is in force for the next request. Every call is logged with the caller's user id.
//
// What it doesn't. It knows no roles: whoever may use the socket may do all of it. Nothing personal passes through it but what history, erase, hold and delegate are about, and that is never logged.
package admin

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// Broker is the part of [broker.Broker] that operators reach. Errors go through [broker.AsProblem].
type Broker interface {
	AddAgency(ctx context.Context, id, name, siret string, cert *x509.Certificate) error
	RotateAgency(ctx context.Context, id string, cert *x509.Certificate, keepOld bool) error
	RevokeAgency(ctx context.Context, id string) error
	Agencies() []store.Agency
	AddAuditor(ctx context.Context, id, name string, cert *x509.Certificate, vkey string) error
	RotateAuditor(ctx context.Context, id string, cert *x509.Certificate, vkey string, keepOld bool) error
	RevokeAuditor(ctx context.Context, id string) error
	Auditors() []store.Auditor
	PutAgreement(context.Context, policy.Agreement) (int64, error)
	RevokeAgreement(ctx context.Context, id string) (int64, error)
	Agreements() []policy.Agreement
	PutService(ctx context.Context, yaml []byte) (*service.Definition, error)
	WithdrawService(ctx context.Context, id string) error
	Definitions() []*service.Definition
	ReloadPolicy(context.Context) error
	PolicyStatus() policy.Status
	History(context.Context, proof.Subject, broker.AccessBy, broker.HistoryPage) (*broker.History, error)
	HistoryFileBy(context.Context, []proof.Subject, proof.EpochRange, broker.AccessBy) (*broker.HistoryFile, error)
	Erase(ctx context.Context, subject proof.Subject, ground string) (broker.Erasure, error)
}

// Config of a Server. All fields but Logger are mandatory.
type Config struct {
	Broker Broker
	// Status describes the broker as it is now.
	Status func(context.Context) Status
	Logger *slog.Logger
}

// maxBody of a call: service definitions are the largest.
const maxBody = 1 << 20

// call is one kind of call: it reads the body, if there is one, and returns what to answer.
type call func(ctx context.Context, r *http.Request, body []byte) (any, error)

// Handler serves the calls; Listen puts it on the socket.
func Handler(cfg Config) (http.Handler, error) {
	if cfg.Broker == nil || cfg.Status == nil {
		return nil, errors.New("admin: no broker given")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &calls{cfg.Broker}
	mux := http.NewServeMux()
	for pattern, c := range map[string]call{
		"GET /status":                  func(ctx context.Context, _ *http.Request, _ []byte) (any, error) { return cfg.Status(ctx), nil },
		"GET /agencies":                s.agencies,
		"POST /agencies":               s.addAgency,
		"POST /agencies/{id}/rotate":   s.rotateAgency,
		"POST /agencies/{id}/revoke":   s.revokeAgency,
		"GET /auditors":                s.auditors,
		"POST /auditors":               s.addAuditor,
		"POST /auditors/{id}/rotate":   s.rotateAuditor,
		"POST /auditors/{id}/revoke":   s.revokeAuditor,
		"GET /agreements":              s.agreements,
		"POST /agreements":             s.putAgreement,
		"POST /agreements/{id}/revoke": s.revokeAgreement,
		"GET /services":                s.services,
		"POST /services":               s.putService,
		"POST /services/{id}/withdraw": s.withdrawService,
		"GET /policy":                  s.policy,
		"POST /policy/reload":          s.reloadPolicy,
		"POST /history":                s.history,
		"POST /history/file":           s.historyFile,
		"POST /erase":                  s.erase,
	} {
		mux.Handle(pattern, handle(cfg.Logger, pattern, c))
	}
	for _, calls := range []map[string]call{delayCalls(cfg.Broker), operationCalls(cfg.Broker), citizenCalls(cfg.Broker)} {
		for pattern, c := range calls {
			mux.Handle(pattern, handle(cfg.Logger, pattern, c))
		}
	}
	return mux, nil
}

func handle(log *slog.Logger, pattern string, c call) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		var v any
		if err != nil {
			err = bad("", "The call is too large or was cut off.", "Send at most 1 MiB.")
		} else {
			v, err = c(r.Context(), r, body)
		}
		status, code := http.StatusOK, ""
		if err != nil {
			p := broker.AsProblem(err)
			status, code = p.Status, p.Code
			e := Error{Status: p.Status, Code: p.Code, Title: p.Title, Detail: p.Detail, Parameter: p.Parameter}
			if cause := errors.Unwrap(p); cause != nil {
				// The operator is at the other end: they may know the cause.
				e.Cause = cause.Error()
			}
			v = e
		}
		if r.Method != http.MethodGet || err != nil {
			peer, _ := r.Context().Value(peerKey{}).(Peer)
			id := r.PathValue("id")
			if d, ok := v.(Done); ok {
				id = d.ID
			}
			log.LogAttrs(r.Context(), slog.LevelInfo, "administration", slog.String("call", pattern), slog.String("id", safeID(id)),
				slog.Int("status", status), slog.String("code", code), slog.Int("uid", peer.UID), slog.Int("pid", peer.PID))
		}
		b, err := json.Marshal(v)
		if err != nil {
			status, b = http.StatusInternalServerError, []byte(`{"status":500,"code":"internal","title":"Internal error."}`)
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write(append(b, '\n'))
	})
}

// safeID keeps what isn't an id out of the log.
func safeID(id string) string {
	if len(id) > 64 || strings.ContainsFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
	}) {
		return "(not an id)"
	}
	return id
}

func bad(parameter, title, detail string) *broker.Problem {
	return &broker.Problem{Status: 400, Code: "request.invalid", Title: title, Detail: detail, Parameter: parameter}
}

// decode is strict: a misspelt member must not be ignored.
func decode(body []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err := d.Decode(v)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows the object")
		}
	}
	if err != nil {
		return bad("", "The call is not JSON of the expected form.", err.Error())
	}
	return nil
}

func certificate(text string) (*x509.Certificate, error) {
	rest := []byte(text)
	for {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			return nil, bad("/certificate", "There is no certificate in the file.", "Give a PEM file with a CERTIFICATE block; the first one counts.")
		}
		if strings.Contains(block.Type, "PRIVATE KEY") {
			return nil, bad("/certificate", "The file holds a private key.", "Give the certificate alone: the private key stays with its owner. If this was the only copy of a key that has now been passed around, replace it.")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, bad("/certificate", "The certificate can't be read.", err.Error())
		}
		return c, nil
	}
}

type calls struct{ b Broker }

// Agency as administration shows it.
type Agency struct {
	ID    string      `json:"id"`
	Name  string      `json:"name"`
	SIRET string      `json:"siret"`
	State string      `json:"state"`
	Keys  []AgencyKey `json:"keys"`
	// Where mails about contests go.
	Contact string `json:"contact,omitempty"`
	DPO     string `json:"dpo,omitempty"`
}

// AgencyKey is a client certificate's key.
type AgencyKey struct {
	SPKI     string    `json:"spki_sha256"` // hexadecimal
	NotAfter time.Time `json:"not_after"`
	State    string    `json:"state"`
}

// NewAgency is the call that adds one.
type NewAgency struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	SIRET       string `json:"siret"`
	Certificate string `json:"certificate"` // PEM
}

// Rotation is the call that replaces an agency's certificate.
type Rotation struct {
	Certificate string `json:"certificate"` // PEM
	// KeepOld leaves the earlier certificates in force, for a change without a gap; rotate again without it to end them.
	KeepOld bool `json:"keep_old"`
}

func (s *calls) agencies(context.Context, *http.Request, []byte) (any, error) {
	out := []Agency{}
	for _, a := range s.b.Agencies() {
		v := Agency{a.ID, a.Name, a.SIRET, a.State, []AgencyKey{}, a.Contact, a.DPO}
		for _, k := range a.Keys {
			v.Keys = append(v.Keys, AgencyKey{fmt.Sprintf("%x", k.SPKI), k.NotAfter, k.State})
		}
		out = append(out, v)
	}
	return out, nil
}

func (s *calls) addAgency(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in NewAgency
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	cert, err := certificate(in.Certificate)
	if err != nil {
		return nil, err
	}
	return Done{ID: in.ID}, s.b.AddAgency(ctx, in.ID, in.Name, in.SIRET, cert)
}

func (s *calls) rotateAgency(ctx context.Context, r *http.Request, body []byte) (any, error) {
	var in Rotation
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	cert, err := certificate(in.Certificate)
	if err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	return Done{ID: id}, s.b.RotateAgency(ctx, id, cert, in.KeepOld)
}

func (s *calls) revokeAgency(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	id := r.PathValue("id")
	return Done{ID: id}, s.b.RevokeAgency(ctx, id)
}

func (s *calls) agreements(context.Context, *http.Request, []byte) (any, error) {
	out := []Agreement{}
	for _, a := range s.b.Agreements() {
		out = append(out, showAgreement(&a))
	}
	return out, nil
}

func (s *calls) putAgreement(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in Agreement
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	a, err := in.parse()
	if err != nil {
		return nil, err
	}
	version, err := s.b.PutAgreement(ctx, a)
	return Done{in.ID, version}, err
}

func (s *calls) revokeAgreement(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	id := r.PathValue("id")
	version, err := s.b.RevokeAgreement(ctx, id)
	return Done{id, version}, err
}

// Service as administration shows it.
type Service struct {
	ID       string   `json:"id"`
	Version  int64    `json:"version"`
	Title    string   `json:"title"`
	Provider string   `json:"provider"`
	Scopes   []string `json:"scopes"`
	Subjects []string `json:"subjects"`
}

func (s *calls) services(context.Context, *http.Request, []byte) (any, error) {
	out := []Service{}
	for _, d := range s.b.Definitions() {
		out = append(out, Describe(d))
	}
	return out, nil
}

func (s *calls) putService(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	d, err := s.b.PutService(ctx, body)
	if err != nil {
		return nil, err
	}
	return Done{string(d.ID), d.Version}, nil
}

func (s *calls) withdrawService(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	id := r.PathValue("id")
	return Done{ID: id}, s.b.WithdrawService(ctx, id)
}

// Policy that is in force.
type Policy struct {
	Revision string `json:"revision"`
	Digest   string `json:"digest"` // base64, as in the log
	Blob     string `json:"blob"`   // hexadecimal, as in the path of the public blob
	// Problem of the last reload: the bundle in force is then not the one in the directory.
	Problem string `json:"problem,omitempty"`
}

func (s *calls) policy(context.Context, *http.Request, []byte) (any, error) {
	return ShowPolicy(s.b.PolicyStatus()), nil
}

func (s *calls) reloadPolicy(ctx context.Context, _ *http.Request, _ []byte) (any, error) {
	if err := s.b.ReloadPolicy(ctx); err != nil {
		return nil, &broker.Problem{Status: 409, Code: "policy.unusable", Title: "The bundle can't be used; the one in force stays.", Detail: err.Error()}
	}
	return ShowPolicy(s.b.PolicyStatus()), nil
}

// ShowPolicy is how a bundle is shown.
func ShowPolicy(st policy.Status) Policy {
	p := Policy{Revision: st.Revision, Digest: st.Digest.String(), Blob: st.Digest.Hex()}
	if st.Problem != nil {
		p.Problem = st.Problem.Error()
	}
	return p
}

// Done answers a change.
type Done struct {
	ID      string `json:"id"`
	Version int64  `json:"version,omitempty"`
}

// Status of a broker.
type Status struct {
	Version  string    `json:"version"`
	PID      int       `json:"pid"`
	Started  time.Time `json:"started"`
	Ready    bool      `json:"ready"`
	Problem  string    `json:"problem,omitempty"` // why it is not ready
	InFlight int       `json:"in_flight"`
	Log      LogStatus `json:"log"`
	// Witnesses in the order of their policy; none: nobody cosigns.
	Witnesses []Witness `json:"witnesses,omitempty"`
	// Cluster is this broker's part among several that share the log; nil: it is alone.
	Cluster *Cluster `json:"cluster,omitempty"`
	Policy  Policy   `json:"policy"`
	Damage  Damage   `json:"damage"`
	Delays  Delayed  `json:"deferrals"`
	People  People   `json:"people"`
	// Listening addresses by name: api, public, ops.
	Listening map[string]string `json:"listening"`
}

// LogStatus of the transparency log.
type LogStatus struct {
	Origin    string    `json:"origin"`
	Keys      []string  `json:"keys"` // verification keys, newest first
	Size      uint64    `json:"size"`
	Published uint64    `json:"published"`
	Waiting   int       `json:"waiting"`
	Epoch     uint64    `json:"epoch"`
	Until     time.Time `json:"until"`
	Lag       string    `json:"lag"`
	Halted    bool      `json:"halted"`
	// Witnessed entries: under the newest published checkpoint that has the quorum of witnesses.
	Witnessed uint64 `json:"witnessed"`
	// QuorumMissing is for how long the quorum has been missing; empty: it is there, or nobody cosigns.
	QuorumMissing string `json:"quorum_missing,omitempty"`
}

// Cluster is a broker's part in a log that several share.
type Cluster struct {
	Name    string    `json:"name"`
	Role    string    `json:"role"` // leads, follows
	Term    int64     `json:"term"`
	Leader  string    `json:"leader,omitempty"` // empty: nobody leads
	Renewed time.Time `json:"renewed,omitzero"` // the leader's lease
	Members int       `json:"members"`
	Waiting int       `json:"waiting"` // groups of entries that were handed over, and have no place yet
}

// Witness is how a witness of the log is doing.
type Witness struct {
	Name     string    `json:"name"`
	URL      string    `json:"url"`
	Cosigned int64     `json:"cosigned"`    // checkpoints, since the broker's start
	Size     uint64    `json:"size"`        // entries under the last one
	At       time.Time `json:"at,omitzero"` // of its cosignature, by the witness's clock
	Failing  bool      `json:"failing"`     // the last attempt failed
	Reason   string    `json:"reason,omitempty"`
}

// People counts what people asked for and waits.
type People struct {
	Contests int64 `json:"contests"` // open
	Overdue  int64 `json:"contests_overdue"`
	Erasures int64 `json:"erasures"` // identifiers that wait for their erasure
	Blocked  int64 `json:"erasures_blocked"`
	Mails    int64 `json:"mails"` // that wait to be sent
}

// Damage counts what is in the store and can't be read: see docs/operate.md, Damaged records.
type Damage struct {
	Requests int `json:"requests"` // without an outcome: they can't be recorded in the log
	Erasures int `json:"erasures"` // that were begun and can't be carried through
	Delays   int `json:"delays"`   // disclosures whose delay is over, and that can't be opened
}

// Delayed counts entries of which somebody learns later.
type Delayed struct {
	Pending int64 `json:"pending"`
	Overdue int64 `json:"overdue"` // among these: the delay is over
}
