// Package service reads the declarative definitions of data services and applies them: how a question becomes a provider's URL, which fields of the answer may pass,
// and whom the answer identifies.
//
// What it guarantees. Nothing of what a caller says reaches a URL unescaped, and control characters never do. Of an answer, only granted fields of the declared schema
// survive Filter; numbers and strings keep their literal text; an answer that is not exactly one JSON object of the declared structure is an error and gives nothing.
// Every person the answer states is filed: under the asked pivot identity, as a person, or, if there is no name to file under, under the asked identifier alone.
//
// What it doesn't. It does no input or output. It checks structure, never formats or truth: real answers hold days like 31 June and addresses with two @.
// Free text that is granted may name somebody whom no declared pointer identifies.
package service

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Errors that callers distinguish. No error of this package holds a value of a question or an answer.
var (
	// ErrDefinition: the definition can't be used; the text lists every fault with its line. Correct the file.
	ErrDefinition = errors.New("not a usable service definition")
	// ErrRequest: the question doesn't fit the service. The provider must not be asked; see RequestError (400).
	ErrRequest = errors.New("the question does not fit the service")
	// ErrAnswer: the provider's answer is not JSON of the declared structure. Nothing of it may be released (cause provider/answer).
	ErrAnswer = errors.New("the provider's answer is not as its service declares")
	// ErrPlan: a granted field that the definition doesn't have: the grant is for another version. Decide again.
	ErrPlan = errors.New("the grant does not fit the service definition")
)

// A RequestError says what is wrong with a question, without repeating any of it. It wraps ErrRequest.
type RequestError struct {
	Parameter string // JSON pointer into the request: "/subject", "/subject/birth_name", "/parameters/annee"
	Detail    string // one sentence: what is expected
}

func (e *RequestError) Error() string { return e.Parameter + ": " + e.Detail }

// Unwrap makes a RequestError an ErrRequest.
func (e *RequestError) Unwrap() error { return ErrRequest }

func refuse(parameter, format string, args ...any) error {
	return &RequestError{parameter, fmt.Sprintf(format, args...)}
}

// Identifiers of this package. ID, ProviderID and Scope are tokens, [a-z0-9][a-z0-9._-]{0,63}.
type (
	// ID names a service.
	ID string
	// ProviderID names a provider.
	ProviderID string
	// Scope names a group of fields.
	Scope string
	// Pointer is a JSON pointer (RFC 6901) into an answer, in which "*" stands for every element of an array.
	Pointer string
)

// Text is one sentence in both languages.
type Text struct {
	FR string `yaml:"fr"`
	EN string `yaml:"en"`
}

// A Definition is one version of one service. Make it with Parse; it must not be changed after that. Safe for concurrent use.
type Definition struct {
	// Format is "regard/service@v1".
	Format   string   `yaml:"format"`
	ID       ID       `yaml:"id"`
	Version  int64    `yaml:"version"` // from 1
	Title    Text     `yaml:"title"`
	Provider Provider `yaml:"provider"`
	// Endpoint is the URL without query: https, or http to a loopback address for development (see Development).
	Endpoint string `yaml:"endpoint"`
	// Method is GET.
	Method string `yaml:"method"`
	// Subjects says for each subject type that the service takes how it becomes query parameters.
	Subjects map[SubjectType]Mapping `yaml:"subjects"`
	// Parameters are what else may be asked, in the order of the query.
	Parameters []Parameter `yaml:"parameters"`
	// Select is set if the provider returns only what it is asked for.
	Select *Selection `yaml:"select"`
	// Scopes are the groups of fields that an agreement names.
	Scopes map[Scope]Group `yaml:"scopes"`
	// Answer gives each pointer its JSON type: string, number, integer, boolean, object or array, with a final "?" if it may be null. Parents of a declared
	// pointer are objects, or arrays above "*"; they are declared only to let them be null. The content of an object without declared members is dropped.
	Answer map[Pointer]string `yaml:"answer"`
	// Persons says where the answer identifies people.
	Persons []PersonRule `yaml:"persons"`
	// Links says what happens to URLs in the answer.
	Links  map[Pointer]LinkRule `yaml:"links"`
	Errors ErrorRule            `yaml:"errors"`
	Limits Limits               `yaml:"limits"`
	// Release says on what an answer is released; empty means ReleaseSigned. An agreement may be stricter.
	Release Release `yaml:"release"`
	// Retention are hints for the operator; the broker's own limits go first.
	Retention Retention `yaml:"retention"`

	digest [sha256.Size]byte
	schema *schema
}

// Provider is the body that answers.
type Provider struct {
	ID    ProviderID `yaml:"id"`
	Name  string     `yaml:"name"`
	SIRET string     `yaml:"siret"`
	// Keys are those with which the provider fetches the receipts of what it answered: of each client certificate the SHA-256 of its SubjectPublicKeyInfo, in base64. At most 8; none: it can't.
	Keys []string `yaml:"keys"`
}

// maxProviderKeys is enough for several systems, each with its next certificate.
const maxProviderKeys = 8

// KeyDigests returns the keys' digests, in the order of the file.
func (p *Provider) KeyDigests() [][32]byte {
	out := make([][32]byte, 0, len(p.Keys))
	for _, k := range p.Keys {
		h, err := proof.ParseHash(k)
		if err == nil { // the definition was checked
			out = append(out, h)
		}
	}
	return out
}

// SubjectType is what a question may name: a proof.SubjectType but person, or siret, which is filed under its SIREN.
type SubjectType string

// TypeSIRET is the number of an establishment.
const TypeSIRET SubjectType = "siret"

// A Mapping names the query parameters for a subject; an empty one is not sent.
type Mapping struct {
	// Value is for every type but pivot.
	Value string `yaml:"value"`

	BirthName string `yaml:"birth_name"`
	// GivenNames sends all of them separated by spaces, EachGivenName one parameter each.
	GivenNames    string `yaml:"given_names"`
	EachGivenName string `yaml:"each_given_name"`
	BirthDate     string `yaml:"birth_date"`
	BirthYear     string `yaml:"birth_year"`
	BirthMonth    string `yaml:"birth_month"`
	BirthDay      string `yaml:"birth_day"`
	Sex           string `yaml:"sex"`
	BirthPlace    string `yaml:"birth_place"`
	BirthCountry  string `yaml:"birth_country"`
	// Required parts of a pivot: birth_name, given_names, birth_date, sex, birth_place, birth_country.
	Required []string `yaml:"required"`
}

// ParameterType is the type of a further parameter.
type ParameterType string

// The types of parameters.
const (
	TypeInteger ParameterType = "integer" // decimal, between Min and Max
	TypeDate    ParameterType = "date"    // YYYY-MM-DD, a real day
	TypeEnum    ParameterType = "enum"    // one of Values
	TypePattern ParameterType = "pattern" // matches Pattern as a whole (RE2)
	TypeText    ParameterType = "text"    // any text up to MaxLength characters
)

// A Parameter is a further query parameter. Callers name it by Name.
type Parameter struct {
	Name      string        `yaml:"name"`
	Title     Text          `yaml:"title"`
	Type      ParameterType `yaml:"type"`
	Min       int64         `yaml:"min"`
	Max       int64         `yaml:"max"`
	Values    []string      `yaml:"values"`
	Pattern   string        `yaml:"pattern"`
	MaxLength int           `yaml:"max_length"` // for text and pattern; characters, at most 255
	Required  bool          `yaml:"required"`
}

// A Selection says how the provider is told what is wanted.
type Selection struct {
	// Parameter is the query parameter.
	Parameter string `yaml:"parameter"`
	// By is "field" (pointers are sent) or "scope" (names of scopes; what is asked for is then all their fields).
	By        string `yaml:"by"`
	Separator string `yaml:"separator"`
}

// A Group is a named group of fields. A pointer to an object or array stands for all that is declared below it.
type Group struct {
	Title  Text      `yaml:"title"`
	Fields []Pointer `yaml:"fields"`
}

// A PersonRule says where an answer states who somebody is. Member names are relative to At; several given names are in civil order, and a member may be an array of them.
type PersonRule struct {
	At           Pointer  `yaml:"at"`
	BirthName    string   `yaml:"birth_name"`
	GivenNames   []string `yaml:"given_names"`
	BirthDate    string   `yaml:"birth_date"`
	Sex          string   `yaml:"sex"`
	BirthPlace   string   `yaml:"birth_place"`
	BirthCountry string   `yaml:"birth_country"`
	// SexValues maps the provider's words to M and F; empty: it says M and F.
	SexValues map[string]string `yaml:"sex_values"`
	// MayBeAsked: this can be the person who was asked about.
	MayBeAsked bool `yaml:"may_be_asked"`
	// Scopes whose fields concern this person, beside what stands at At.
	Scopes []Scope `yaml:"scopes"`
}

// LinkMode is what happens to a URL in an answer.
type LinkMode string

// The modes of links. A string that is a URL where none is declared is withheld.
const (
	LinkWithhold LinkMode = "withhold" // never released
	LinkFetch    LinkMode = "fetch"    // the broker fetches the document and puts it in the URL's place
)

// A LinkRule is the treatment of one link.
type LinkRule struct {
	Mode LinkMode `yaml:"mode"`
	// Hosts, MediaTypes and MaxBytes are for fetch: exact hosts (with a port unless it is 443), exact types.
	Hosts      []string `yaml:"hosts"`
	MediaTypes []string `yaml:"media_types"`
	MaxBytes   int64    `yaml:"max_bytes"`
}

// An ErrorRule reads provider errors.
type ErrorRule struct {
	Code     Pointer `yaml:"code"`
	Title    Pointer `yaml:"title"`
	Detail   Pointer `yaml:"detail"`
	Provider Pointer `yaml:"provider"`
	// Empty lists the answers that mean "knows nobody".
	Empty []EmptyRule `yaml:"empty"`
}

// An EmptyRule is a status with the codes that must come with it: a 404 without one of them is a failure, because any misrouted proxy says 404.
type EmptyRule struct {
	Status int      `yaml:"status"`
	Codes  []string `yaml:"codes"`
}

// LongestCall bounds Wait and Total together, and so how long a question takes; its documents take that long again, all together.
const LongestCall = time.Minute

// Limits bound what one service may cost.
type Limits struct {
	// FirstByte and Total are times from the start of a call; Wait is how long a call may queue for a free place.
	FirstByte time.Duration `yaml:"first_byte"`
	Total     time.Duration `yaml:"total"`
	Wait      time.Duration `yaml:"wait"`
	// AnswerBytes is the greatest size of an answer.
	AnswerBytes int64 `yaml:"answer_bytes"`
	// Concurrent calls, and calls per second with their burst. PerSecond 0: no limit.
	Concurrent int     `yaml:"concurrent"`
	PerSecond  float64 `yaml:"per_second"`
	Burst      int     `yaml:"burst"`
	// Persons is the greatest number of people in one answer.
	Persons int `yaml:"persons"`
}

// Release says which receipt an answer waits for.
type Release string

// What an answer waits for.
const (
	ReleaseSigned    Release = "signed"    // the log's own signature
	ReleaseWitnessed Release = "witnessed" // the quorum of witnesses
)

// Retention are hints: how long an answer may be repeated, and how long records are kept.
type Retention struct {
	Answer     time.Duration `yaml:"answer"`
	RecordDays int           `yaml:"record_days"`
}

// Digest is the SHA-256 of the definition's file, as in the log.
func (d *Definition) Digest() [32]byte { return d.digest }

// Ref is the name in records, token@version.
func (d *Definition) Ref() string { return string(d.ID) + "@" + strconv.FormatInt(d.Version, 10) }

// SubjectTypes returns the types under which questions to the service are filed, in increasing order: siren for siret.
func (d *Definition) SubjectTypes() []proof.SubjectType {
	if d.schema == nil {
		return nil
	}
	return append([]proof.SubjectType(nil), d.schema.subjectTypes...)
}

// ScopeFields returns the fields of a scope in increasing order, groups written out; nil if there is no such scope. It must not be changed.
func (d *Definition) ScopeFields(s Scope) []Pointer {
	if d.schema == nil {
		return nil
	}
	return d.schema.scopes[s]
}

// Fields returns every field that the definition declares, in increasing order. It must not be changed.
func (d *Definition) Fields() []Pointer {
	if d.schema == nil {
		return nil
	}
	return d.schema.pointers
}

// Development reports whether the endpoint is plain http, which only a development broker may ask.
func (d *Definition) Development() bool { return d.schema != nil && d.schema.plain }
