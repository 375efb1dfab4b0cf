package signer_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc/codes"

	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/remote"
	"github.com/regard-broker/regard/ledger/signer"
)

// childEnv makes this test binary a signer process: its configuration as JSON.
const childEnv = "REGARD_TEST_SIGNER"

type childConfig struct {
	DSN, Listen, Ops string
	// Late is how far the clock is behind.
	Late time.Duration
}

func TestMain(m *testing.M) {
	if text := os.Getenv(childEnv); text != "" {
		var c childConfig
		err := json.Unmarshal([]byte(text), &c)
		if err == nil {
			err = runChild(c)
		}
		fmt.Fprintln(os.Stderr, "signer:", err)
		os.Exit(1)
	}
	pgtest.Main(m)
}

// runChild runs until it is killed.
func runChild(c childConfig) error {
	s, err := signer.Start(context.Background(), signer.Config{
		DSN: c.DSN, Listen: c.Listen, Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)), Clock: func() time.Time { return time.Now().Add(-c.Late) },
	})
	if err != nil {
		return err
	}
	server := &http.Server{Addr: c.Ops, Handler: s.Ops(), ReadHeaderTimeout: time.Minute}
	return server.ListenAndServe()
}

// process is a signer in a process of its own.
type process struct {
	cmd    *exec.Cmd
	ops    string
	config childConfig
	out    *output.Buffer
}

func startProcess(t testing.TB, c childConfig) *process {
	t.Helper()
	if c.Ops == "" {
		c.Ops = ledgertest.FreeAddress(t)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.Command(os.Args[0]), ops: c.Ops, config: c, out: &output.Buffer{}}
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	p.cmd.Stderr, p.cmd.Stdout = p.out, p.out
	run(t, p.cmd)
	ledgertest.Await(t, "a signer process to answer", func() bool { _, _, err := p.get("/healthz"); return err == nil })
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("signer %s:\n%s", p.ops, p.out)
		}
	})
	return p
}

// run starts a command that dies with the test.
func run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

func (p *process) kill(t testing.TB) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = p.cmd.Wait()
}

func (p *process) get(path string) (int, string, error) {
	res, err := http.Get("http://" + p.ops + path)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	var b bytes.Buffer
	_, err = b.ReadFrom(res.Body)
	return res.StatusCode, b.String(), err
}

// metric is the value of one without labels, "" if it isn't there.
func (p *process) metric(name string) string {
	_, text, _ := p.get("/metrics")
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// database is an empty one, prepared.
func database(t testing.TB) (dsn string, tree int64) {
	t.Helper()
	c, name := pgtest.Database(t)
	return prepared(t, c, name)
}

func prepared(t testing.TB, c *pgcluster.Cluster, name string) (string, int64) {
	t.Helper()
	dsn := c.Superuser(name)
	tree, err := signer.Init(t.Context(), dsn)
	if err != nil {
		t.Fatalf("preparing a database: %v", err)
	}
	return dsn, tree
}

func socket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "regard-signer-") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return "unix:" + filepath.Join(dir, "log.sock")
}

func start(t testing.TB, cfg signer.Config) *signer.Signer {
	t.Helper()
	s, err := signer.Start(t.Context(), cfg)
	if err != nil {
		t.Fatalf("starting a signer: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			t.Errorf("stopping a signer: %v", err)
		}
	})
	return s
}

func dial(t testing.TB, addresses ...string) *remote.Log {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := remote.Open(ctx, remote.Config{Addresses: addresses})
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// leaves are the same at each call.
func leaves(from, n int64) []*trillian.LogLeaf {
	out := make([]*trillian.LogLeaf, n)
	for i := range out {
		h := sha256.Sum256(fmt.Append(nil, from+int64(i)))
		out[i] = &trillian.LogLeaf{LeafIndex: from + int64(i), LeafIdentityHash: h[:], LeafValue: fmt.Appendf(nil, "regard/disclosure@v1\nepoch 812\ncommitment %s\n", base64.StdEncoding.EncodeToString(h[:]))}
	}
	return out
}

// wantRoot is what leaves(0, n) give.
func wantRoot(t testing.TB, n int64) []byte {
	t.Helper()
	r := (&compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}).NewEmptyRange(0)
	for _, l := range leaves(0, n) {
		if err := r.Append(rfc6962.DefaultHasher.HashLeaf(l.LeafValue), nil); err != nil {
			t.Fatal(err)
		}
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func add(ctx context.Context, l *remote.Log, from, n int64) error {
	res, err := l.Client().AddSequencedLeaves(ctx, &trillian.AddSequencedLeavesRequest{LogId: l.TreeID(), Leaves: leaves(from, n)})
	if err != nil {
		return err
	}
	for _, r := range res.Results {
		if c := codes.Code(r.Status.GetCode()); c != codes.OK && c != codes.FailedPrecondition {
			return fmt.Errorf("a leaf was answered %v", r.Status)
		}
	}
	return nil
}

func root(ctx context.Context, l *remote.Log) (types.LogRootV1, error) {
	var root types.LogRootV1
	res, err := l.Client().GetLatestSignedLogRoot(ctx, &trillian.GetLatestSignedLogRootRequest{LogId: l.TreeID()})
	if err == nil {
		err = root.UnmarshalBinary(res.SignedLogRoot.LogRoot)
	}
	return root, err
}

// grow adds leaves [from, to) and waits for the root.
func grow(t testing.TB, l *remote.Log, from, to int64) {
	t.Helper()
	ledgertest.Await(t, "leaves to be added", func() bool { return add(t.Context(), l, from, to-from) == nil })
	awaitSize(t, l, to)
}

func awaitSize(t testing.TB, l *remote.Log, size int64) {
	t.Helper()
	ledgertest.Await(t, fmt.Sprintf("the tree to have %d leaves", size), func() bool {
		r, err := root(t.Context(), l)
		if err == nil && int64(r.TreeSize) > size {
			t.Fatalf("the tree has %d leaves, more than %d", r.TreeSize, size)
		}
		if err != nil || int64(r.TreeSize) < size {
			return false
		}
		if !bytes.Equal(r.RootHash, wantRoot(t, size)) {
			t.Fatalf("the tree of %d leaves has root %x", size, r.RootHash)
		}
		return true
	})
}
