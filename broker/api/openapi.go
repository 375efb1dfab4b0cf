package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"

	"github.com/danielgtaylor/huma/v2"
)

// The bodies as they are documented. A test holds them against what decodeRequest takes and what the API answers.

type requestBody struct {
	Service    string            `json:"service" doc:"Id of the service." example:"cnav-quotient-familial" maxLength:"64"`
	Scopes     []string          `json:"scopes" doc:"The groups of fields that are needed, and no more." minItems:"1" maxItems:"64"`
	Agreement  string            `json:"agreement,omitempty" doc:"Which agreement the request relies on; by default the one that covers purpose and legal basis; of several, the one in force now, then one that covers the scopes, then the first by id." maxLength:"64"`
	Purpose    string            `json:"purpose" doc:"What the data is asked for, as in the agreement." maxLength:"64"`
	LegalBasis string            `json:"legal_basis" doc:"The text that allows asking, as in the agreement." maxLength:"64"`
	Recipient  string            `json:"recipient" doc:"SIRET of the body that will use the answer." pattern:"^[0-9]{14}$" example:"13002526500013"`
	Context    string            `json:"context" doc:"The procedure for which it is asked; the person will read it." maxLength:"255"`
	Object     string            `json:"object" doc:"The file or case for which it is asked; the person will read it." maxLength:"49"`
	Official   string            `json:"official,omitempty" doc:"The agency's own opaque reference of its agent. No name." maxLength:"64"`
	Subject    subjectBody       `json:"subject" doc:"The person or business asked about."`
	Parameters map[string]scalar `json:"parameters,omitempty" doc:"Further parameters of the service."`
}

type subjectBody struct {
	Type         string     `json:"type" enum:"pivot,nir,ine,france_travail,siren,siret"`
	Value        string     `json:"value,omitempty" doc:"The identifier; every type but pivot."`
	BirthName    string     `json:"birth_name,omitempty" doc:"Type pivot."`
	GivenNames   givenNames `json:"given_names,omitempty" doc:"Type pivot: in civil order, as a list or one text."`
	BirthDate    string     `json:"birth_date,omitempty" doc:"Type pivot: YYYY-MM-DD, or YYYY-MM, or YYYY."`
	Sex          string     `json:"sex,omitempty" enum:"M,F" doc:"Type pivot."`
	BirthPlace   string     `json:"birth_place,omitempty" doc:"Type pivot: INSEE code of the commune; left out for somebody born abroad."`
	BirthCountry string     `json:"birth_country,omitempty" doc:"Type pivot: INSEE code of the country; France is 99100."`
}

// givenNames and scalar have schemas of their own: Go has no type for one or the other.
type (
	givenNames struct{}
	scalar     struct{}
)

func (givenNames) Schema(huma.Registry) *huma.Schema {
	text := &huma.Schema{Type: huma.TypeString}
	return &huma.Schema{OneOf: []*huma.Schema{text, {Type: huma.TypeArray, Items: text}}}
}

func (scalar) Schema(huma.Registry) *huma.Schema {
	one := []*huma.Schema{{Type: huma.TypeString}, {Type: huma.TypeNumber}}
	return &huma.Schema{OneOf: append(one[:2:2], &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{OneOf: one}})}
}

type reasonBody struct {
	Code    string `json:"code" example:"agreement.no_longer_valid"`
	Message string `json:"message,omitempty" doc:"One sentence, in the language that Accept-Language asks for (fr, en)."`
}

type answerBody struct {
	ID           string          `json:"id" format:"uuid" doc:"Of the disclosure."`
	Outcome      string          `json:"outcome" enum:"released"`
	AskedAt      string          `json:"asked_at" format:"date-time"`
	Repeated     bool            `json:"repeated" doc:"This is the answer to an earlier request with the same Idempotency-Key."`
	Reasons      []reasonBody    `json:"reasons" doc:"Always empty where data were released."`
	ReceiptState string          `json:"receipt_state" enum:"provisional,witnessed,settled"`
	Settled      bool            `json:"settled" doc:"The receipt shows the entry in the person's roll of its closed epoch."`
	Receipt      string          `json:"receipt" doc:"Proof that the request is in the log, and what was recorded: keep it."`
	Data         json.RawMessage `json:"data" doc:"The released fields. It is the last member, and the receipt's digest is over its very bytes."`
}

type recordBody struct {
	ID           string       `json:"id" format:"uuid"`
	Outcome      string       `json:"outcome" enum:"released,empty,denied,failed"`
	AskedAt      string       `json:"asked_at" format:"date-time"`
	Repeated     bool         `json:"repeated"`
	Reasons      []reasonBody `json:"reasons" doc:"Why policy refused."`
	ReceiptState string       `json:"receipt_state" enum:"provisional,witnessed,settled"`
	Settled      bool         `json:"settled" doc:"The receipt shows the entry in the person's roll of its closed epoch."`
	Receipt      string       `json:"receipt" doc:"The receipt in its newest form."`
	Problem      *problemBody `json:"problem,omitempty" doc:"Why there were no data."`
}

type sourceBody struct {
	Parameter string `json:"parameter,omitempty" doc:"JSON pointer to the member at fault."`
	Header    string `json:"header,omitempty" doc:"Name of the header at fault."`
}

type metaBody struct {
	Provider string `json:"provider"`
}

type problemBody struct {
	Type   string      `json:"type" example:"urn:regard:problem:request.invalid"`
	Title  string      `json:"title"`
	Status int         `json:"status"`
	Detail string      `json:"detail" doc:"What to do."`
	Code   string      `json:"code" doc:"Stable."`
	Source *sourceBody `json:"source,omitempty"`
	Meta   *metaBody   `json:"meta,omitempty" doc:"Which provider said so."`

	ID           string       `json:"id,omitempty" format:"uuid" doc:"Of the disclosure, if it was recorded; so are the following."`
	Outcome      string       `json:"outcome,omitempty" enum:"released,empty,denied,failed"`
	AskedAt      string       `json:"asked_at,omitempty"`
	Repeated     bool         `json:"repeated,omitempty"`
	Reasons      []reasonBody `json:"reasons,omitempty"`
	ReceiptState string       `json:"receipt_state,omitempty" enum:"none,provisional,witnessed,settled"`
	Settled      bool         `json:"settled,omitempty"`
	Receipt      string       `json:"receipt,omitempty"`
}

// document describes the API. Its routes are served by handlers of our own: the strict parser costs a tenth of huma's validation, and an answer's bytes must not be encoded again.
func document(version string) *huma.OpenAPI {
	if version == "" {
		version = "unknown"
	}
	reg := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	o := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "Regard", Version: version,
			Description: "Data requests between public bodies, each recorded in a public log before its answer is released. Every problem is application/problem+json (RFC 9457) with a stable code.",
		},
		Components: &huma.Components{
			Schemas:         reg,
			SecuritySchemes: map[string]*huma.SecurityScheme{"certificate": {Type: "mutualTLS", Description: "The client certificate that the operator registered for the agency or the auditor."}},
		},
		Security: []map[string][]string{{"certificate": {}}},
	}
	content := func(media string, v any) map[string]*huma.MediaType {
		return map[string]*huma.MediaType{media: {Schema: reg.Schema(reflect.TypeOf(v), true, "")}}
	}
	text := func(name, in, doc string, required bool) *huma.Param {
		return &huma.Param{Name: name, In: in, Description: doc, Required: required, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	add := func(method, path, id, summary string, ok any, statuses map[int]string, params ...*huma.Param) *huma.Operation {
		op := &huma.Operation{
			Method: method, Path: path, OperationID: id, Summary: summary, Parameters: params,
			Responses: map[string]*huma.Response{},
		}
		if ok != nil {
			op.Responses["200"] = &huma.Response{Description: "OK", Content: content("application/json", ok)}
		}
		for _, common := range []struct {
			status int
			says   string
		}{
			{401, "No certificate, or one that isn't registered or not valid now."}, {403, "The certificate is registered for another kind of caller."}, {429, "Too many requests of this caller: wait as Retry-After says."}, {500, "A fault of the broker."}, {503, "The broker can't record now: wait as Retry-After says."},
		} {
			if _, ok := statuses[common.status]; !ok {
				statuses[common.status] = common.says
			}
		}
		for status, says := range statuses {
			op.Responses[strconv.Itoa(status)] = &huma.Response{Description: says, Content: content("application/problem+json", problemBody{})}
		}
		o.AddOperation(op)
		return op
	}
	language := text("Accept-Language", "header", "fr (default) or en, for the sentences of reasons.", false)
	add("POST", "/v1/disclosures", "disclose", "Ask for data about one person or business", answerBody{}, map[int]string{
		400: "The request is malformed; nothing was recorded.", 403: "Policy refused; recorded.", 404: "The provider knows nobody, which is recorded; or the service is unknown.", 408: "The body did not arrive in time.",
		409: "The Idempotency-Key was used with another request, or its request is still running.", 410: "It was released, and the time to repeat it is over; the receipt is there.",
		413: "The body is too large.", 415: "The body is not JSON.", 422: "The agreement must be named, and nothing was recorded; or the provider finds the request unprocessable, which is recorded.", 502: "The provider failed; recorded.", 504: "The provider did not answer in time; recorded.",
	},
		text("Idempotency-Key", "header", "1 to 255 printable ASCII characters without spaces, of the agency's choice: the same key and body give the same answer, and the provider is asked once.", false),
		text("traceparent", "header", "W3C trace context; its trace id is recorded.", false),
		text("X-Request-ID", "header", "Echoed in the answer.", false), language,
	).RequestBody = &huma.RequestBody{Required: true, Content: content("application/json", requestBody{})}
	add("GET", "/v1/disclosures/{id}", "disclosure", "What became of an earlier request, with the newest form of its receipt; without the data", recordBody{}, map[int]string{
		404: "The agency has no such disclosure.", 409: "It has no outcome yet.", 410: "The retention of its details has ended.",
	}, text("id", "path", "Of the disclosure.", true), language)
	add("GET", "/v1/services", "services", "What can be asked, and under which agreements", servicesBody{}, map[int]string{})
	add("GET", "/v1/provider/disclosures/{id}", "provider-receipts", "For providers: the receipts of one disclosure that they were asked for", receiptsBody{}, map[int]string{
		404: "The provider was asked for no such disclosure.", 409: "It has no outcome yet, or its entries are not published yet: wait as Retry-After says.", 410: "The retention of its details has ended.",
	}, text("id", "path", "Of the disclosure.", true))
	add("POST", "/v1/provider/receipts", "provider-receipts-batch", "For providers: the receipts of many disclosures", batchBody{}, map[int]string{
		400: "Not 1 to 100 ids.", 408: "The body did not arrive in time.", 413: "The body is too large.", 415: "The body is not JSON.",
	}).RequestBody = &huma.RequestBody{Required: true, Content: content("application/json", idsBody{})}
	add("GET", "/v1/provider/keys", "provider-keys", "For providers: the keys that sign intents, with the log's proof", keysBody{}, map[int]string{})
	add("GET", "/v1/whoami", "whoami", "Who the broker thinks you are", whoamiBody{}, map[int]string{})
	documentContests(add, content, text)
	documentAudit(o, add, content, text)
	return o
}

func openAPI(version string) ([]byte, error) {
	b, err := json.Marshal(document(version))
	if err != nil {
		return nil, fmt.Errorf("describing the API: %w", err)
	}
	return append(b, '\n'), nil
}
