package service

import (
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// A Request is a question as it goes to the provider. Its URL holds the identity that is asked about, so it redacts itself.
type Request struct {
	Method string
	url    *string // behind a pointer: fmt doesn't follow it
}

// URL returns the whole URL. It is personal data: never log it.
func (r Request) URL() string {
	if r.url == nil {
		return ""
	}
	return *r.url
}

// String shows nothing.
func (r Request) String() string { return "request:[redacted]" }

// Format implements fmt.Formatter: every verb shows nothing.
func (r Request) Format(f fmt.State, _ rune) { fmt.Fprint(f, r.String()) }

// LogValue implements slog.LogValuer: it shows nothing.
func (r Request) LogValue() slog.Value { return slog.StringValue(r.String()) }

// query builds a query string; every name and value is escaped here and nowhere else. A nil one takes nothing down.
type query struct{ b strings.Builder }

func (q *query) add(name, value string) {
	if q == nil || name == "" || value == "" {
		return
	}
	if q.b.Len() > 0 {
		q.b.WriteByte('&')
	}
	q.b.WriteString(url.QueryEscape(name))
	q.b.WriteByte('=')
	q.b.WriteString(url.QueryEscape(value))
}

// Request writes the question for the provider. Its errors are RequestErrors: the provider must not be asked.
func (p *Plan) Request(who Asked, parameters map[string]string) (Request, error) {
	var q query
	q.b.Grow(256)
	if err := p.def.checked(who, parameters, &q); err != nil {
		return Request{}, err
	}
	if p.def.Select != nil {
		q.add(p.def.Select.Parameter, p.selection)
	}
	u := *p.def.schema.endpoint
	u.RawQuery = q.b.String()
	text := u.String()
	return Request{p.def.Method, &text}, nil
}

// Check says whether a question fits the service, before anything is decided or granted. Its errors are RequestErrors (400).
func (d *Definition) Check(who Asked, parameters map[string]string) error {
	if d == nil || d.schema == nil {
		return fmt.Errorf("checking a question with no definition: %w", ErrPlan)
	}
	return d.checked(who, parameters, nil)
}

func (d *Definition) checked(who Asked, parameters map[string]string, q *query) error {
	m, ok := d.Subjects[who.Type()]
	if !ok {
		return refuse("/subject/type", "the service doesn't take this type of subject; it takes %s", strings.Join(slices.Sorted(func(yield func(string) bool) {
			for t := range d.Subjects {
				if !yield(string(t)) {
					return
				}
			}
		}), ", "))
	}
	if who.typ != SubjectType(proof.TypePivot) {
		q.add(m.Value, who.value)
	} else if err := who.asked.query(&m, q); err != nil {
		return err
	}
	known := 0
	for i := range d.Parameters {
		par := &d.Parameters[i]
		value, given := parameters[par.Name]
		if given {
			known++
		}
		if value == "" {
			if par.Required || given {
				return refuse("/parameters/"+par.Name, "missing or empty")
			}
			continue
		}
		if err := d.parameter(par, value); err != nil {
			return err
		}
		q.add(par.Name, value)
	}
	if known != len(parameters) {
		return refuse("/parameters", "the service takes no such parameter; it takes %s", d.parameterNames())
	}
	return nil
}

func (d *Definition) parameterNames() string {
	if len(d.Parameters) == 0 {
		return "none"
	}
	names := make(map[string]bool, len(d.Parameters))
	for i := range d.Parameters {
		names[d.Parameters[i].Name] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), ", ")
}

// query writes a pivot identity in the caller's spelling.
func (a *asked) query(m *Mapping, q *query) error {
	p := &a.pivot
	for _, r := range m.Required {
		var v string
		switch r {
		case "birth_name":
			v = p.BirthName
		case "given_names":
			v = p.GivenNames
		case "birth_date":
			v = p.BirthDate
		case "sex":
			v = p.Sex
		case "birth_place":
			v = p.BirthPlace
		case "birth_country":
			v = p.BirthCountry
		}
		if v == "" {
			return refuse("/subject/"+r, "the service needs it")
		}
	}
	q.add(m.BirthName, p.BirthName)
	q.add(m.GivenNames, p.GivenNames)
	if m.EachGivenName != "" {
		for n := range strings.SplitSeq(p.GivenNames, " ") {
			q.add(m.EachGivenName, n)
		}
	}
	q.add(m.BirthDate, p.BirthDate)
	// The subject was checked, so the date is YYYY, YYYY-MM, YYYY-MM-DD or empty.
	if len(p.BirthDate) >= 4 {
		q.add(m.BirthYear, p.BirthDate[:4])
	}
	if len(p.BirthDate) >= 7 {
		q.add(m.BirthMonth, strings.TrimPrefix(p.BirthDate[5:7], "0"))
	}
	if len(p.BirthDate) >= 10 {
		q.add(m.BirthDay, strings.TrimPrefix(p.BirthDate[8:10], "0"))
	}
	q.add(m.Sex, p.Sex)
	q.add(m.BirthPlace, p.BirthPlace)
	q.add(m.BirthCountry, p.BirthCountry)
	return nil
}

func (d *Definition) parameter(par *Parameter, value string) error {
	at := "/parameters/" + par.Name
	max := maxValue
	if par.MaxLength > 0 {
		max = par.MaxLength
	}
	if why := badText(value, max); why != "" {
		return refuse(at, "%s", why)
	}
	switch par.Type {
	case TypeInteger:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || strconv.FormatInt(n, 10) != value || n < par.Min || n > par.Max {
			return refuse(at, "want an integer from %d to %d", par.Min, par.Max)
		}
	case TypeDate:
		if _, err := time.Parse(time.DateOnly, value); err != nil {
			return refuse(at, "want a date, YYYY-MM-DD")
		}
	case TypeEnum:
		if !slices.Contains(par.Values, value) {
			return refuse(at, "want one of %s", strings.Join(par.Values, ", "))
		}
	case TypePattern:
		if m := d.schema.patterns[par.Name]; m == nil || !m.MatchString(value) {
			return refuse(at, "doesn't have the form that the service declares")
		}
	}
	return nil
}
