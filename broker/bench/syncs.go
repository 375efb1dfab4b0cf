package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// syncs counts what a process has the disk make durable, by the name of the file's role.
type syncs map[string]int64

// databases of a broker, by what a commit of each stands for. A commit syncs the write-ahead log once. Folding the log into the database syncs the log, then the database, and
// the log then begins anew: with a head of its own at offset 0, which is synced before the next commit's pages are written.
var databases = map[string]string{
	"/store/store.db":   "store",
	"/log/trillian.db":  "trillian",
	"/signed/signed.db": "signed",
}

var (
	syncCall = regexp.MustCompile(`\b(?:fsync|fdatasync)\(\d+<([^>]*)>`)
	headCall = regexp.MustCompile(`\bpwrite64\(\d+<([^>]*-wal)>.*, 32, 0(?:\)| <unfinished)`) // a log's head has 32 bytes, a frame 24 and the page
)

// syncCounter reads what strace says about one process.
type syncCounter struct {
	syncs
	dir   string          // of the broker's files
	heads map[string]bool // logs whose head was written and not synced yet
}

func newSyncCounter(dir string) *syncCounter {
	return &syncCounter{syncs: syncs{}, dir: dir, heads: map[string]bool{}}
}

// count counts one line of strace.
func (s *syncCounter) count(line string) {
	if m := headCall.FindStringSubmatch(line); m != nil {
		s.heads[m[1]] = true
		return
	}
	m := syncCall.FindStringSubmatch(line)
	if m == nil {
		return
	}
	name, ours := strings.CutPrefix(m[1], s.dir)
	log, isLog := strings.CutSuffix(name, "-wal")
	switch {
	case ours && isLog && databases[log] != "" && s.heads[m[1]]:
		delete(s.heads, m[1])
		s.syncs["fold"]++
	case ours && isLog && databases[log] != "":
		s.syncs[databases[log]]++
	case ours && databases[name] != "":
		// Whoever folds a log into its database syncs the log first: so one sync of the log was no commit's.
		s.syncs[databases[name]]--
		s.syncs["fold"] += 2
	case ours && strings.HasPrefix(name, "/public"):
		s.syncs["publication"]++
	default:
		s.syncs["other"]++
	}
}

// countSyncs watches a process from outside with strace while f runs. Under strace every system call costs more, so nothing is timed meanwhile.
func countSyncs(ctx context.Context, pid int, dir string, f func() error) (syncs, error) {
	path, err := exec.LookPath("strace")
	if err != nil {
		return nil, errNoStrace
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "-f", "-y", "-q", "-s", "0", "-e", "trace=fsync,fdatasync,pwrite64", "-e", "signal=none", "-p", strconv.Itoa(pid)) // #nosec G204 -- strace, on processes of this benchmark
	cmd.Cancel = func() error { return cmd.Process.Kill() }                                                                                                  // the kernel detaches from what it traced
	out, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoStrace, err)
	}
	counted := newSyncCounter(dir)
	lines, refused := make(chan struct{}), ""
	go func() {
		defer close(lines)
		in := bufio.NewScanner(out)
		for in.Scan() {
			if strings.HasPrefix(in.Text(), "strace:") {
				refused = in.Text()
			}
			counted.count(in.Text())
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case <-lines: // it may not trace
		_ = cmd.Wait()
		return nil, fmt.Errorf("%w: %s", errNoStrace, refused)
	case <-time.After(time.Second):
	}
	err = f()
	_ = cmd.Process.Signal(interrupt)
	<-lines
	_ = cmd.Wait() // it reports the signal
	return counted.syncs, err
}

var errNoStrace = errors.New("no strace that may watch the broker")
