package admin

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

type fake struct {
	Broker
	calls     []string
	err       error
	agreement policy.Agreement
}

func (f *fake) AddAgency(_ context.Context, id, name, siret string, cert *x509.Certificate) error {
	f.calls = append(f.calls, "add "+id+" "+name+" "+siret+" "+cert.Subject.CommonName)
	return f.err
}

func (f *fake) RotateAgency(_ context.Context, id string, cert *x509.Certificate, keep bool) error {
	if keep {
		id += " keep"
	}
	f.calls = append(f.calls, "rotate "+id+" "+cert.Subject.CommonName)
	return f.err
}

func (f *fake) RevokeAgency(_ context.Context, id string) error {
	f.calls = append(f.calls, "revoke "+id)
	return f.err
}

func (f *fake) AddAuditor(_ context.Context, id, name string, cert *x509.Certificate, vkey string) error {
	f.calls = append(f.calls, "auditor "+id+" "+name+" "+cert.Subject.CommonName+" "+vkey)
	return f.err
}

func (f *fake) RotateAuditor(_ context.Context, id string, cert *x509.Certificate, vkey string, keep bool) error {
	f.calls = append(f.calls, fmt.Sprint("rotate auditor ", id, " ", cert != nil, " ", vkey, " ", keep))
	return f.err
}

func (f *fake) RevokeAuditor(_ context.Context, id string) error {
	f.calls = append(f.calls, "revoke auditor "+id)
	return f.err
}

func (f *fake) Auditors() []store.Auditor {
	return []store.Auditor{{ID: "a", Name: "A", State: "active", Certificates: []store.AgencyKey{{SPKI: [32]byte{1}, NotAfter: time.Unix(0, 0).UTC(), State: "active"}}, Keys: []store.AuditorKey{{VKey: "k", State: "retired"}}}}
}

func (f *fake) Agencies() []store.Agency {
	return []store.Agency{{ID: "a", Name: "A", SIRET: "1", State: "active", Keys: []store.AgencyKey{{SPKI: [32]byte{1}, NotAfter: time.Unix(0, 0).UTC(), State: "active"}}}}
}

func (f *fake) PutAgreement(_ context.Context, a policy.Agreement) (int64, error) {
	f.agreement = a
	return 3, f.err
}

func (f *fake) Agreements() []policy.Agreement { return []policy.Agreement{f.agreement} }

func (f *fake) PutService(_ context.Context, b []byte) (*service.Definition, error) {
	f.calls = append(f.calls, string(b))
	return &service.Definition{ID: "s", Version: 2}, f.err
}

func (f *fake) ReloadPolicy(context.Context) error { return f.err }

func (f *fake) PolicyStatus() policy.Status { return policy.Status{Revision: "r1"} }

func pemCert(t *testing.T) string {
	t.Helper()
	return string(brokertest.CertificatePEM(brokertest.NewCurrentIdentity(t, "ville.example")))
}

func start(t *testing.T) (*fake, *Client, string, *output.Buffer) {
	t.Helper()
	return startOf(t, os.Geteuid())
}

// startOf starts a broker of another user, as far as the socket knows.
func startOf(t *testing.T, uid int) (*fake, *Client, string, *output.Buffer) {
	t.Helper()
	f, log := &fake{}, &output.Buffer{}
	logger := slog.New(slog.NewTextHandler(log, nil))
	h, err := Handler(Config{Broker: f, Status: func(context.Context) Status { return Status{Version: "v", Ready: true} }, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "admin.sock")
	s, err := listen(path, uid, h, logger)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("the socket is still there: %v", err)
		}
	})
	return f, NewClient(path), path, log
}

func TestCalls(t *testing.T) {
	f, c, path, log := start(t)
	ctx := context.Background()
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	cert := pemCert(t)
	if _, err := c.AddAgency(ctx, NewAgency{"id", "Nom", "123", cert}); err != nil {
		t.Error(err)
	}
	if _, err := c.RotateAgency(ctx, "id", Rotation{cert, true}); err != nil {
		t.Error(err)
	}
	if _, err := c.RevokeAgency(ctx, "a/../b"); err != nil {
		t.Error(err)
	}
	if d, err := c.PutService(ctx, []byte("yaml: 1\n")); err != nil || d != (Done{"s", 2}) {
		t.Error(d, err)
	}
	if d := cmp.Diff([]string{"add id Nom 123 ville.example", "rotate id keep ville.example", "revoke a/../b", "yaml: 1\n"}, f.calls); d != "" {
		t.Error(d)
	}
	list, err := c.Agencies(ctx)
	if err != nil || len(list) != 1 || list[0].Keys[0].SPKI != "01"+strings.Repeat("00", 31) {
		t.Error(list, err)
	}
	if st, err := c.Status(ctx); err != nil || !st.Ready {
		t.Error(st, err)
	}
	if p, err := c.ReloadPolicy(ctx); err != nil || p.Revision != "r1" {
		t.Error(p, err)
	}
	for _, want := range []string{`call="POST /agencies/{id}/rotate" id=id status=200`, `id="(not an id)"`, "uid="} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %s in %s", want, log)
		}
	}
	if strings.Contains(log.String(), "BEGIN") {
		t.Error("the log holds a certificate")
	}
}

func TestAuditors(t *testing.T) {
	f, c, _, log := start(t)
	ctx := context.Background()
	cert := pemCert(t)
	for _, err := range []error{
		second(c.AddAuditor(ctx, NewAuditor{"id", "Nom", cert, "vkey"})), second(c.RotateAuditor(ctx, "id", AuditorRotation{Certificate: cert})), second(c.RotateAuditor(ctx, "id", AuditorRotation{Key: "next", KeepOld: true})), second(c.RevokeAuditor(ctx, "id")),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	if d := cmp.Diff([]string{"auditor id Nom ville.example vkey", "rotate auditor id true  false", "rotate auditor id false next true", "revoke auditor id"}, f.calls); d != "" {
		t.Error(d)
	}
	got, err := c.Auditors(ctx)
	want := []Auditor{{"a", "A", "active", []AgencyKey{{"01" + strings.Repeat("00", 31), time.Unix(0, 0).UTC(), "active"}}, []AuditorKey{{"k", proof.AuditorKey("k").String(), "retired"}}}}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Error(err, d)
	}
	for name, err := range map[string]error{
		"no certificate": second(c.AddAuditor(ctx, NewAuditor{ID: "id"})), "a bad one": second(c.RotateAuditor(ctx, "id", AuditorRotation{Certificate: "x"})),
	} {
		var e *Error
		if !errors.As(err, &e) || e.Status != 400 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !strings.Contains(log.String(), `call="POST /auditors" id=id`) || strings.Contains(log.String(), "Nom") {
		t.Error(log)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAgreement(t *testing.T) {
	f, c, _, _ := start(t)
	ctx := context.Background()
	in := Agreement{ID: "i", Agency: "a", Service: "s", Scopes: []string{"x"}, Purposes: []string{"p"}, LegalBases: []string{"l"}, NotBefore: "2026-01-01", NotAfter: "2026-12-31", Obligations: []string{"notify_person"}}
	d, err := c.PutAgreement(ctx, in)
	if err != nil || d.Version != 3 {
		t.Fatal(d, err)
	}
	// The last day counts as a whole.
	if got := f.agreement.NotAfter; !got.Equal(time.Date(2026, 12, 31, 23, 59, 59, 999e6, time.UTC)) {
		t.Errorf("not after %v", got)
	}
	// What is shown can be put again and means the same.
	f.agreement.Version, f.agreement.State = 3, policy.AgreementActive
	before := f.agreement
	list, err := c.Agreements(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PutAgreement(ctx, list[0]); err != nil {
		t.Fatal(err)
	}
	f.agreement.Version, f.agreement.State = 3, policy.AgreementActive
	want, err := before.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	got, err := f.agreement.Canonical()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Error(d)
	}
	in.NotBefore = "01/02/2026"
	var e *Error
	if _, err := c.PutAgreement(ctx, in); !errors.As(err, &e) || e.Status != 400 || e.Parameter != "/not_before" {
		t.Errorf("got %v", err)
	}
}

func TestRefusals(t *testing.T) {
	f, c, _, _ := start(t)
	ctx := context.Background()
	key := "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
	for name, cert := range map[string]string{"no PEM": "x", "private key": key + pemCert(t), "broken": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"} {
		var e *Error
		if _, err := c.AddAgency(ctx, NewAgency{"id", "Nom", "123", cert}); !errors.As(err, &e) || e.Status != 400 || e.Parameter != "/certificate" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(f.calls) > 0 {
		t.Errorf("calls %v", f.calls)
	}
	f.err = &broker.Problem{Status: 409, Code: "agency.exists", Title: "Exists.", Detail: "Rotate."}
	var e *Error
	if _, err := c.RevokeAgency(ctx, "id"); !errors.As(err, &e) || e.Code != "agency.exists" || err.Error() != "Exists. Rotate." {
		t.Errorf("got %v", err)
	}
	f.err = errors.New("disk on fire")
	if _, err := c.RevokeAgency(ctx, "id"); err == nil || !strings.Contains(err.Error(), "disk on fire") {
		t.Errorf("the operator isn't told the cause: %v", err)
	}
	if err := c.do(ctx, "POST", "/agencies", map[string]string{"idd": "x"}, &Done{}); !errors.As(err, &e) || e.Status != 400 {
		t.Errorf("unknown member: %v", err)
	}
	if err := c.do(ctx, "POST", "/services", make([]byte, maxBody+1), &Done{}); err == nil {
		t.Error("a large body was taken")
	}
	if err := c.do(ctx, "GET", "/nothing", nil, &Done{}); !errors.As(err, &e) || e.Status != 404 || !strings.Contains(err.Error(), "version") {
		t.Errorf("unknown call: %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	dir := t.TempDir()
	ctx := context.Background()
	path := filepath.Join(dir, "admin.sock")
	if _, err := NewClient(path).Status(ctx); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	// A socket that a killed broker left.
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	h, err := Handler(Config{Broker: &fake{}, Status: func(context.Context) Status { return Status{} }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, h, nil); err == nil || !strings.Contains(err.Error(), "another broker") {
		t.Errorf("a live socket: %v", err)
	}
	ln.Close()
	if _, err := NewClient(path).Status(ctx); !errors.Is(err, ErrNotRunning) {
		t.Errorf("dead socket: %v", err)
	}
	s, err := Listen(path, h, nil)
	if err != nil {
		t.Fatalf("a dead socket isn't replaced: %v", err)
	}
	s.ln.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path, h, nil); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file: %v", err)
	}
}

// Another user is refused by the kernel's word, also when the file's mode would let them in. Root becomes one to try it; anybody else is one to the broker of somebody else.
func TestPeer(t *testing.T) {
	uid, owner := 65534, os.Geteuid()
	if owner != 0 {
		uid, owner = owner, owner+1
	}
	f, _, path, log := startOf(t, owner)
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	for d := filepath.Dir(path); d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var conn int
	err := asUser(uid, func() (err error) {
		if conn, err = syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0); err != nil {
			return err
		}
		return syscall.Connect(conn, &syscall.SockaddrUnix{Name: path})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(conn)
	// The broker may have hung up already.
	_, _ = syscall.Write(conn, []byte("POST /agencies/x/revoke HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"))
	b := make([]byte, 100)
	if n, err := syscall.Read(conn, b); n > 0 {
		t.Errorf("answered %q, %v", b[:n], err)
	}
	if len(f.calls) > 0 || !strings.Contains(log.String(), "administration refused") || !strings.Contains(log.String(), fmt.Sprintf("uid=%d ", uid)) {
		t.Errorf("calls %v, log %s", f.calls, log)
	}
}

// asUser runs fn in a thread with another effective user id. The call is made raw, because Go's own changes all threads.
func asUser(uid int, fn func() error) error {
	if uid == os.Geteuid() {
		return fn()
	}
	const keep = ^uintptr(0)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, uintptr(uid), keep); e != 0 {
		return e
	}
	err := fn()
	if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, keep, 0, keep); e != 0 {
		panic(e) // this thread can't be used any more
	}
	return err
}
