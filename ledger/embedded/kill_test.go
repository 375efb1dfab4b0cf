package embedded

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// A child adds and integrates until it is killed, thirty times, at any moment.
// Everything it said was added or integrated is there afterwards, and adding all
// leaves again gives the one root that they determine.
func TestKilledAtAnyMoment(t *testing.T) {
	if path := os.Getenv("REGARD_TEST_KILL"); path != "" {
		killedChild(t, path)
		return
	}
	const kills = 30
	path := filepath.Join(t.TempDir(), "log.db")
	rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	added, integrated := int64(0), int64(0)
	e := newExpect()
	for range kills {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		cmd.Env = append(os.Environ(), "REGARD_TEST_KILL="+path, fmt.Sprintf("REGARD_TEST_ADDED=%d", added))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := rng.IntN(40)
		lines := bufio.NewScanner(out)
		read := 0
		for lines.Scan() {
			what, number, _ := strings.Cut(lines.Text(), " ")
			n, err := strconv.ParseInt(number, 10, 64)
			if err != nil {
				break // the test framework says how the child failed
			}
			switch what {
			case "added":
				added = max(added, n)
			case "integrated":
				integrated = max(integrated, n)
			}
			if read++; read == after+1 {
				// Into the middle of what it does next. SIGKILL, our own child.
				time.AfterFunc(time.Duration(rng.IntN(4000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
			}
		}
		err = cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != -1 {
			t.Fatalf("the child ended by itself: %v, %s %s", err, lines.Text(), &stderr)
		}
	}
	if integrated < kills || added < integrated {
		t.Fatalf("children added %d and integrated %d leaves: the test does not test", added, integrated)
	}
	t.Logf("%d kills, %d leaves", kills, added)

	l := open(t, path)
	root, err := latest(t.Context(), l)
	if err != nil {
		t.Fatal(err)
	}
	if int64(root.TreeSize) < integrated || !bytes.Equal(root.RootHash, e.root(t, root.TreeSize)) {
		t.Errorf("root has size %d and hash %x, acknowledged %d", root.TreeSize, root.RootHash, integrated)
	}
	for i := int64(0); i < added; i += 500 {
		mustAdd(t, l, knownLeaves(i, min(500, added-i)), codes.AlreadyExists)
	}
	root = mustIntegrate(t, l)
	if int64(root.TreeSize) < added || !bytes.Equal(root.RootHash, e.root(t, root.TreeSize)) {
		t.Errorf("in the end the root has size %d and hash %x, acknowledged %d", root.TreeSize, root.RootHash, added)
	}
}

// killedChild is the child. It starts over from the tree it finds, as the
// sequencer does, so that it repeats what was added but not integrated.
func killedChild(t *testing.T, path string) {
	ctx := context.Background()
	l, err := Open(ctx, Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	root, err := latest(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	next := int64(root.TreeSize)
	said, err := strconv.ParseInt(os.Getenv("REGARD_TEST_ADDED"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		n := rand.Int64N(100) + 1
		leaves := knownLeaves(next, n)
		got, err := add(ctx, l, leaves)
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range got {
			acknowledged := next+int64(i) < said
			if c != codes.AlreadyExists && (acknowledged || c != codes.OK) {
				t.Fatalf("leaf %d, acknowledged before: %v, answered %v", next+int64(i), acknowledged, c)
			}
		}
		next += n
		fmt.Printf("added %d\n", next)
		if rand.IntN(4) == 0 {
			continue // several batches for one integration
		}
		if err := l.Integrate(ctx); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("integrated %d\n", next)
	}
	t.Fatal("nobody killed this process")
}
