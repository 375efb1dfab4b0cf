package signer_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/remote"
)

// BenchmarkAddIntegrate is what the sequencer does with a batch, through another process: leaves are added, and the root that has them is awaited. PostgreSQL syncs to the disk. "own" is the log
// server of the signer's process, "stock" is Trillian's with the signer beside it.
func BenchmarkAddIntegrate(b *testing.B) {
	c := pgtest.Own(b, "fsync = on")
	for i, kind := range []string{"own", "stock"} {
		b.Run("server="+kind, func(b *testing.B) {
			if err := c.SQL(b.Context(), "postgres", fmt.Sprintf("CREATE DATABASE bench%d", i)); err != nil {
				b.Fatal(err)
			}
			dsn, _ := prepared(b, c, fmt.Sprintf("bench%d", i))
			addr := socket(b)
			var processes []*exec.Cmd
			if kind == "own" {
				processes = append(processes, startProcess(b, childConfig{DSN: dsn, Listen: addr}).cmd)
			} else {
				s := startStock(b, dsn)
				addr = s.addr
				processes = append(processes, startProcess(b, childConfig{DSN: dsn}).cmd, s.cmd)
			}
			l := dial(b, addr)
			next := int64(0)
			for _, size := range []int64{1, 64, 256, 512} {
				b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) { benchmarkBatches(b, l, processes, size, &next) })
			}
		})
	}
}

func benchmarkBatches(b *testing.B, l *remote.Log, processes []*exec.Cmd, size int64, next *int64) {
	used := func() (d time.Duration) {
		for _, p := range processes {
			d += cpuOf(b, p.Process.Pid)
		}
		return d
	}
	first, before, start := *next, used(), time.Now()
	var adds, all []time.Duration
	for b.Loop() {
		began := time.Now()
		if err := add(b.Context(), l, *next, size); err != nil {
			b.Fatal(err)
		}
		adds = append(adds, time.Since(began))
		*next += size
		for {
			r, err := root(b.Context(), l)
			if err != nil {
				b.Fatal(err)
			}
			if int64(r.TreeSize) == *next {
				break
			}
			time.Sleep(500 * time.Microsecond)
		}
		all = append(all, time.Since(began))
	}
	n := float64(*next - first)
	slices.Sort(adds)
	slices.Sort(all)
	b.ReportMetric(n/time.Since(start).Seconds(), "leaves/s")
	b.ReportMetric(float64((used()-before).Microseconds())/n, "cpu-µs/leaf")
	b.ReportMetric(float64(adds[len(adds)/2].Microseconds())/1000, "add-p50-ms")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "root-p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "root-p99-ms")
}

// cpuOf is the time that a process used so far (proc(5), in hundredths of a second).
func cpuOf(t testing.TB, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	var user, system int64
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}
