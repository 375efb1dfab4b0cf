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
	// A log's head has 32 bytes and stands at its beginning, a frame 24 and the page.
	logCall = regexp.MustCompile(`\bpwrite64\(\d+<([^>]*-wal)>.*, (\d+), (\d+)(?:\)| <unfinished)`)
)

// syncCounter reads what strace says about one process.
type syncCounter struct {
	syncs
	dir   string            // of the broker's files
	wrote map[string]string // what was written last of logs that were not synced since: head or frame
}

func newSyncCounter(dir string) *syncCounter {
	return &syncCounter{syncs: syncs{}, dir: dir, wrote: map[string]string{}}
}

// count counts one line of strace.
func (s *syncCounter) count(line string) {
	if m := logCall.FindStringSubmatch(line); m != nil {
		s.wrote[m[1]] = "frame"
		if m[2] == "32" && m[3] == "0" {
			s.wrote[m[1]] = "head"
		}
		return
	}
	m := syncCall.FindStringSubmatch(line)
	if m == nil {
		return
	}
	name, ours := strings.CutPrefix(m[1], s.dir)
	log, isLog := strings.CutSuffix(name, "-wal")
	switch {
	case ours && isLog && databases[log] != "":
		// Who folds a log syncs it first, with nothing to write; if a commit's sync is still to come then, the two are taken for each other.
		if s.wrote[m[1]] == "frame" {
			s.syncs[databases[log]]++
		} else {
			s.syncs["fold"]++
		}
		delete(s.wrote, m[1])
	case ours && databases[name] != "":
		s.syncs["fold"]++
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
