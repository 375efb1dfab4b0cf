// Package mail writes the broker's mails and hands them to one mail server.
//
// What it guarantees. When Send returns nil the server has taken the mail. Nothing but loopback is spoken to without TLS that was verified, and no password goes over anything else. No value of a mail can become
// a header of its own: addresses are of a narrow form, everything else is encoded, and what still has a line break is refused. A mail holds what Message says and nothing else: no name, no identifier, no content.
//
// What it doesn't. A mail that the server took may never arrive; one that was taken just before the connection broke is sent again by the caller, with the same Message-ID.
package mail

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net"
	"net/netip"
	"net/smtp"
	"net/textproto"
	"os"
	"strings"
	"time"
)

// Errors, by what the caller should do.
var (
	// ErrRefused: the server says that this address can't get mail. Trying again won't help.
	ErrRefused = errors.New("mail: the server refuses this address")
	// ErrLater: the mail was not taken. Try again later, and tell the operator if it stays so.
	ErrLater = errors.New("mail: not taken now")
	// ErrDown: the server or the way to it doesn't work, or it takes nothing from us, so that others needn't be tried now. It wraps ErrLater.
	ErrDown = fmt.Errorf("%w: the server takes none", ErrLater)
	// ErrInvalid: this can't be sent.
	ErrInvalid = errors.New("mail: not valid")
)

// An Address of mail in the form that this package takes: ASCII, an unquoted local part, a domain name with a dot. It is personal data and redacts itself.
type Address struct{ local, domain string }

const (
	maxLocal   = 64  // RFC 5321, section 4.5.3.1.1
	maxAddress = 254 // RFC 5321, section 4.5.3.1.3, without the angle brackets
	maxLabel   = 63
)

// ParseAddress takes an address without a name around it. The domain becomes lower case.
func ParseAddress(s string) (Address, error) {
	at := strings.LastIndexByte(s, '@')
	if at < 1 || at > maxLocal || len(s) > maxAddress {
		return Address{}, fmt.Errorf("%w: no address, or one that is too long", ErrInvalid)
	}
	local, domain := s[:at], strings.ToLower(s[at+1:])
	for atom := range strings.SplitSeq(local, ".") {
		if atom == "" || strings.ContainsFunc(atom, func(r rune) bool { return !isAtext(r) }) {
			return Address{}, fmt.Errorf("%w: the part before the @ has a form that isn't taken", ErrInvalid)
		}
	}
	labels := strings.Split(domain, ".")
	if len(labels) < 2 {
		return Address{}, fmt.Errorf("%w: the domain has no dot", ErrInvalid)
	}
	for _, l := range labels {
		if l == "" || len(l) > maxLabel || l[0] == '-' || l[len(l)-1] == '-' || strings.ContainsFunc(l, func(r rune) bool { return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') }) {
			return Address{}, fmt.Errorf("%w: the domain isn't one", ErrInvalid)
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return Address{}, fmt.Errorf("%w: the domain is a number", ErrInvalid)
	}
	return Address{local, domain}, nil
}

// isAtext: RFC 5322, section 3.2.3.
func isAtext(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r < 0x80 && strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

// IsZero says that it is unset.
func (a Address) IsZero() bool { return a == Address{} }

// Text is the address, for those who need it.
func (a Address) Text() string { return a.local + "@" + a.domain }

// String shows that there is one.
func (a Address) String() string { return "address:[redacted]" }

// Format implements fmt.Formatter: every verb shows the same.
func (a Address) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(a.String())) }

// A Message is one mail, plain text.
type Message struct {
	To      Address
	ID      string // unique and the same at each try: what stands before the @ of the Message-ID; letters, digits, '.' and '-'
	Date    time.Time
	Lang    string // of the body, fr or en
	Subject string
	Body    string // lines end with LF
	// Unsubscribe is the URL that ends such mails by one POST (RFC 8058); empty: they can't be ended.
	Unsubscribe string
}

// text writes the mail as it is sent.
func (m *Message) text(from Address) ([]byte, error) {
	for _, s := range []string{m.ID, m.Lang, m.Subject, m.Unsubscribe} {
		if strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			return nil, fmt.Errorf("%w: a header holds a control character", ErrInvalid)
		}
	}
	switch {
	case m.To.IsZero() || from.IsZero() || m.Subject == "" || m.Body == "" || m.Date.IsZero():
		return nil, fmt.Errorf("%w: it lacks an address, a date, a subject or a body", ErrInvalid)
	case m.ID == "" || strings.ContainsFunc(m.ID, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-')
	}):
		return nil, fmt.Errorf("%w: its id isn't one", ErrInvalid)
	case strings.ContainsAny(m.Unsubscribe, "<> ") || m.Unsubscribe != "" && !strings.HasPrefix(m.Unsubscribe, "https://") && !strings.HasPrefix(m.Unsubscribe, "http://"):
		return nil, fmt.Errorf("%w: the link to unsubscribe isn't one", ErrInvalid)
	case m.Lang != "fr" && m.Lang != "en":
		return nil, fmt.Errorf("%w: no such language", ErrInvalid)
	}
	var b bytes.Buffer
	header := func(name, value string) { b.WriteString(name + ": " + value + "\r\n") }
	header("Date", m.Date.UTC().Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	header("From", "<"+from.Text()+">")
	header("To", "<"+m.To.Text()+">")
	header("Subject", mime.QEncoding.Encode("utf-8", m.Subject))
	header("Message-ID", "<"+m.ID+"@"+from.domain+">")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=utf-8")
	header("Content-Transfer-Encoding", "quoted-printable")
	header("Content-Language", m.Lang)
	header("Auto-Submitted", "auto-generated") // RFC 3834: nobody's holiday answers it
	if m.Unsubscribe != "" {
		header("List-Unsubscribe", "<"+m.Unsubscribe+">")
		header("List-Unsubscribe-Post", "List-Unsubscribe=One-Click") // RFC 8058
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	if _, err := w.Write([]byte(strings.ReplaceAll(strings.TrimRight(m.Body, "\n")+"\n", "\n", "\r\n"))); err != nil {
		return nil, err
	}
	return b.Bytes(), w.Close()
}

// TLSMode says how the connection is protected.
type TLSMode string

// The modes.
const (
	StartTLS TLSMode = "starttls" // asked for after the greeting, and insisted on
	Implicit TLSMode = "implicit" // from the first byte (RFC 8314)
	Plain    TLSMode = "none"     // to this machine only
)

// Config of a Client. Server, TLS and From are mandatory.
type Config struct {
	Server string // host:port
	TLS    TLSMode
	From   Address
	// Username and PasswordFile log in (PLAIN, over TLS only); both or neither. The file is read anew for each mail.
	Username, PasswordFile string
	Roots                  *x509.CertPool // nil: the system's
	Timeout                time.Duration  // of one mail; 0 means 30 seconds
}

// Client hands mails to a server. It is safe for concurrent use.
type Client struct {
	cfg  Config
	host string
}

// New checks the configuration; it connects at the first mail.
func New(cfg Config) (*Client, error) {
	host, port, err := net.SplitHostPort(cfg.Server)
	if err != nil || host == "" || port == "" {
		return nil, errors.New("mail: the server is not host:port")
	}
	switch cfg.TLS {
	case StartTLS, Implicit:
	case Plain:
		if !Loopback(host) {
			return nil, errors.New("mail: without TLS only this machine is spoken to")
		}
		if cfg.Username != "" {
			return nil, errors.New("mail: a password doesn't go over a connection without TLS")
		}
	default:
		return nil, fmt.Errorf("mail: no such TLS mode: %q", cfg.TLS)
	}
	if cfg.From.IsZero() {
		return nil, errors.New("mail: no sender given")
	}
	if (cfg.Username == "") != (cfg.PasswordFile == "") {
		return nil, errors.New("mail: a user name and a password's file go together")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	return &Client{cfg, host}, nil
}

// Loopback says whether a host is this machine: a name other than localhost could resolve to anything later.
func Loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback()
}

// Send hands one mail over. The error wraps ErrRefused, ErrLater (also as ErrDown) or ErrInvalid, and never holds the address.
func (c *Client) Send(ctx context.Context, m *Message) error {
	text, err := m.text(c.cfg.From)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.cfg.Server)
	if err != nil {
		return down("connecting", err)
	}
	// net/smtp knows no contexts: what has not ended by then is cut off.
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	defer conn.Close()
	if c.cfg.TLS == Implicit {
		t := tls.Client(conn, c.tls())
		if err := t.HandshakeContext(ctx); err != nil {
			return down("TLS", err)
		}
		conn = t
	}
	s, err := smtp.NewClient(conn, c.host)
	if err != nil {
		return down("the greeting", err)
	}
	return c.send(s, m, text)
}

func (c *Client) tls() *tls.Config {
	return &tls.Config{ServerName: c.host, RootCAs: c.cfg.Roots, MinVersion: tls.VersionTLS12}
}

func (c *Client) send(s *smtp.Client, m *Message, text []byte) error {
	if err := s.Hello(c.cfg.From.domain); err != nil {
		return down("EHLO", err)
	}
	if c.cfg.TLS == StartTLS {
		// Without the extension this fails, too: somebody on the way may have cut it out of the greeting.
		if err := s.StartTLS(c.tls()); err != nil {
			return down("STARTTLS", err)
		}
	}
	if c.cfg.Username != "" {
		password, err := os.ReadFile(c.cfg.PasswordFile)
		if err != nil {
			return down("reading the password", err)
		}
		if err := s.Auth(smtp.PlainAuth("", c.cfg.Username, strings.TrimRight(string(password), "\r\n"), c.host)); err != nil {
			return down("AUTH", err)
		}
	}
	if err := s.Mail(c.cfg.From.Text()); err != nil {
		return down("MAIL", err)
	}
	if err := s.Rcpt(m.To.Text()); err != nil {
		// Permanent and about the mailbox (RFC 5321, section 4.2.3): no such one, moved, its name isn't allowed. Other refusals are about us.
		var reply *textproto.Error
		if errors.As(err, &reply) && (reply.Code == 550 || reply.Code == 551 || reply.Code == 553) {
			return fmt.Errorf("%w (%d)", ErrRefused, reply.Code)
		}
		return later("RCPT", err)
	}
	w, err := s.Data()
	if err != nil {
		return later("DATA", err)
	}
	if _, err := w.Write(text); err != nil {
		return later("DATA", err)
	}
	if err := w.Close(); err != nil {
		return later("DATA", err)
	}
	_ = s.Quit() // it was taken, whatever comes now
	return nil
}

// later says at which step a mail was not taken: what the server says of this one, unless it goes away (RFC 5321, section 3.8: 421) or says nothing.
func later(step string, err error) error {
	var reply *textproto.Error
	if errors.As(err, &reply) && reply.Code != 421 {
		return failed(ErrLater, step, err)
	}
	return down(step, err)
}

// down is for what no mail gets past.
func down(step string, err error) error { return failed(ErrDown, step, err) }

// failed leaves out what the server wrote, which could hold the address, but for the code.
func failed(kind error, step string, err error) error {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		return fmt.Errorf("%w: %s: the server said %d", kind, step, reply.Code)
	}
	return fmt.Errorf("%w: %s: %w", kind, step, err)
}
