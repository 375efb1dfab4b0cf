package verdict

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Lang is the reader's language.
type Lang string

// The languages. Any other reads as English.
const (
	French  Lang = "fr"
	English Lang = "en"
)

// ParseLang refuses what there are no words for.
func ParseLang(s string) (Lang, error) {
	switch l := Lang(s); l {
	case French, English:
		return l, nil
	}
	return "", errors.New("the language is fr or en")
}

func (l Lang) pick(fr, en string) string {
	if l == French {
		return Typeset(fr)
	}
	return en
}

// French text, and formats of it: where no line may break (Imprimerie nationale, Lexique des règles typographiques en usage). A percent sign counts between two spaces only, for the verbs of a format begin with one.
var french = strings.NewReplacer(" :", "\u00a0:", " ;", "\u202f;", " ?", "\u202f?", " !", "\u202f!", "« ", "«\u00a0", " »", "\u00a0»", " % ", "\u202f% ", "n° ", "n°\u00a0", "L. ", "L.\u00a0")

// Typeset puts the spaces of French text before which no line may break where French wants them: it may be written with those of a keyboard. It changes nothing else, and what was typeset stays as it is.
func Typeset(fr string) string { return french.Replace(fr) }

var months = map[Lang][12]string{
	French:  {"janvier", "février", "mars", "avril", "mai", "juin", "juillet", "août", "septembre", "octobre", "novembre", "décembre"},
	English: {"January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"},
}

// when writes a time as people in Paris read it.
func (l Lang) when(at proof.Time) string {
	t := paris(at.Time())
	return fmt.Sprintf(l.pick("%s à %d\u00a0h\u00a0%02d", "%s at %d:%02d"), l.date(t), t.Hour(), t.Minute())
}

func (l Lang) date(t time.Time) string {
	m := months[l.orEnglish()][t.Month()-1]
	if l == French && t.Day() == 1 {
		return fmt.Sprintf("1er %s %d", m, t.Year())
	}
	return fmt.Sprintf("%d %s %d", t.Day(), m, t.Year())
}

func (l Lang) orEnglish() Lang {
	if l == French {
		return French
	}
	return English
}

// span writes a stretch of time: a day if it is in one, otherwise both of its ends.
func (l Lang) span(from, to proof.Time) string {
	a, b := paris(from.Time()), paris(max(from, to-1).Time())
	if l.date(a) == l.date(b) {
		return fmt.Sprintf(l.pick("le %s", "on %s"), l.date(a))
	}
	return fmt.Sprintf(l.pick("du %s au %s", "from %s to %s"), l.when(from), l.when(to))
}

// paris puts a time into the zone of Paris without a database of zones, which a browser's program would have to bring:
// one hour ahead of UTC, two from the last Sunday of March to that of October, changing at 01:00 UTC (Directive 2000/84/EC).
func paris(t time.Time) time.Time {
	t = t.UTC()
	change := func(m time.Month) time.Time {
		last := time.Date(t.Year(), m, 31, 1, 0, 0, 0, time.UTC) // both months have 31 days
		return last.AddDate(0, 0, -int(last.Weekday()))
	}
	if !t.Before(change(time.March)) && t.Before(change(time.October)) {
		return t.In(time.FixedZone("CEST", 2*60*60))
	}
	return t.In(time.FixedZone("CET", 60*60))
}
