package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// measured is a line that a Go benchmark printed: its name without the number of processors, and what it measured by unit (https://go.dev/design/14313-benchmark-format).
type measured struct {
	Name   string
	Values map[string]float64
}

// ofTests are the benchmarks that measure what is no load of a broker: packages' tests, built with go test -c.
var ofTests = []struct{ program, name, times string }{
	{"ledger.test", "History", "1x"},
	{"ledger.test", "EpochProof", "500x"},
	{"fsck.test", "Fsck", "1x"},
	{"verifier.test", "Browser", "1x"},
}

// fourth runs the benchmarks of tests, one after the other, in processes of their own.
func (r *runner) fourth(ctx context.Context) error {
	for _, b := range ofTests {
		r.say("running the benchmark %s of %s", b.name, b.program)
		program, err := filepath.Abs(filepath.Join(r.o.Tests, b.program))
		if err != nil {
			return err
		}
		args := []string{"-test.run=^$", "-test.bench=^Benchmark" + b.name + "$", "-test.benchtime=" + b.times, "-test.timeout=30m"}
		if r.o.Short {
			args = append(args, "-test.short")
		}
		c := exec.CommandContext(ctx, program, args...) // #nosec G204 -- named by who runs the benchmark
		c.Dir, c.Env = r.dir, append(os.Environ(), "TMPDIR="+r.dir)
		out, err := c.CombinedOutput()
		if err != nil {
			return fmt.Errorf("bench: running %s: %w: %s", b.program, err, bytes.TrimSpace(out))
		}
		lines, err := parseBenchmarks(out)
		if err != nil {
			return fmt.Errorf("bench: what %s printed: %w", b.program, err)
		}
		r.report.Tests = append(r.report.Tests, lines...)
	}
	return nil
}

var processors = regexp.MustCompile(`-[0-9]+$`)

// parseBenchmarks reads the lines of benchmarks, and passes over all others.
func parseBenchmarks(out []byte) (list []measured, err error) {
	s := bufio.NewScanner(bytes.NewReader(out))
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 4 || len(f)%2 != 0 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		m := measured{processors.ReplaceAllString(strings.TrimPrefix(f[0], "Benchmark"), ""), map[string]float64{}}
		for i := 2; i < len(f); i += 2 {
			if m.Values[f[i+1]], err = strconv.ParseFloat(f[i], 64); err != nil {
				return nil, fmt.Errorf("%s: %w", f[0], err)
			}
		}
		list = append(list, m)
	}
	if err := s.Err(); err != nil {
		return nil, err
	}
	if len(list) == 0 {
		return nil, errors.New("no benchmark")
	}
	return list, nil
}

// The aims of proofs and their checking. Each is for one size alone.
const (
	aimHistoryMade     = 3 * time.Second // of fullHistory epochs
	aimHistoryVerified = 2 * time.Second
	aimHistorySize     = 10.0 // MB
	aimFsck            = time.Minute
	aimBrowserYear     = 3 * time.Second // of a year of epochs
	aimBrowserYears    = 20 * time.Second

	fullHistory = 3650
	yearHistory = 365
	fullFsck    = 1_000_000
)

// judgeTests adds what the benchmarks of tests measured. A smaller size has no aim.
func (r *Report) judgeTests() {
	seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	for _, m := range r.Tests {
		name, size, _ := strings.Cut(m.Name, "/")
		n, _ := strconv.Atoi(size)
		aim := func(full int, what, aim string, met bool, measured string, args ...any) {
			if n != full {
				aim, met = "none", true
			}
			r.aim(what, aim, met, measured, args...)
		}
		v := m.Values
		switch name {
		case "History":
			of := fmt.Sprintf("history of %d epochs", n)
			made, verified, size := seconds(v["s/made"]), seconds(v["s/verified"]), v["MB"]
			aim(fullHistory, of+", made", "< "+show(aimHistoryMade), made > 0 && made < aimHistoryMade, "%s on one core", show(made))
			aim(fullHistory, of+", its size", fmt.Sprintf("< %.0f MB", aimHistorySize), size > 0 && size < aimHistorySize, "%.1f MB", size)
			aim(fullHistory, of+", verified", "< "+show(aimHistoryVerified), verified > 0 && verified < aimHistoryVerified, "%s on one core", show(verified))
		case "Browser":
			took, max := seconds(v["s/checked"]), aimBrowserYears
			if n == yearHistory {
				max = aimBrowserYear
			}
			r.aim(fmt.Sprintf("history of %d epochs, two identifiers, in Chromium: from the click to the verdict", n), "< "+show(max), took > 0 && took < max, "%s, %.1f MB", show(took), v["MB"])
		case "EpochProof":
			took := seconds(v["ns/op"] / 1e9)
			r.aim("a person's proof in an epoch of 1000000", "< "+show(aimProof), took > 0 && took < aimProof, "%s (the epoch's index: %.0f B an item)", show(took), v["B/item"])
		case "Fsck":
			took := seconds(v["ns/op"] / 1e9)
			aim(fullFsck, fmt.Sprintf("fsck of %d entries", n), "< "+show(aimFsck), took > 0 && took < aimFsck, "%s (%.0f/s, largest heap %.0f MiB)", show(took), v["entries/s"], v["MiB-heap"])
		}
	}
}
