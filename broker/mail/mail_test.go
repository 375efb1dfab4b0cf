package mail_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/quotedprintable"
	"net"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/mail"
	"github.com/regard-broker/regard/broker/mail/mailtest"
	"github.com/regard-broker/regard/deploy/freeport"
)

func address(t testing.TB, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func message(t testing.TB) *mail.Message {
	return &mail.Message{
		To: address(t, "camille@exemple.fr"), ID: "42.a", Date: time.Date(2026, 11, 26, 3, 4, 5, 0, time.UTC), Lang: "fr",
		Subject: "Du nouveau : « événement »", Body: "Bonjour,\n\n.point\nété\n", Unsubscribe: "https://portail.example/notifications/desabonner?jeton=abc",
	}
}

func client(t testing.TB, cfg mail.Config) *mail.Client {
	t.Helper()
	cfg.From = address(t, "ne-pas-repondre@regard.example")
	c, err := mail.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func decoded(t testing.TB, m mailtest.Mail) string {
	t.Helper()
	parsed, err := netmail.ReadMessage(bytes.NewReader(m.Raw))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(quotedprintable.NewReader(parsed.Body))
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func TestSend(t *testing.T) {
	id := brokertest.NewCurrentIdentity(t, "localhost")
	roots := x509.NewCertPool()
	roots.AddCert(id.Leaf)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("open sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		server mailtest.Options
		client mail.Config
	}{
		"plain":    {mailtest.Options{}, mail.Config{TLS: mail.Plain}},
		"starttls": {mailtest.Options{TLS: &id}, mail.Config{TLS: mail.StartTLS, Roots: roots}},
		"implicit": {mailtest.Options{TLS: &id, Implicit: true, Users: map[string]string{"regard": "open sesame"}}, mail.Config{TLS: mail.Implicit, Roots: roots, Username: "regard", PasswordFile: password}},
		"login":    {mailtest.Options{TLS: &id, Users: map[string]string{"regard": "open sesame"}}, mail.Config{TLS: mail.StartTLS, Roots: roots, Username: "regard", PasswordFile: password}},
	} {
		t.Run(name, func(t *testing.T) {
			s := mailtest.New(t, x.server)
			x.client.Server = s.Addr
			m := message(t)
			if err := client(t, x.client).Send(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			got := s.Mails()
			if len(got) != 1 || got[0].From != "ne-pas-repondre@regard.example" || got[0].To != "camille@exemple.fr" || got[0].TLS != (x.server.TLS != nil) || got[0].User != x.client.Username {
				t.Fatalf("%+v", got)
			}
			h := got[0].Header
			for k, want := range map[string]string{
				"From": "<ne-pas-repondre@regard.example>", "To": "<camille@exemple.fr>", "Message-Id": "<42.a@regard.example>", "Auto-Submitted": "auto-generated", "Content-Language": "fr",
				"List-Unsubscribe": "<" + m.Unsubscribe + ">", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click", "Date": "Thu, 26 Nov 2026 03:04:05 +0000",
			} {
				if h.Get(k) != want {
					t.Errorf("%s: %q, want %q", k, h.Get(k), want)
				}
			}
			subject, err := new(mime.WordDecoder).DecodeHeader(h.Get("Subject"))
			if err != nil || subject != m.Subject {
				t.Errorf("subject %q, %v", subject, err)
			}
			if body := strings.ReplaceAll(decoded(t, got[0]), "\r\n", "\n"); body != m.Body {
				t.Errorf("body %q", body)
			}
			for i, line := range strings.Split(string(got[0].Raw), "\r\n") {
				if len(line) > 998 || strings.ContainsFunc(line, func(r rune) bool { return r > 0x7e || r < 0x20 }) {
					t.Errorf("line %d is not plain ASCII: %q", i, line)
				}
			}
		})
	}
}

// TestFailures: what the caller is told to do, and that no error holds an address or what the server wrote.
func TestFailures(t *testing.T) {
	id, other := brokertest.NewCurrentIdentity(t, "localhost"), brokertest.NewCurrentIdentity(t, "localhost")
	roots, wrong := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(id.Leaf)
	wrong.AddCert(other.Leaf)
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	gone, err := freeport.New("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	users := map[string]string{"regard": "right"}
	for _, x := range []struct {
		name   string
		server mailtest.Options
		client mail.Config
		step   string
		code   int
		want   error
	}{
		{"no such mailbox", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "RCPT", 550, mail.ErrRefused},
		{"its name isn't allowed", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "RCPT", 553, mail.ErrRefused},
		{"a full mailbox", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "RCPT", 452, mail.ErrLater},
		{"relaying isn't for us", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "RCPT", 554, mail.ErrLater},
		{"it goes away", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "RCPT", 421, mail.ErrDown},
		{"it goes away with the mail", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "DATA", 421, mail.ErrDown},
		{"a sender that isn't allowed", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "MAIL", 550, mail.ErrDown},
		{"taken for spam", mailtest.Options{}, mail.Config{TLS: mail.Plain}, "DATA", 550, mail.ErrLater},
		{"STARTTLS isn't offered", mailtest.Options{}, mail.Config{TLS: mail.StartTLS, Roots: roots}, "", 0, mail.ErrDown},
		{"another's certificate", mailtest.Options{TLS: &id}, mail.Config{TLS: mail.StartTLS, Roots: wrong}, "", 0, mail.ErrDown},
		{"another's certificate at once", mailtest.Options{TLS: &id, Implicit: true}, mail.Config{TLS: mail.Implicit, Roots: wrong}, "", 0, mail.ErrDown},
		{"a wrong password", mailtest.Options{TLS: &id, Users: users}, mail.Config{TLS: mail.StartTLS, Roots: roots, Username: "regard", PasswordFile: password}, "", 0, mail.ErrDown},
		{"no password's file", mailtest.Options{TLS: &id, Users: users}, mail.Config{TLS: mail.StartTLS, Roots: roots, Username: "regard", PasswordFile: password + "-"}, "", 0, mail.ErrDown},
		{"no login where one is needed", mailtest.Options{TLS: &id, Users: users}, mail.Config{TLS: mail.StartTLS, Roots: roots}, "", 0, mail.ErrDown},
		{"nobody there", mailtest.Options{}, mail.Config{TLS: mail.Plain, Server: gone.Addr()}, "", 0, mail.ErrDown},
		{"nobody speaks", mailtest.Options{}, mail.Config{TLS: mail.Plain, Server: silent.Addr().String(), Timeout: 50 * time.Millisecond}, "", 0, mail.ErrDown},
		{"nobody speaks TLS", mailtest.Options{}, mail.Config{TLS: mail.Implicit, Server: silent.Addr().String(), Timeout: 50 * time.Millisecond}, "", 0, mail.ErrDown},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := mailtest.New(t, x.server)
			if x.client.Server == "" {
				x.client.Server = s.Addr
			}
			if x.step != "" {
				s.Refuse(x.step, x.code)
			}
			err := client(t, x.client).Send(t.Context(), message(t))
			if !errors.Is(err, x.want) || errors.Is(err, mail.ErrRefused) != (x.want == mail.ErrRefused) || errors.Is(err, mail.ErrDown) != (x.want == mail.ErrDown) || errors.Is(err, mail.ErrLater) == (x.want == mail.ErrRefused) {
				t.Errorf("%v, want %v", err, x.want)
			}
			for _, secret := range []string{"camille", "secret.example", "right", "wrong"} {
				if strings.Contains(fmt.Sprint(err), secret) {
					t.Errorf("the error holds %q: %v", secret, err)
				}
			}
			if n := len(s.Mails()); n != 0 {
				t.Errorf("%d mails were taken", n)
			}
		})
	}
	// A caller that gives up is waited for no longer.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client(t, mail.Config{TLS: mail.Plain, Server: silent.Addr().String()}).Send(ctx, message(t)); !errors.Is(err, mail.ErrLater) {
		t.Error(err)
	}
}

// TestNoHeaderCanBeInjected: whatever stands in a value stays there, or the mail isn't sent.
func TestNoHeaderCanBeInjected(t *testing.T) {
	s := mailtest.New(t, mailtest.Options{})
	c := client(t, mail.Config{TLS: mail.Plain, Server: s.Addr})
	for _, evil := range []string{"a\r\nBcc: all@exemple.fr", "a\nBcc: all@exemple.fr", "a\rBcc: all@exemple.fr", "a\x00b", "\r\n\r\nbody"} {
		for i, change := range []func(*mail.Message){
			func(m *mail.Message) { m.ID = evil }, func(m *mail.Message) { m.Subject = evil }, func(m *mail.Message) { m.Lang = evil },
			func(m *mail.Message) { m.Unsubscribe = "https://x.example/" + evil },
		} {
			m := message(t)
			change(m)
			if err := c.Send(t.Context(), m); !errors.Is(err, mail.ErrInvalid) {
				t.Errorf("%d, %q: %v", i, evil, err)
			}
		}
	}
	for i, change := range []func(*mail.Message){
		func(m *mail.Message) { m.To = mail.Address{} }, func(m *mail.Message) { m.Subject = "" }, func(m *mail.Message) { m.Body = "" }, func(m *mail.Message) { m.Date = time.Time{} },
		func(m *mail.Message) { m.ID = "" }, func(m *mail.Message) { m.ID = "a b" }, func(m *mail.Message) { m.Lang = "de" }, func(m *mail.Message) { m.Unsubscribe = "mailto:x@y.fr" },
		func(m *mail.Message) { m.Unsubscribe = "https://x.example/>, <https://y.example/" },
	} {
		m := message(t)
		change(m)
		if err := c.Send(t.Context(), m); !errors.Is(err, mail.ErrInvalid) {
			t.Errorf("%d: %v", i, err)
		}
	}
	m := message(t)
	m.Subject, m.Body = "=?utf-8?q?x=0D=0ABcc:_all?= «»", "From here\n.\nQUIT\r\n\r\nBcc: all@exemple.fr\n"
	if err := c.Send(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	got := s.Mails()
	if len(got) != 1 || got[0].Header.Get("Bcc") != "" || got[0].To != "camille@exemple.fr" || !strings.Contains(decoded(t, got[0]), "QUIT") {
		t.Errorf("%+v", got)
	}
	if s.Sessions() != 1 {
		t.Errorf("a mail that isn't valid costs a connection: %d", s.Sessions())
	}
}

func TestConfig(t *testing.T) {
	from := address(t, "a@b.example")
	for name, cfg := range map[string]mail.Config{
		"no server":                  {TLS: mail.StartTLS, From: from},
		"no port":                    {Server: "mail.example", TLS: mail.StartTLS, From: from},
		"no sender":                  {Server: "mail.example:25", TLS: mail.StartTLS},
		"no mode":                    {Server: "mail.example:25", From: from},
		"plain to another machine":   {Server: "mail.example:25", TLS: mail.Plain, From: from},
		"a password without TLS":     {Server: "127.0.0.1:25", TLS: mail.Plain, From: from, Username: "u", PasswordFile: "f"},
		"a user without a password":  {Server: "mail.example:25", TLS: mail.StartTLS, From: from, Username: "u"},
		"a password without anybody": {Server: "mail.example:25", TLS: mail.StartTLS, From: from, PasswordFile: "f"},
	} {
		if _, err := mail.New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestAddresses(t *testing.T) {
	for _, good := range []string{"a@b.fr", "camille.martin+x@sous.domaine.example", "o'neil@b.fr", "A_B-c@b-c.d1.fr"} {
		if a, err := mail.ParseAddress(good); err != nil || a.Text() != good {
			t.Errorf("%s: %v, %q", good, err, a.Text())
		}
	}
	if a := address(t, "Zoe@EXEMPLE.FR"); a.Text() != "Zoe@exemple.fr" {
		t.Error(a.Text())
	}
	for _, bad := range []string{
		"", "a", "@b.fr", "a@", "a@b", "a@@b.fr", "a b@c.fr", "a@b .fr", "a@b..fr", ".a@b.fr", "a.@b.fr", "a..b@c.fr", "a@-b.fr", "a@b-.fr", "a@b.fr.", `"a"@b.fr`, "a@[127.0.0.1]", "a@127.0.0.1", "Zoé@b.fr", "a@é.fr",
		"a@b.fr\r\n", "a@b.fr\nBcc: c@d.fr", "<a@b.fr>", "A <a@b.fr>", "a,b@c.fr", "a@b.fr,c@d.fr", "a(b)@c.fr", "a:b@c.fr", strings.Repeat("a", 65) + "@b.fr", "a@" + strings.Repeat("b", 64) + ".fr", "a@" + strings.Repeat("b.", 130) + "fr",
	} {
		if a, err := mail.ParseAddress(bad); !errors.Is(err, mail.ErrInvalid) || !a.IsZero() {
			t.Errorf("%q: %v", bad, err)
		} else if bad != "" && len(bad) > 3 && strings.Contains(err.Error(), bad) {
			t.Errorf("the error repeats %q", bad)
		}
	}
	a := address(t, "camille@exemple.fr")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if text := fmt.Sprintf(verb, a) + fmt.Sprintf(verb, mail.Message{To: a}); strings.Contains(text, "camille") || strings.Contains(text, "63616d") {
			t.Errorf("%s shows %s", verb, text)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"a@b.fr", "a@b.fr\r\nX: y", `"x y"@b.fr`, "a@[1.2.3.4]", "é@b.fr", "a@B.FR"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := mail.ParseAddress(s)
		if err != nil {
			return
		}
		text := a.Text()
		again, err := mail.ParseAddress(text)
		if err != nil || again != a || !strings.EqualFold(text, s) || strings.ContainsAny(text, " \r\n\t<>,;:\"()[]\\") {
			t.Errorf("%q became %q (%v)", s, text, err)
		}
		// What is taken here every other reader takes for the same one address.
		list, err := netmail.ParseAddressList(text)
		if err != nil || len(list) != 1 || list[0].Address != text {
			t.Errorf("%q is %v to others (%v)", text, list, err)
		}
	})
}

// TestTexts: mails are complete in both languages, and hold nothing but the links.
func TestTexts(t *testing.T) {
	link := mail.Link("https://portail.example/", mail.PageConfirm, "a+b/c=")
	if link != "https://portail.example/notifications/confirmer?jeton=a%2Bb%2Fc%3D" {
		t.Error(link)
	}
	due := time.Date(2026, 12, 26, 3, 4, 0, 0, time.UTC)
	for name, x := range map[string]func() (string, string){
		"confirm fr": func() (string, string) { return mail.Confirm("fr", link, 48) }, "confirm en": func() (string, string) { return mail.Confirm("en", link, 48) },
		"news fr": func() (string, string) { return mail.News("fr", link, "https://u.example") }, "news en": func() (string, string) { return mail.News("en", link, "https://u.example") },
	} {
		subject, body := x()
		if subject == "" || !strings.Contains(body, "\n"+link+"\n") || strings.Contains(subject+body, "%!") {
			t.Errorf("%s: %q %s", name, subject, body)
		}
	}
	for _, overdue := range []bool{false, true} {
		subject, body := mail.Contest("01a2", due, overdue)
		if !strings.Contains(subject, "01a2") || strings.Count(body, "GET /v1/contests/01a2") != 2 || strings.Count(body, "2026-12-26 03:04 UTC") != 2 || strings.Contains(subject+body, "%!") {
			t.Errorf("%q %s", subject, body)
		}
	}
}
