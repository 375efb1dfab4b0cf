package api

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/ledgertest"
)

// TestSlowProviderIsNotTheCallersFault: a caller whose request was carried out for as long as requests may be isn't cut off, and then has the time for an answer that every caller has.
func TestSlowProviderIsNotTheCallersFault(t *testing.T) {
	s := start(t, nil)
	a, err := New(Config{Broker: s.fake})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := s.certificates(t)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := a.Listen("127.0.0.1:0", 1, certs)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.ln.Close()
	if longest := 15*time.Second + broker.LongestExchange; ln.server.WriteTimeout <= longest {
		t.Errorf("the caller is cut off after %s, and a request may take %s", ln.server.WriteTimeout, longest)
	}
	const exchange = 50 * time.Millisecond
	late := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(4 * exchange)
		a.ServeHTTP(w, r)
	})
	plain, err := listen("127.0.0.1:0", 1, late, exchange, slog.New(slog.DiscardHandler), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = plain.Serve() }()
	defer func() { _ = plain.Shutdown(context.Background()) }()
	res, err := http.Get("http://" + plain.Addr().String() + "/openapi.json")
	if err != nil {
		t.Fatalf("the answer came after the deadline of the exchange, and was cut off: %v", err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || int64(len(b)) != res.ContentLength {
		t.Errorf("%s, %d bytes: %v", res.Status, len(b), err)
	}
}

// TestSlowReader: who doesn't take an answer is cut off soon, though exchanges may last.
func TestSlowReader(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		s := start(t, func(c *Config) { c.Write = time.Second })
		a := released()
		a.Data = []byte(`{"x":"` + strings.Repeat("y", 32<<20) + `"}`)
		s.disclose = func(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) { return a, nil }
		c := s.clientOf(h2, s.mine)
		c.Timeout = 0 // it isn't the one that gives up
		req, err := http.NewRequest(http.MethodPost, "https://"+s.addr+"/v1/disclosures", strings.NewReader(question))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		res, err := c.Do(req)
		ledgertest.Await(t, "the end of the exchange", func() bool { return strings.Contains(s.log.String(), `"msg":"request"`) })
		if err != nil {
			continue // so soon that not even the header came
		}
		if n, err := io.Copy(io.Discard, res.Body); err == nil || res.ProtoMajor == 2 != h2 {
			t.Errorf("%s: all of %d bytes came", res.Proto, n)
		}
		res.Body.Close()
	}
}
