package identity

import (
	"net/url"
	"strings"
	"testing"
)

// Whatever is asked for, a browser that follows it stays here. Browsers read a backslash as a slash and leave out tabs and newlines (https://url.spec.whatwg.org/#concept-basic-url-parser).
func FuzzReturn(f *testing.F) {
	for _, s := range []string{"/", "/historique?page=2#x", "//evil.example", "/\\evil.example", "/\t/evil.example", "https://evil.example", "/%2f/evil", "/..//evil.example", "/%zz", "/é"} {
		f.Add(s)
	}
	base, err := url.Parse("https://portal.example/x")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := localPath(text)
		as := strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(got)
		if !strings.HasPrefix(as, "/") || strings.HasPrefix(as, "//") || len(got) > 3*maxPath || localPath(got) != got {
			t.Fatalf("%q leads to %q", text, got)
		}
		u, err := base.Parse(as)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme {
			t.Fatalf("%q leads to %v, %v", text, u, err)
		}
	})
}
