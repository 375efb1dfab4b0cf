package portal

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

//go:embed words.yaml
var builtInWords []byte

// Bounds of a file of words.
const (
	maxWords  = 256 << 10 // bytes
	maxPhrase = 300       // characters
)

// Words say what tokens in records mean: purposes, legal bases and the grounds of erasures. What a file doesn't name is shown as it is in the record.
type Words struct {
	LegalBases map[string]Law  `yaml:"legal_bases"`
	Purposes   map[string]Text `yaml:"purposes"`
}

// Text is a phrase in each language.
type Text struct {
	FR string `yaml:"fr"`
	EN string `yaml:"en"`
}

// In returns the phrase in a language of the catalogue.
func (t Text) In(lang string) string {
	if lang == "en" {
		return t.EN
	}
	return t.FR
}

// Law is the usual name of a legal basis and where its text is.
type Law struct {
	FR  string `yaml:"fr"`
	EN  string `yaml:"en"`
	URL string `yaml:"url"` // https
}

// In returns the name in a language of the catalogue.
func (l Law) In(lang string) string { return Text{l.FR, l.EN}.In(lang) }

// ParseWords reads a file of words, YAML of at most 256 KiB:
//
//	legal_bases:
//	  crpa-l114-8: {fr: …, en: …, url: https://…}
//	purposes:
//	  tarif-cantine: {fr: …, en: …}
//
// Unknown keys, aliases and phrases that aren't one line of text are refused.
func ParseWords(text []byte) (*Words, error) {
	if len(text) > maxWords {
		return nil, fmt.Errorf("words: more than %d bytes", maxWords)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("words: %w", err)
	}
	if err := refuseAliases(&doc); err != nil {
		return nil, err
	}
	w := &Words{}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(w); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("words: %w", err)
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("words: more than one document")
	}
	for token, t := range w.Purposes {
		if err := checkPhrases("purposes", token, t.FR, t.EN); err != nil {
			return nil, err
		}
		t.FR = verdict.Typeset(t.FR)
		w.Purposes[token] = t
	}
	for token, l := range w.LegalBases {
		if err := checkPhrases("legal_bases", token, l.FR, l.EN); err != nil {
			return nil, err
		}
		if u, err := url.Parse(l.URL); err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
			return nil, fmt.Errorf("words: legal_bases.%s.url is not https://…", token)
		}
		l.FR, l.URL = verdict.Typeset(l.FR), encoded(l.URL)
		w.LegalBases[token] = l
	}
	return w, nil
}

// encoded writes an address as html/template does, which encodes more than it has to (RFC 3986): pages have it as the file of names, with which they are compared.
func encoded(u string) string {
	var b strings.Builder
	for i := range len(u) {
		switch c := u[i]; {
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~!#$&*+,/:;=?@[]", c) >= 0,
			c == '%' && i+2 < len(u) && isHex(u[i+1]) && isHex(u[i+2]):
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func refuseAliases(n *yaml.Node) error {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return fmt.Errorf("words: line %d: anchors and aliases are not used here", n.Line)
	}
	for _, c := range n.Content {
		if err := refuseAliases(c); err != nil {
			return err
		}
	}
	return nil
}

func checkPhrases(list, token string, phrases ...string) error {
	if !proof.IsToken(token) {
		return fmt.Errorf("words: %s: %q is not a token", list, token)
	}
	for _, s := range phrases {
		if strings.TrimSpace(s) == "" || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) || utf8.RuneCountInString(s) > maxPhrase {
			return fmt.Errorf("words: %s.%s needs fr and en, each one line of at most %d characters", list, token, maxPhrase)
		}
	}
	return nil
}

// With returns these words with others, which win.
func (w *Words) With(others *Words) *Words {
	out := &Words{LegalBases: map[string]Law{}, Purposes: map[string]Text{}}
	for _, x := range []*Words{w, others} {
		maps.Copy(out.LegalBases, x.LegalBases)
		maps.Copy(out.Purposes, x.Purposes)
	}
	return out
}

// BuiltInWords are those that the program carries.
func BuiltInWords() (*Words, error) { return ParseWords(builtInWords) }
