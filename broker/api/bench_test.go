package api

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/regard-broker/regard/broker"
)

type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// bigAnswer has a receipt and data of the usual size.
func bigAnswer() *broker.Answer {
	a := released()
	a.Receipt = bytes.Repeat([]byte("0 open 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU= Zm9v\n"), 60)
	a.Data = []byte(`{"x":"` + strings.Repeat("y", 600) + `"}`)
	return a
}

// BenchmarkLayer is what this package costs for a disclosure, without TLS and net/http: authentication, limits, parsing, access log, metrics, the answer's encoding.
func BenchmarkLayer(b *testing.B) {
	mine := valid(b, "mine")
	f := &instant{caller: broker.Caller{ID: "mine"}, answer: bigAnswer()}
	api, err := New(Config{Broker: f, Logger: slog.New(slog.NewJSONHandler(io.Discard, nil)), Rate: 1e9, Burst: 1e9})
	if err != nil {
		b.Fatal(err)
	}
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{mine.Leaf}}
	b.ReportAllocs()
	for b.Loop() {
		r, err := http.NewRequest("POST", "/v1/disclosures", strings.NewReader(question))
		if err != nil {
			b.Fatal(err)
		}
		r.TLS = state
		r.Header["Content-Type"] = asJSON
		r.Header["Idempotency-Key"] = []string{"0193-abc"}
		api.ServeHTTP(discard{http.Header{}}, r)
	}
}

type instant struct {
	Auditing
	fake
	caller broker.Caller
	answer *broker.Answer
}

// BenchmarkTLS is a disclosure over HTTP and TLS on a connection that is kept, both ends in this process. cpu-µs/op is what both ends use.
func BenchmarkTLS(b *testing.B) {
	for _, h2 := range []bool{false, true} {
		name := "h1"
		if h2 {
			name = "h2"
		}
		b.Run(name, func(b *testing.B) {
			s := start(b, func(c *Config) {
				c.Logger, c.Rate, c.Burst = slog.New(slog.NewJSONHandler(io.Discard, nil)), 1e9, 1e9
				c.Broker = &instant{caller: broker.Caller{ID: "mine"}, answer: bigAnswer()}
			})
			c := s.clientOf(h2, s.mine)
			s.do(b, c, "POST", "/v1/disclosures", question)
			before := cpu(b)
			n := 0
			for b.Loop() {
				if r := s.do(b, c, "POST", "/v1/disclosures", question); r.status != 200 {
					b.Fatal(r.body)
				}
				n++
			}
			b.ReportMetric((cpu(b)-before)/float64(n), "cpu-µs/op")
		})
	}
}

func cpu(b *testing.B) float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Sec+u.Stime.Sec)*1e6 + float64(u.Utime.Usec+u.Stime.Usec)
}

func (f *instant) Authenticate(*x509.Certificate) (broker.Caller, error) { return f.caller, nil }

func (f *instant) Disclose(context.Context, broker.Caller, *broker.Request) (*broker.Answer, error) {
	return f.answer, nil
}
