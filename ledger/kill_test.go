package ledger_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	killDir = "REGARD_TEST_KILL_DIR"
	killAt  = "REGARD_TEST_KILL_AT" // "<call> <before|after> <nth>"
)

// killChild is the process that TestKill kills.
func killChild(t *testing.T, dir string) {
	var call, when string
	var nth int32
	if _, err := fmt.Sscan(os.Getenv(killAt), &call, &when, &nth); err != nil {
		t.Fatal(err)
	}
	env := ledgertest.NewDurable(t, dir)
	var n atomic.Int32
	env.Faults.Hook = func(c string, after bool) {
		if c == call && after == (when == "after") && n.Add(1) == nth {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
	}
	acks, err := os.OpenFile(filepath.Join(dir, "acks"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cfg := env.Config()
	cfg.Clock, cfg.Epoch = nil, 60*time.Millisecond
	cfg.PrepareFrom(5) // so that most epochs are closed with preparation, and the first of a process without
	l, err := ledger.Open(context.Background(), cfg)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := range 400 {
				g, _ := ledgertest.Disclosure(ledgertest.Person(c), ledgertest.Person(i%7))
				a, err := l.Append(context.Background(), g)
				if err != nil {
					t.Errorf("append: %v", err)
					return
				}
				for _, e := range a.Entries {
					// One write a line: whole or absent, also when the process is killed.
					line := fmt.Sprintf("%d %s %s\n", e.Index, base64.StdEncoding.EncodeToString(e.Text), base64.StdEncoding.EncodeToString(a.Checkpoint.Note()))
					if _, err := acks.WriteString(line); err != nil {
						t.Errorf("noting an acknowledgement: %v", err)
					}
				}
			}
		})
	}
	wg.Wait()
	t.Fatalf("%s %s was reached %d times only", call, when, n.Load())
}

// kill -9 at each step of the path, three times each on the same files: what was acknowledged stays, where it was, under checkpoints that all are prefixes of one
// history.
func TestKill(t *testing.T) {
	if dir := os.Getenv(killDir); dir != "" {
		killChild(t, dir)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{
		ledgertest.CallCommit + " before", ledgertest.CallCommit + " after", ledgertest.CallAdd + " after", ledgertest.CallIntegrate + " after",
		ledgertest.CallSwap + " before", ledgertest.CallSwap + " after", ledgertest.CallFile + " after", ledgertest.CallFilings + " after",
		ledgertest.CallRoll + " after",
	} {
		t.Run(at, func(t *testing.T) {
			dir := t.TempDir()
			var checkpoints [][]byte
			for _, nth := range []int{1, 2, 3, 9} {
				cmd := exec.Command(exe, "-test.run=^TestKill$", "-test.timeout=60s")
				cmd.Env = append(os.Environ(), killDir+"="+dir, fmt.Sprintf("%s=%s %d", killAt, at, nth))
				out, err := cmd.CombinedOutput()
				var ee *exec.ExitError
				if !errors.As(err, &ee) || ee.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("the child wasn't killed (%v):\n%s", err, out)
				}
			}
			checkKilled(t, dir, checkpoints)
		})
	}
}

func checkKilled(t *testing.T, dir string, checkpoints [][]byte) {
	ctx := context.Background()
	env := ledgertest.NewDurable(t, dir)
	l, err := ledger.Open(ctx, env.Config())
	if err != nil {
		t.Fatalf("open after the kills: %v", err)
	}
	appendN(t, l, 0, 3)
	env.Wait(l)
	env.Close(l)
	checkWithFsck(t, env)
	if pub, err := os.ReadFile(filepath.Join(env.Dir, "checkpoint")); err != nil {
		t.Fatal(err)
	} else {
		checkpoints = append(checkpoints, pub)
	}

	tail, err := env.Store.Tail(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	var stored []tlog.Hash
	seen := map[proof.Commitment]bool{}
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range idx {
			out = append(out, stored[i])
		}
		return out, nil
	})
	epoch := proof.Epoch(0)
	err = env.Store.Leaves(ctx, 0, tail.Next, func(leaf ledger.Leaf) error {
		texts = append(texts, string(leaf.Text))
		e, err := proof.ParseEntry(leaf.Text)
		if err != nil {
			return err
		}
		if m, ok := e.(proof.Marker); ok {
			if m.At() != leaf.Index || leaf.Index > 0 && m.Epoch != epoch+1 {
				t.Errorf("marker of epoch %d at %d after epoch %d", m.Epoch, leaf.Index, epoch)
			}
			epoch = m.Epoch
		}
		if c, ok := proof.CommitmentOf(e); ok {
			if seen[c] {
				t.Errorf("entry %d stands in the log twice", leaf.Index)
			}
			seen[c] = true
		}
		h, err := tlog.StoredHashes(int64(leaf.Index), leaf.Text, reader)
		stored = append(stored, h...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	checkIndexes(t, env, epoch)
	acks, err := os.Open(filepath.Join(dir, "acks"))
	if err != nil {
		t.Fatal(err)
	}
	defer acks.Close()
	sc := bufio.NewScanner(acks)
	for sc.Scan() {
		var index int
		var text, n string
		if _, err := fmt.Sscan(sc.Text(), &index, &text, &n); err != nil {
			t.Fatalf("acknowledgement %q: %v", sc.Text(), err)
		}
		b, err1 := base64.StdEncoding.DecodeString(text)
		cp, err2 := base64.StdEncoding.DecodeString(n)
		if err1 != nil || err2 != nil || index >= len(texts) || texts[index] != string(b) {
			t.Errorf("acknowledged entry %d isn't where it was", index)
		}
		checkpoints = append(checkpoints, cp)
	}
	checked := map[string]bool{}
	for _, n := range checkpoints {
		if checked[string(n)] {
			continue
		}
		checked[string(n)] = true
		cp, err := proof.VerifyCheckpoint(n, env.Policy)
		if err != nil {
			t.Fatal(err)
		}
		if root, err := tlog.TreeHash(int64(cp.Size()), reader); cp.Size() > uint64(len(texts)) || err != nil || proof.Hash(root) != cp.Root() {
			t.Errorf("the checkpoint of size %d isn't a prefix of the history: %v", cp.Size(), err)
		}
	}
	t.Logf("%d entries, %d epochs, %d checkpoints seen", len(texts), epoch+1, len(checked))
	if strings.Count(strings.Join(texts, ""), "regard/epoch@v1") != int(epoch)+1 {
		t.Error("markers and epochs don't agree")
	}
}
