package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// disclose serves POST /v1/disclosures.
func (a *API) disclose(x *exchange) *broker.Problem {
	req, key, p := posted(x, decodeRequest)
	if p != nil {
		return p
	}
	req.IdempotencyKey = key
	if t := x.r.Header["Traceparent"]; len(t) == 1 {
		req.TraceID = traceID(t[0])
	}
	// Taken when the body is here, so that slow senders hold no place.
	leave, p := a.place()
	if p != nil {
		return p
	}
	defer leave()
	answer, err := a.cfg.Broker.Disclose(x.r.Context(), x.caller, req)
	if err != nil {
		return x.problem(err)
	}
	defer answer.Free()
	// It was recorded, so this is a service of the registry, and not just any text.
	x.service = req.Service
	return x.answer(answer)
}

// posted reads a body and the key under which it may be sent again.
func posted[T any](x *exchange, decode func([]byte) (*T, *broker.Problem)) (req *T, key string, p *broker.Problem) {
	if key, p = idempotencyKey(x.r.Header["Idempotency-Key"]); p != nil {
		return nil, "", p
	}
	body, p := x.body()
	if p != nil {
		return nil, "", p
	}
	req, p = decode(body)
	return req, key, p
}

// idempotencyKey takes at most one header of 1 to 255 printable ASCII characters without spaces.
func idempotencyKey(values []string) (string, *broker.Problem) {
	if len(values) == 0 {
		return "", nil
	}
	ok := len(values) == 1 && len(values[0]) >= 1 && len(values[0]) <= 255
	for i := 0; ok && i < len(values[0]); i++ {
		ok = values[0][i] > 0x20 && values[0][i] < 0x7f
	}
	if !ok {
		return "", &broker.Problem{Status: 400, Code: "idempotency.invalid", Title: "The Idempotency-Key is not valid.",
			Detail: "Send one, of 1 to 255 printable ASCII characters without spaces, or none.", Parameter: "Idempotency-Key"}
	}
	return values[0], nil
}

// traceID reads the trace id of a W3C traceparent, "" if it isn't valid: then it is ignored (https://www.w3.org/TR/trace-context/, section 3.2).
func traceID(h string) string {
	const length = len("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	if len(h) < length || h[2] != '-' || h[35] != '-' || h[52] != '-' || h[:2] == "ff" {
		return ""
	}
	if len(h) > length && (h[:2] == "00" || h[length] != '-') { // later versions may say more
		return ""
	}
	id, parent := h[3:35], h[36:52]
	if !lowerHex(h[:2]) || !lowerHex(id) || !lowerHex(parent) || !lowerHex(h[53:55]) || zeros(id) || zeros(parent) {
		return ""
	}
	return id
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func zeros(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}

// disclosure serves GET /v1/disclosures/{id}. A malformed id is the id of nothing.
func (a *API) disclosure(x *exchange) *broker.Problem {
	answer, err := a.cfg.Broker.Disclosure(x.r.Context(), x.caller, parseID(x.r.PathValue("id")))
	if err != nil {
		return x.problem(err)
	}
	return x.record(answer)
}

// parseID reads a UUID in its usual form, of the several that uuid.Parse takes; the id of nothing if it is another text.
func parseID(s string) store.ID {
	id, err := uuid.Parse(s)
	if err != nil || id.String() != s {
		return store.ID{}
	}
	return store.ID(id)
}

func formatID(id store.ID) string { return uuid.UUID(id).String() }

type servicesBody struct {
	Services []broker.ServiceInfo `json:"services" doc:"Those that the agency may know of, with its agreements."`
}

func (a *API) services(x *exchange) *broker.Problem {
	list := a.cfg.Broker.Services(x.caller)
	if list == nil {
		list = []broker.ServiceInfo{}
	}
	return x.json(servicesBody{list})
}

type whoamiBody struct {
	Agency      *agencyBody     `json:"agency,omitempty" doc:"Unless you are an auditor."`
	Auditor     *auditorBody    `json:"auditor,omitempty" doc:"If you are one."`
	Certificate certificateBody `json:"certificate"`
}

type agencyBody struct {
	ID    string `json:"id" example:"ccas-saint-lary"`
	Name  string `json:"name" example:"CCAS de Saint-Lary"`
	SIRET string `json:"siret" example:"13002526500013"`
}

type auditorBody struct {
	ID   string `json:"id" example:"cour-des-comptes"`
	Name string `json:"name" example:"Cour des comptes"`
}

type certificateBody struct {
	SPKI      string    `json:"spki_sha256" doc:"SHA-256 of the public key (SubjectPublicKeyInfo), hexadecimal: how the certificate is registered."`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

func (a *API) whoami(x *exchange) *broker.Problem {
	cert := x.r.TLS.PeerCertificates[0]
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	who := whoamiBody{Certificate: certificateBody{hex.EncodeToString(spki[:]), cert.NotBefore.UTC(), cert.NotAfter.UTC()}}
	if x.caller.Auditor {
		who.Auditor = &auditorBody{x.caller.ID, x.caller.Name}
	} else {
		who.Agency = &agencyBody{x.caller.ID, x.caller.Name, x.caller.SIRET}
	}
	return x.json(who)
}

func (x *exchange) json(v any) *broker.Problem {
	b, err := json.Marshal(v)
	if err != nil {
		return x.problem(err)
	}
	x.w.Header()["Content-Type"] = asJSON
	x.write(200, append(b, '\n'))
	return nil
}
