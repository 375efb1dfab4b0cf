package identity_test

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker/identity"
)

func TestFormKey(t *testing.T) {
	key, other := identity.FormKey{1, 2, 31: 3}, identity.FormKey{1, 2, 31: 4}
	a, b := key.Token(), key.Token()
	if a == b || len(a) != 86 {
		t.Errorf("tokens %q and %q", a, b)
	}
	if !key.Made(a) || !key.Made(b) || other.Made(a) {
		t.Error("tokens aren't told apart")
	}
	raw, err := base64.RawURLEncoding.DecodeString(a)
	if err != nil {
		t.Fatal(err)
	}
	plain := base64.RawURLEncoding.EncodeToString(key[:])
	flipped := append([]byte(nil), raw...)
	flipped[63] ^= 1
	// A canonical token has the unused bits of its last character at zero.
	loose := a[:85] + string(a[85]+1)
	for name, token := range map[string]string{
		"nothing": "", "the key itself": plain, "the key without a pad": plain + plain, "a pad of zeros, half": base64.RawURLEncoding.EncodeToString(append(make([]byte, 32), key[:31]...)),
		"cut": a[:85], "longer": a + "A", "padded": a + "==", "flipped": base64.RawURLEncoding.EncodeToString(flipped), "not canonical": loose,
		"standard base64": strings.Repeat("+", 86), "half of each": a[:43] + b[43:], "line feed": a[:40] + "\n" + a[40:], "zeros": strings.Repeat("A", 86),
	} {
		if key.Made(token) {
			t.Errorf("%s is taken: %q", name, token)
		}
	}
	var zero identity.FormKey
	if zero.Token() != "" || zero.Made("") || zero.Made(strings.Repeat("A", 86)) {
		t.Error("the zero key makes or takes tokens")
	}
	if s := fmt.Sprintf("%v %+v %#v %x %s %d", key, key, key, key, &key, key); strings.Contains(s, "010200") || strings.Contains(s, "1 2 0") {
		t.Errorf("shown: %s", s)
	}
}

func FuzzFormKey(f *testing.F) {
	key := identity.FormKey{7}
	f.Add(key.Token())
	f.Add(strings.Repeat("A", 86))
	f.Fuzz(func(t *testing.T, token string) {
		if !key.Made(token) {
			return
		}
		b, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || base64.RawURLEncoding.EncodeToString(b) != token {
			t.Fatalf("%q is taken, and has another form", token)
		}
		for i := range key {
			if b[i]^b[i+32] != key[i] {
				t.Fatalf("%q is taken, and is another key's", token)
			}
		}
	})
}

// No two answers hold the same token; what they have under the mask is the session's, and the session's alone.
func TestTokensOfASession(t *testing.T) {
	w := newWorld(t)
	b := w.browser()
	me := b.mustSignIn(camille)
	first, second := me.csrf, parseMe(b.get(w.portal.URL+"/moi").body).csrf
	if first == second {
		t.Error("two answers hold the same token")
	}
	under := func(token string) string {
		t.Helper()
		raw, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(raw) != 64 {
			t.Fatalf("%q: %v", token, err)
		}
		for i := range 32 {
			raw[i] ^= raw[i+32]
		}
		return base64.RawURLEncoding.EncodeToString(raw[:32])
	}
	if key, err := hex.DecodeString(me.forms); err != nil || under(first) != base64.RawURLEncoding.EncodeToString(key) || under(second) != under(first) {
		t.Error("two answers of one session are of other keys than the session's")
	}
	for token, want := range map[string]bool{first: true, second: true, under(first): false, first[:43]: false} {
		p := b.post(w.portal.URL+"/moi", url.Values{"csrf": {token}})
		if got := p.body == "done"; got != want {
			t.Errorf("%q: %d %s", token, p.status, p.body)
		}
	}
	// A session that begins anew has another key: what was on a page before isn't good after.
	b.mustSignIn(camille)
	p := b.post(w.portal.URL+"/moi", url.Values{"csrf": {first}})
	if w.wantNotice(p, identity.Forged); p.status != http.StatusForbidden {
		t.Errorf("a token of the session before: %d", p.status)
	}
}
