package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/brokertest"
)

// docs/api.md promises every problem code.
func TestCodesAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	code := regexp.MustCompile(`Code: "([^"]+)"|\.problem\("([^"]+)"|unavailable\("([^"]+)"|Cause[A-Z]\w+ += "(provider/[a-z_]+)"`)
	more = append(more, "../provider/send.go")
	n := 0
	for _, f := range append(files, more...) {
		// Administration and the portal have problems of their own, which only operators and people see.
		switch filepath.Base(f) {
		case "govern.go", "erase.go", "backup.go", "rotate.go", "citizen.go":
			continue
		}
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range code.FindAllStringSubmatch(string(b), -1) {
			c := m[1] + m[2] + m[3] + m[4]
			if n++; !strings.Contains(string(doc), "`"+c+"`") {
				t.Errorf("%s: %s is not in docs/api.md", f, c)
			}
		}
	}
	if n < 30 {
		t.Errorf("only %d codes found: does the pattern still fit?", n)
	}
}

func TestPublic(t *testing.T) {
	h := Public(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Method) }))
	for method, want := range map[string]int{"GET": 200, "HEAD": 200, "OPTIONS": 204, "POST": 405, "PUT": 405, "DELETE": 405} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(method, "/checkpoint", nil))
		if w.Code != want || w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", method, w.Code, w.Header())
		}
	}
}

func TestOps(t *testing.T) {
	var ready error
	role := ""
	h := Ops(NewMetrics(), func(context.Context) error { return ready }, func() string { return role })
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w
	}
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n", "/metrics": "regard_requests_in_flight 0"} {
		if w := get(path); w.Code != 200 || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	role = "follows; a leads, term 7"
	for path, want := range map[string]string{"/healthz": "ok: follows; a leads, term 7\n", "/readyz": "ready: follows; a leads, term 7\n"} {
		if w := get(path); w.Code != 200 || w.Body.String() != want {
			t.Errorf("one that follows: %s: %d %s", path, w.Code, w.Body)
		}
	}
	ready = errors.New("vault is sealed")
	if w := get("/readyz"); w.Code != 503 || !strings.Contains(w.Body.String(), "vault is sealed") {
		t.Errorf("not ready: %d %s", w.Code, w.Body)
	}
	if w := get("/healthz"); w.Code != 200 {
		t.Errorf("healthz: %d", w.Code)
	}
}

// A certificate that can't be read leaves the one in force.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	if _, err := LoadCertificates(cert, key); err == nil {
		t.Fatal("no files, and no error")
	}
	brokertest.WriteIdentity(t, valid(t, "one"), cert, key)
	c, err := LoadCertificates(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	first, _ := c.get(nil)
	if err := os.WriteFile(cert, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Reload(); err == nil {
		t.Error("a broken certificate was taken")
	}
	if now, _ := c.get(nil); now != first {
		t.Error("the certificate in force is gone")
	}
	brokertest.WriteIdentity(t, valid(t, "two"), cert, key)
	if err := c.Reload(); err != nil {
		t.Error(err)
	}
	if now, _ := c.get(nil); now == first || now.Leaf.Subject.CommonName != "two" {
		t.Error("the new certificate isn't in force")
	}
}

// Beyond their number, connections wait; they are served when others end.
func TestConnections(t *testing.T) {
	block, in := make(chan bool), make(chan bool, 2)
	h := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { in <- true; <-block })
	ln, err := listen("127.0.0.1:0", 1, h, writeTimeout, nil, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- ln.Serve() }()
	got := make(chan error, 2)
	for range 2 {
		go func() {
			c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
			res, err := c.Get("http://" + ln.Addr().String())
			if err == nil {
				res.Body.Close()
			}
			got <- err
		}()
	}
	<-in
	select {
	case <-in:
		t.Error("a second connection was served beside the first")
	case <-time.After(100 * time.Millisecond):
	}
	close(block)
	for range 2 {
		if err := <-got; err != nil {
			t.Error(err)
		}
	}
	if err := ln.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
