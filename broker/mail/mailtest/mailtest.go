// Package mailtest is a mail server for tests: a real one, on this machine, that keeps what it was given. It is for tests, and guarantees nothing beyond what its names say.
package mailtest

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/mail"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// A Server takes mails for everybody, unless it is told otherwise.
type Server struct {
	Addr string

	mu       sync.Mutex
	mails    []Mail
	refusing map[string]*smtp.SMTPError // by step: MAIL, RCPT, DATA
	users    map[string]string
	asked    int
}

// A Mail that was taken.
type Mail struct {
	From, To string
	Header   mail.Header
	Raw      []byte
	User     string // who was logged in
	TLS      bool
}

// Options of a Server. The zero Options are a server without TLS that needs no login.
type Options struct {
	TLS      *tls.Certificate
	Implicit bool              // TLS from the first byte; otherwise STARTTLS is offered, if there is a certificate
	Users    map[string]string // who has to log in, with their passwords; nil: nobody
}

// New starts one that ends with the test.
func New(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{users: o.Users, refusing: map[string]*smtp.SMTPError{}}
	srv := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked++
		return &session{s: s, conn: c}, nil
	}))
	srv.Domain, srv.ReadTimeout, srv.WriteTimeout, srv.MaxMessageBytes, srv.MaxLineLength = "mail.example", time.Minute, time.Minute, 1<<20, 1000
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = ln.Addr().String()
	if o.TLS != nil {
		cfg := &tls.Config{Certificates: []tls.Certificate{*o.TLS}, MinVersion: tls.VersionTLS12}
		if o.Implicit {
			ln = tls.NewListener(ln, cfg)
		} else {
			srv.TLSConfig = cfg
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(ln)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		_ = ln.Close() // one that wasn't served yet srv doesn't know
		<-done
	})
	return s
}

// Refuse answers a step (MAIL, RCPT, DATA) with a code from now on; code 0 ends that.
func (s *Server) Refuse(step string, code int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.refusing, step)
	if code != 0 {
		// What servers write may hold the address, and must not come back in an error.
		s.refusing[step] = &smtp.SMTPError{Code: code, EnhancedCode: smtp.NoEnhancedCode, Message: "no mail for somebody@secret.example"}
	}
}

// Mails that were taken so far.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail(nil), s.mails...)
}

// Sessions is how many connections there were.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// Await waits until so many mails were taken, and returns all of them.
func (s *Server) Await(t testing.TB, n int) []Mail {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if m := s.Mails(); len(m) >= n {
			return m
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d mails came, not %d", len(s.Mails()), n)
		}
	}
}

type session struct {
	s        *Server
	conn     *smtp.Conn
	user     string
	from, to string
}

func (x *session) refused(step string) error {
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	if e := x.s.refusing[step]; e != nil {
		return e
	}
	return nil
}

func (x *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (x *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if want, ok := x.s.users[user]; !ok || want != password {
			return smtp.ErrAuthFailed
		}
		x.user = user
		return nil
	}), nil
}

func (x *session) Mail(from string, _ *smtp.MailOptions) error {
	if x.s.users != nil && x.user == "" {
		return smtp.ErrAuthRequired
	}
	x.from = from
	return x.refused("MAIL")
}

func (x *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	x.to = to
	return x.refused("RCPT")
}

func (x *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if err := x.refused("DATA"); err != nil {
		return err
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	_, isTLS := x.conn.TLSConnectionState()
	x.s.mu.Lock()
	defer x.s.mu.Unlock()
	x.s.mails = append(x.s.mails, Mail{x.from, x.to, m.Header, raw, x.user, isTLS})
	return nil
}

func (*session) Reset() {}

func (*session) Logout() error { return nil }
