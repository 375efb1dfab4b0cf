package embedded

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"k8s.io/klog/v2"

	"github.com/regard-broker/regard/ledger/ledgertest/output"
)

func TestManyLogsInOneProcess(t *testing.T) {
	dir := t.TempDir()
	ids := make(map[int64]bool)
	for round := range 3 {
		var logs []*Log
		for i := range 5 {
			l := open(t, filepath.Join(dir, fmt.Sprint(i)))
			logs = append(logs, l)
			ids[l.TreeID()] = true
			mustAdd(t, l, knownLeaves(int64(10*round), 10), codes.OK)
			if root := mustIntegrate(t, l); root.TreeSize != uint64(10*round+10) {
				t.Errorf("size %d in round %d", root.TreeSize, round)
			}
			if _, err := Open(t.Context(), Config{Path: filepath.Join(dir, fmt.Sprint(i))}); !errors.Is(err, ErrLocked) {
				t.Errorf("opening twice: %v, want ErrLocked", err)
			}
		}
		for _, l := range logs {
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if err := l.Close(); err != nil {
				t.Errorf("closing twice: %v", err)
			}
			if err := l.Integrate(t.Context()); err == nil {
				t.Error("integrated after Close")
			}
			if _, err := latest(t.Context(), l); err == nil {
				t.Error("answered after Close")
			}
		}
	}
	if len(ids) != 5 {
		t.Errorf("5 logs had %d tree ids", len(ids))
	}
}

func TestClockThatStepsBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	var mu sync.Mutex
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	step := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); now = now.Add(d) }
	var logged bytes.Buffer
	cfg := func(c *Config) {
		c.Clock = clock
		c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	}
	l := open(t, path, cfg)
	var last uint64
	size := int64(0)
	grow := func() {
		t.Helper()
		mustAdd(t, l, knownLeaves(size, 1), codes.OK)
		size++
		root := mustIntegrate(t, l)
		if root.TimestampNanos <= last {
			t.Fatalf("root time went from %d to %d", last, root.TimestampNanos)
		}
		last = root.TimestampNanos
	}
	grow()
	grow() // a clock that stands still
	if logged.Len() != 0 {
		t.Errorf("logged for nothing: %s", &logged)
	}
	step(-time.Hour)
	grow()
	grow()
	if n := strings.Count(logged.String(), "clock is behind"); n != 1 {
		t.Errorf("warned %d times, want once: %s", n, &logged)
	}
	l.Close()
	l = open(t, path, cfg)
	grow()
	step(2 * time.Hour)
	grow()
	if want := uint64(now.UnixNano()); last != want && last > want+1000 {
		t.Errorf("root time %d does not follow the clock at %d again", last, want)
	}
}

func TestTrillianLogsThroughSlog(t *testing.T) {
	run := func(level slog.Level) string {
		var out output.Buffer
		l := open(t, filepath.Join(t.TempDir(), "log.db"), func(c *Config) {
			c.Logger = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level}))
		})
		for i := range int64(3) {
			mustAdd(t, l, knownLeaves(4*i, 4), codes.OK)
			mustIntegrate(t, l)
		}
		l.Close()
		return out.String()
	}
	if out := run(slog.LevelInfo); out != "" {
		t.Errorf("normal work logs at level info: %s", out)
	}
	if out, n := run(slog.LevelDebug), 3; strings.Count(out, `msg="integrated leaves" count=4`) != n || strings.Count(out, "\n") != n {
		t.Errorf("want %d lines, one a batch, got: %s", n, out)
	}
	var out output.Buffer
	open(t, filepath.Join(t.TempDir(), "log.db"), func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&out, nil)) })
	klog.Infof("all %s", "right")
	klog.Warningf("not %s", "right")
	if got := out.String(); strings.Contains(got, "all right") || !strings.Contains(got, `level=WARN msg="not right" source=trillian/process_test.go:`) {
		t.Errorf("klog's warning became %q", got)
	}
}
