package service

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// inside is a text as it stands in JSON, each time with another amount of escapes.
func inside(t testing.TB, text string) []string {
	t.Helper()
	b, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	all := &strings.Builder{}
	for _, r := range text {
		if r > 0xffff {
			all.WriteRune(r)
			continue
		}
		const digits = "0123456789ABCDEF"
		all.WriteString(`\u`)
		for shift := 12; shift >= 0; shift -= 4 {
			all.WriteByte(digits[r>>shift&15])
		}
	}
	return []string{string(b[1 : len(b)-1]), strings.ReplaceAll(string(b[1:len(b)-1]), "/", `\/`), all.String()}
}

func TestHoldsURL(t *testing.T) {
	for _, text := range []string{
		"https://x", "HTTP://x.example/secret", "voir https://x", "voir\nhttps://x", "<https://x>", "(ftp://x)", "ftps://x", "x https:\\\\x", "x http:/\\x", "lien:https://x", "file:///etc/passwd", "app+v2://x", "doc.v1://x",
		"https:x", "http:", "ftp:x", "FTPS:/x", "https:\\\\host", "https:/host", "\u0001https:x", "\u00a0https:x", "\u3000 \u200b\ufeffhttps:x", "\u202ehttps:x", " \t//x", "//", "\\\\host\\share", "/\\x", "\\/x", "\u0001//x",
		"ht\ttps://x", "https:\n//x", "https:/\r/x", "/\n/x", "x ht\ntp:\\\\x", "é https://x", "\U0001F600https://x", "\\https://x",
	} {
		for _, raw := range inside(t, text) {
			if !holdsURL([]byte(raw), strings.Contains(raw, "\\")) {
				t.Errorf("%q, written %s, would be passed on", text, raw)
			}
		}
	}
	for _, text := range []string{
		"", "x", "12:30", "2026-11-26T12:30:00Z", "2026-11-26T12:30:00+01:00", "31/12/2026", "12/2026", "12 RUE DE L'ÉGLISE // BÂT. 3", "C/O M. EXEMPLE", "N/A", "/", "\\", "/x", "\\x", "A:B", "réf. : 12/34", "a: //b", "::", "://x",
		"é://x", "C:\\\\x", "C:\\x", "dossier http", "le http: protocole", "protocole https:", "voir https:x", "voir https:/x", "1:/2", "1:/2/3", "http", "https x ://", "xhttp:x", "mailto:a@b.example", "www.exemple.fr", "exemple.fr/x", "a@b.example",
		"EXEMPLE-FICTIF", "Zoé Marie", "D'ALEMBERT", "1 85 05 78 006 084 36", "FR76 3000", "3,14 €", "50 %", "\u0001x", "urn:regard:problem:x", "\U0001F600", "tel:+33", "4:\n3",
	} {
		for _, raw := range inside(t, text) {
			if holdsURL([]byte(raw), strings.Contains(raw, "\\")) {
				t.Errorf("%q, written %s, would be withheld", text, raw)
			}
		}
	}
}

var (
	anyScheme = regexp.MustCompile(`[a-z0-9+.-]://`)
	webSlash  = regexp.MustCompile(`(http|https|ftp|ftps):[/\\][/\\]`)
	webStart  = regexp.MustCompile(`^(http|https|ftp|ftps):`)
	hostStart = regexp.MustCompile(`^[/\\][/\\]`)
)

// FuzzHoldsURL compares it with what it is to find, said in another way.
func FuzzHoldsURL(f *testing.F) {
	for _, s := range []string{"voir https://x", "\u00a0https:x", "ht\ttps:\\\\x", "12:30", "//x", "C:\\\\x", "é://x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.ToValidUTF8(text, "?")
		s := strings.NewReplacer("\t", "", "\n", "", "\r", "").Replace(text)
		s = strings.TrimLeftFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsGraphic(r) })
		s = strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				return r + 'a' - 'A'
			}
			return r
		}, s)
		want := anyScheme.MatchString(s) || webSlash.MatchString(s) || webStart.MatchString(s) || hostStart.MatchString(s)
		for _, raw := range inside(t, text) {
			if got := holdsURL([]byte(raw), strings.Contains(raw, "\\")); got != want {
				t.Errorf("%q, written %s: %v, want %v", text, raw, got, want)
			}
		}
	})
}
