package portal

import (
	"embed"
	"errors"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/nicksnyder/go-i18n/v2/i18n"
	"go.yaml.in/yaml/v3"
	textlanguage "golang.org/x/text/language"

	"github.com/regard-broker/regard/ledger/verdict"
)

//go:embed locales/*.yaml
var locales embed.FS

// languages are those of the catalogue, the default first.
var languages = []textlanguage.Tag{textlanguage.French, textlanguage.English}

// preferred is the code of the language that a browser would like best.
func preferred(accept string) string {
	wanted, _, err := textlanguage.ParseAcceptLanguage(accept)
	if err != nil || len(wanted) == 0 {
		return defaultLang
	}
	_, i, confidence := textlanguage.NewMatcher(languages).Match(wanted...)
	if confidence == textlanguage.No {
		return defaultLang
	}
	return languages[i].String()
}

// language is the catalogue of one language with the templates in it.
type language struct {
	code   string
	fixed  map[string]string // messages without parameters
	loc    *i18n.Localizer
	keys   map[string]bool
	months [13]string
	days   [7]string
	tmpl   map[string]*template.Template
}

func loadLanguages(a *assets) (map[string]*language, error) {
	out := map[string]*language{}
	for _, tag := range languages {
		l, err := loadLanguage(tag)
		if err != nil {
			return nil, err
		}
		if l.tmpl, err = parseTemplates(l, a); err != nil {
			return nil, err
		}
		out[l.code] = l
	}
	return out, nil
}

func loadLanguage(tag textlanguage.Tag) (*language, error) {
	l := &language{code: tag.String(), fixed: map[string]string{}, keys: map[string]bool{}}
	bundle := i18n.NewBundle(tag)
	bundle.RegisterUnmarshalFunc("yaml", yaml.Unmarshal)
	name := "locales/" + l.code + ".yaml"
	b, err := locales.ReadFile(name)
	if err != nil {
		return nil, err
	}
	if l.code == defaultLang {
		b = []byte(verdict.Typeset(string(b))) // no key has a space before its colon
	}
	f, err := bundle.ParseMessageFileBytes(b, name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	for _, m := range f.Messages {
		if m.Other == "" {
			return nil, fmt.Errorf("%s: %s is empty", name, m.ID)
		}
		l.keys[m.ID] = true
		if m.One == "" && !strings.Contains(m.Other, "{{") {
			l.fixed[m.ID] = m.Other
		}
	}
	l.loc = i18n.NewLocalizer(bundle, l.code)
	for i := range l.months {
		l.months[i] = l.fixed["date.month"+strconv.Itoa(i)]
	}
	for i := range l.days {
		l.days[i] = l.fixed["date.day"+strconv.Itoa(i)]
	}
	return l, nil
}

func (l *language) has(key string) bool { return l.keys[key] }

// text is a message of the catalogue with its parameters, name and value in turn. A whole number under the name n also decides between singular and plural; strings are isolated, for they come from records and
// registries. A message that isn't there is an error: a page without words must not be shown.
func (l *language) text(key string, params ...any) (string, error) {
	if len(params) == 0 {
		if s, ok := l.fixed[key]; ok {
			return s, nil
		}
	}
	data := make(map[string]any, len(params)/2)
	var count any
	for i := 0; i+1 < len(params); i += 2 {
		name, ok := params[i].(string)
		if !ok {
			return "", fmt.Errorf("message %s: the name of a parameter is no string", key)
		}
		switch v := params[i+1].(type) {
		case string:
			data[name] = isolate(v)
		case own:
			data[name] = string(v)
		case int:
			data[name] = l.number(uint64(max(v, 0))) // #nosec G115 -- not negative
			if name == "n" {
				count = v
			}
		case uint64:
			data[name] = l.number(v)
			if name == "n" {
				count = strconv.FormatUint(v, 10)
			}
		default:
			return "", fmt.Errorf("message %s: parameter %s is a %T", key, name, v)
		}
	}
	s, err := l.loc.Localize(&i18n.LocalizeConfig{MessageID: key, TemplateData: data, PluralCount: count})
	if err != nil {
		return "", fmt.Errorf("message %s in %s: %w", key, l.code, err)
	}
	if strings.Contains(s, "<no value>") {
		return "", fmt.Errorf("message %s in %s: %w", key, l.code, errors.New("a parameter is missing"))
	}
	return s, nil
}

// own is text of the portal itself, such as a date: it needs no isolation.
type own string

// number groups digits as the verdict does, which compares them.
func (l *language) number(n uint64) string { return verdict.Lang(l.code).Number(n) }

// day is a date in words: jeudi 26 novembre 2026, Thursday 26 November 2026.
func (l *language) day(t time.Time) string {
	day := strconv.Itoa(t.Day())
	if l.code == "fr" && t.Day() == 1 {
		day = "1er"
	}
	return l.days[t.Weekday()] + "\u00a0" + day + " " + l.months[t.Month()] + " " + strconv.Itoa(t.Year())
}

// moment is a date with the time of day.
func (l *language) moment(t time.Time) string {
	return l.day(t) + ", " + t.Format("15:04")
}

// duration is a time in words, in its largest unit that says it well.
func (l *language) duration(d time.Duration) (string, error) {
	for _, u := range []struct {
		key  string
		unit time.Duration
	}{{"duration.days", 24 * time.Hour}, {"duration.hours", time.Hour}, {"duration.minutes", time.Minute}} {
		if d >= 2*u.unit {
			return l.text(u.key, "n", int(d/u.unit))
		}
	}
	return l.text("duration.seconds", "n", int(d/time.Second))
}

// clean takes out what could change the text around a value that somebody else wrote. The record itself stays as it is, and so does its receipt.
func clean(s string) string { return verdict.Clean(s) }

// isolate is clean text between the marks that keep its direction to itself, for where no <bdi> can stand.
func isolate(s string) string { return "\u2068" + clean(s) + "\u2069" }

// codes of the languages, for links.
func codes() []string {
	out := make([]string, len(languages))
	for i, t := range languages {
		out[i] = t.String()
	}
	return out
}
