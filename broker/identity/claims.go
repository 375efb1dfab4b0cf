package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/regard-broker/regard/ledger/proof"
)

// Claims of a pivot identity (FranceConnect, "Les données d'identité"): names as in the civil status, the given ones separated by spaces; birthdate YYYY-MM-DD; gender male or female; birthplace the INSEE
// code of a commune, empty for somebody born abroad; birthcountry an INSEE code, 99100 for France.
var pivotClaims = []string{"family_name", "given_name", "birthdate", "gender", "birthplace", "birthcountry"}

// attachable are the types of identifiers that an account may have beside its pivot identity.
var attachable = []proof.SubjectType{proof.TypeNIR, proof.TypeINE, proof.TypeFranceTravail, proof.TypeSIREN}

// Limits of what the provider states.
const (
	maxToken = 64 << 10
	maxText  = 256 // bytes of a claim
	maxDepth = 16
)

// claims are what a signed userinfo says about a person.
type claims struct {
	sub         string
	pivot       proof.Pivot
	used        string // name in use; empty if the person goes by the birth name
	identifiers map[proof.SubjectType]string
	missing     []string // of pivotClaims
}

// errClaims: the provider broke the form of claims. The text names the claim and never what it says.
var errClaims = errors.New("the claims are not in their documented form")

// parseClaims reads the payload of a signed userinfo. wanted names the claims with further identifiers. A pivot identity that lacks something is no error: see missing.
func parseClaims(payload []byte, wanted map[proof.SubjectType]string) (*claims, error) {
	members, err := object(payload)
	if err != nil {
		return nil, err
	}
	var bad string
	text := func(name string) string {
		raw, ok := members[name]
		if !ok || string(raw) == "null" {
			return ""
		}
		var s string
		if json.Unmarshal(raw, &s) != nil || !plain(s) {
			bad = name
			return ""
		}
		return strings.TrimSpace(s)
	}
	c := &claims{sub: text("sub"), used: text("preferred_username"), identifiers: map[proof.SubjectType]string{}}
	c.pivot = proof.Pivot{
		BirthName: text("family_name"), GivenNames: text("given_name"), BirthDate: text("birthdate"),
		BirthPlace: text("birthplace"), BirthCountry: text("birthcountry"),
	}
	gender := text("gender")
	for typ, name := range wanted {
		if v := text(name); v != "" {
			c.identifiers[typ] = v
		}
	}
	if bad != "" {
		return nil, fmt.Errorf("%s: %w", bad, errClaims)
	}
	if c.sub == "" {
		return nil, fmt.Errorf("sub: %w", errClaims)
	}
	switch gender {
	case "male":
		c.pivot.Sex = "M"
	case "female":
		c.pivot.Sex = "F"
	case "":
	default:
		return nil, fmt.Errorf("gender: %w", errClaims)
	}
	return c, c.check()
}

// check finds out what the pivot identity lacks, and refuses what contradicts itself.
func (c *claims) check() error {
	p := &c.pivot
	date, whole, ok := birthDate(p.BirthDate)
	if !ok {
		return fmt.Errorf("birthdate: %w", errClaims)
	}
	p.BirthDate = date
	for name, have := range map[string]bool{
		"family_name": proof.FoldName(p.BirthName) != "", "given_name": proof.FoldName(p.GivenNames) != "", "birthdate": whole, "gender": p.Sex != "",
		"birthcountry": p.BirthCountry != "" || p.BirthPlace != "", // a French commune says it
		"birthplace":   p.BirthPlace != "" || p.BirthCountry != "" && p.BirthCountry != proof.France,
	} {
		if !have {
			c.missing = append(c.missing, name)
		}
	}
	slices.SortFunc(c.missing, func(a, b string) int { return slices.Index(pivotClaims, a) - slices.Index(pivotClaims, b) })
	if len(c.missing) > 0 {
		return nil
	}
	if !p.Complete() {
		// Codes that are none, or a French commune of somebody born abroad.
		return fmt.Errorf("birthplace, birthcountry or a name: %w", errClaims)
	}
	return nil
}

// birthDate takes YYYY-MM-DD, and what is less than a day: absent, YYYY, YYYY-MM, and with zeros for what isn't known.
func birthDate(s string) (date string, whole, ok bool) {
	for _, form := range []string{"-00-00", "-00"} {
		if rest, cut := strings.CutSuffix(s, form); cut && len(s) == 10 {
			s = rest
			break
		}
	}
	for _, form := range []string{"", "2006", "2006-01", time.DateOnly} {
		if len(s) == len(form) {
			_, err := time.Parse(form, s)
			return s, form == time.DateOnly, err == nil
		}
	}
	return "", false, false
}

// plain reports whether s is a line of text of a bounded length: nothing in it moves or hides other text on a page.
func plain(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r == utf8.RuneError || unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp)
	})
}

// object splits a JSON object into its members. Of a name that stands there twice, another reader might take the other.
func object(b []byte) (map[string]json.RawMessage, error) {
	if len(b) > maxToken {
		return nil, fmt.Errorf("more than %d bytes: %w", maxToken, errClaims)
	}
	if !utf8.Valid(b) || tooDeep(b) {
		return nil, errClaims
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errClaims
	}
	out := map[string]json.RawMessage{}
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errClaims
		}
		if _, twice := out[name]; twice {
			return nil, fmt.Errorf("a claim stands there twice: %w", errClaims)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, errClaims
		}
		out[name] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, errClaims
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errClaims
	}
	return out, nil
}

// tooDeep counts brackets, also those in strings: claims have neither many nor deep ones.
func tooDeep(b []byte) bool {
	depth := 0
	for _, c := range b {
		switch c {
		case '{', '[':
			if depth++; depth > maxDepth {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// ParseIdentifier is the canonical subject of a further identifier, as a person, a claim or a provider spells it. It fails with proof.ErrSubject.
func ParseIdentifier(typ proof.SubjectType, value string) (proof.Subject, error) {
	switch typ {
	case proof.TypeNIR:
		return proof.NIR(value)
	case proof.TypeINE:
		return proof.INE(value)
	case proof.TypeFranceTravail:
		return proof.FranceTravail(value)
	case proof.TypeSIREN:
		return proof.SIREN(value)
	}
	return proof.Subject{}, fmt.Errorf("%w: this type can't be attached", proof.ErrSubject)
}
