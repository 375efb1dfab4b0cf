package api

import (
	"strings"

	"github.com/regard-broker/regard/broker"
)

// Names of the members of a request, in the order of the switch statements below.
var (
	requestNames = []string{"service", "scopes", "agreement", "purpose", "legal_basis", "recipient", "context", "object", "official", "subject", "parameters"}
	subjectNames = []string{"type", "value", "birth_name", "given_names", "birth_date", "sex", "birth_place", "birth_country"}
)

// decodeRequest parses the body of POST /v1/disclosures. What the values mean is for the broker to judge.
func decodeRequest(body []byte) (*broker.Request, *broker.Problem) {
	s := scanner{b: body, path: make([]byte, 0, 64)}
	req := &broker.Request{}
	var subject bool
	p := s.object(requestNames, func(at int, _ string) (p *broker.Problem) {
		switch at {
		case 0:
			req.Service, p = s.string()
		case 1:
			p = s.array(func() *broker.Problem {
				v, p := s.string()
				req.Scopes = append(req.Scopes, v)
				return p
			})
		case 2:
			req.Agreement, p = s.string()
		case 3:
			req.Purpose, p = s.string()
		case 4:
			req.LegalBasis, p = s.string()
		case 5:
			req.Recipient, p = s.string()
		case 6:
			req.Context, p = s.string()
		case 7:
			req.Object, p = s.string()
		case 8:
			req.Official, p = s.string()
		case 9:
			subject = true
			p = s.subject(&req.Subject)
		case 10:
			req.Parameters, p = s.parameters()
		default:
			p = s.unknown()
		}
		return p
	})
	if p == nil {
		p = s.end()
	}
	if p == nil && !subject {
		s.push("subject")
		p = s.missing()
	}
	if p != nil {
		return nil, p
	}
	return req, nil
}

func (s *scanner) unknown() *broker.Problem {
	return s.problem("request.parameter.unknown", "The request has a member that is not known.", "Remove it, or correct its name: letter case counts.")
}

func (s *scanner) missing() *broker.Problem {
	return s.problem("request.parameter.missing", "The request lacks a member.", "Send it.")
}

func (s *scanner) subject(in *broker.SubjectInput) *broker.Problem {
	depth := len(s.path)
	var value, pivot string // the first member of each kind that was there
	var hasValue, hasPivot bool
	p := s.object(subjectNames, func(at int, name string) (p *broker.Problem) {
		switch {
		case at == 1 && !hasValue:
			value, hasValue = name, true
		case at > 1 && !hasPivot:
			pivot, hasPivot = name, true
		}
		switch at {
		case 0:
			in.Type, p = s.string()
		case 1:
			in.Value, p = s.string()
		case 2:
			in.Pivot.BirthName, p = s.string()
		case 3:
			in.Pivot.GivenNames, p = s.givenNames()
		case 4:
			in.Pivot.BirthDate, p = s.string()
		case 5:
			in.Pivot.Sex, p = s.string()
		case 6:
			in.Pivot.BirthPlace, p = s.string()
		case 7:
			in.Pivot.BirthCountry, p = s.string()
		default:
			p = s.unknown()
		}
		return p
	})
	if p != nil {
		return p
	}
	s.path = s.path[:depth]
	switch {
	case in.Type == "":
		s.push("type")
		p = s.missing()
	case in.Type == "pivot" && hasValue:
		s.push(value)
		p = s.problem("request.invalid", "A subject of type pivot has no value.", "Send birth_name, given_names, birth_date, sex, birth_place, birth_country.")
	case in.Type != "pivot" && hasPivot:
		s.push(pivot)
		p = s.problem("request.invalid", "Only a subject of type pivot has this member.", "Send type and value.")
	case in.Type != "pivot" && in.Value == "":
		s.push("value")
		p = s.missing()
	}
	if p == nil {
		s.path = s.path[:depth]
	}
	return p
}

// givenNames takes one text or a list; a list is joined by spaces, in civil order.
func (s *scanner) givenNames() (string, *broker.Problem) {
	if s.peek() != '[' {
		return s.string()
	}
	return s.joined(" ", func() (string, *broker.Problem) { return s.string() })
}

// parameters are texts for the broker: a number is taken as written, a list is joined by commas.
func (s *scanner) parameters() (map[string]string, *broker.Problem) {
	out := map[string]string{}
	p := s.object(nil, func(_ int, name string) (p *broker.Problem) {
		if name == "" {
			return s.unknown()
		}
		out[name], p = s.parameter()
		return p
	})
	return out, p
}

func (s *scanner) parameter() (string, *broker.Problem) {
	if s.peek() != '[' {
		return s.scalar()
	}
	return s.joined(",", s.scalar)
}

func (s *scanner) scalar() (string, *broker.Problem) {
	switch c := s.peek(); {
	case c == '"':
		return s.string()
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	return "", s.wrongType("a string, a number, or an array of them")
}

func (s *scanner) joined(by string, item func() (string, *broker.Problem)) (string, *broker.Problem) {
	var items []string
	p := s.array(func() *broker.Problem {
		v, p := item()
		if p == nil && (v == "" || by == "," && strings.Contains(v, by)) {
			p = s.problem("request.invalid", "An item of this list can't be empty or hold a comma.", "Correct or remove it.")
		}
		items = append(items, v)
		return p
	})
	v := strings.Join(items, by)
	if p == nil && len(v) > maxText {
		p = s.tooLong(maxText)
	}
	return v, p
}
