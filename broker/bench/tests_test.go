package bench

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseBenchmarks(t *testing.T) {
	got, err := parseBenchmarks([]byte(`goos: linux
BenchmarkFsck/10000-2         	       1	  42807303 ns/op	         4.820 MiB-heap	    233605 entries/s
BenchmarkEpochProof           	     500	    452891 ns/op	        81.86 B/item
PASS
`))
	want := []measured{
		{"Fsck/10000", map[string]float64{"ns/op": 42807303, "MiB-heap": 4.82, "entries/s": 233605}},
		{"EpochProof", map[string]float64{"ns/op": 452891, "B/item": 81.86}},
	}
	if err != nil || len(got) != len(want) {
		t.Fatalf("%v, %v", got, err)
	}
	for i, w := range want {
		if got[i].Name != w.Name || !maps.Equal(got[i].Values, w.Values) {
			t.Errorf("%v, want %v", got[i], w)
		}
	}
	for _, bad := range []string{"", "PASS\n", "BenchmarkX 1 a ns/op\n"} {
		if got, err := parseBenchmarks([]byte(bad)); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
}

// What is late, large or not measured is missed; a smaller size has no aim.
func TestVerdictsOfTests(t *testing.T) {
	for _, x := range []struct {
		name   string
		values map[string]float64
		want   map[string]string // verdicts by a part of what they are about
	}{
		{"Fsck/1000000", map[string]float64{"ns/op": 59e9}, map[string]string{"fsck": "met"}},
		{"Fsck/1000000", map[string]float64{"ns/op": 61e9}, map[string]string{"fsck": "missed"}},
		{"Fsck/1000000", nil, map[string]string{"fsck": "missed"}},
		{"Fsck/10000", map[string]float64{"ns/op": 61e9}, map[string]string{"fsck": "none"}},
		{"History/3650", map[string]float64{"s/made": 2.9, "MB": 10.1, "s/verified": 1.9}, map[string]string{"made": "met", "size": "missed", "verified": "met"}},
		{"History/3650", nil, map[string]string{"made": "missed", "size": "missed", "verified": "missed"}},
		{"History/365", nil, map[string]string{"made": "none", "size": "none", "verified": "none"}},
		{"Browser/365", map[string]float64{"s/checked": 2.9, "MB": 1}, map[string]string{"Chromium": "met"}},
		{"Browser/365", map[string]float64{"s/checked": 3.1, "MB": 1}, map[string]string{"Chromium": "missed"}},
		{"Browser/3650", map[string]float64{"s/checked": 19, "MB": 1}, map[string]string{"Chromium": "met"}},
		{"Browser/3650", nil, map[string]string{"Chromium": "missed"}},
		{"EpochProof", map[string]float64{"ns/op": 999e3}, map[string]string{"proof": "met"}},
		{"EpochProof", map[string]float64{"ns/op": 1001e3}, map[string]string{"proof": "missed"}},
	} {
		r := Report{Tests: []measured{{x.name, x.values}}}
		r.judgeTests()
		if len(r.Targets) != len(x.want) {
			t.Errorf("%s: %+v", x.name, r.Targets)
		}
		for _, g := range r.Targets {
			got := "missed"
			if g.Met {
				got = "met"
			}
			if g.Aim == "none" {
				got = "none"
			}
			for part, want := range x.want {
				if strings.Contains(g.What, part) && got != want {
					t.Errorf("%s %v: %s: %s, want %s", x.name, x.values, g.What, got, want)
				}
			}
		}
	}
}

// The benchmarks are there under the names by which they are run, and print what the table is made of.
func TestBenchmarksOfTests(t *testing.T) {
	dir := t.TempDir()
	if _, err := exec.LookPath("chromium"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("skipped: chromium is not installed (make test installs it)")
	}
	if os.Getenv("REGARD_VERIFIER") == "" {
		t.Setenv("REGARD_VERIFIER", filepath.Join(dir, "verifier"))
		if out, err := exec.CommandContext(t.Context(), "../../deploy/tools/verifier", filepath.Join(dir, "verifier")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	c := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-c", "-o", dir+"/", "../../ledger", "../../ledger/fsck", "../portal/verifier")
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-trimpath") // as make build does: most of it is compiled then
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r := &runner{o: Options{Tests: dir, Short: true}, dir: t.TempDir(), progress: io.Discard, report: &Report{}}
	if err := r.fourth(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.report.judgeTests()
	if len(r.report.Targets) != 7 { // three of the history, one of a proof, two of fsck, one of the browser
		t.Errorf("%+v", r.report.Targets)
	}
	for _, m := range r.report.Tests {
		for unit, v := range m.Values {
			if v <= 0 && (unit != "ns/op" || !strings.HasPrefix(m.Name, "History") && !strings.HasPrefix(m.Name, "Browser")) {
				t.Errorf("%s: %v %s", m.Name, v, unit)
			}
		}
	}
	r.o.Tests = t.TempDir()
	if err := r.fourth(t.Context()); err == nil {
		t.Error("there is no program, and no error")
	}
}
