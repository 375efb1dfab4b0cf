package broker_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/regard-broker/regard/broker"
)

// BenchmarkDisclose is the pipeline without HTTP towards the agency; the provider, on loopback, is in the same process. Distinct people, one in an answer, about 2 kB.
func BenchmarkDisclose(b *testing.B) {
	w := newWorld(b, nil)
	pad := strings.Repeat("x", 1800)
	w.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":1234},"membres":[{"nom":%q,"prenoms":"ZOE","naissance":"1984-02-29","sexe":"F"}],"adresse":%q}}`, r.URL.Query().Get("nomNaissance"), pad)
	}
	w.provider.quiet = true
	var n atomic.Int64
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req := request()
			i := n.Add(1)
			req.Subject.Pivot.BirthName = "EXEMPLE " + letters(i)
			req.Subject.Pivot.GivenNames = "ZOE"
			a, err := w.b.Disclose(b.Context(), w.caller, req)
			if err != nil || a.Outcome != broker.Released {
				b.Fatalf("%+v, %v", a, err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "disclosures/s")
}

func letters(i int64) string {
	var out []byte
	for ; i > 0; i /= 26 {
		out = append(out, byte('A'+i%26))
	}
	return string(out)
}
