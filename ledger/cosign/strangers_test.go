package cosign_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/torchwood"
	fnote "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/witness/persistence/inmemory"
	theirs "github.com/transparency-dev/witness/witness"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/mod/sumdb/note"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
)

// grownTo has a log grow in steps under a policy of one witness alone, loses that witness on the way, and checks that all is cosigned in the end, also in the eyes of torchwood's policy code.
func grownTo(t *testing.T, e *env, name, vkey, url string) {
	t.Helper()
	e.collect(t, fmt.Sprintf("witness %s %s %s\nquorum %s\n", name, vkey, url, name), nil)
	l := e.openLog()
	for _, n := range []int{1, 2, 5, 300, 1} {
		cp := witnessed(t, l, e.add(t, l, n))
		policy, err := torchwood.ParsePolicy([]byte(fmt.Sprintf("log %s\nwitness %s %s\nquorum %s\n", e.VKey, name, vkey, name)))
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := torchwood.VerifyCheckpoint(cp.Note(), policy); err != nil {
			t.Errorf("torchwood refuses the checkpoint of size %d: %v", cp.Size(), err)
		}
	}
	// A broker that starts anew doesn't know what the witness saw: it hears so.
	e.Close(l)
	e.c.Close()
	e.collect(t, fmt.Sprintf("witness %s %s %s\nquorum %s\n", name, vkey, url, name), nil)
	if seen := e.c.Ask(t.Context(), l.Checkpoint()); seen[0].Err != nil || seen[0].Size != l.Checkpoint().Size() {
		t.Errorf("asked, it says %+v", seen[0])
	}
	l = e.openLog()
	witnessed(t, l, e.add(t, l, 20))
	if s := e.c.Stats()[0]; s.Cosigned == 0 || len(s.Failed) != 0 {
		t.Errorf("%+v", s)
	}
}

// The witness of transparency-dev, unmodified: their decisions, their handler, their persistence.
func TestTheirWitness(t *testing.T) {
	e := newEnv(t)
	skey, vkey, err := note.GenerateKey(rand.Reader, "witness.transparency.example")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := fnote.NewSignerForCosignatureV1(skey)
	if err != nil {
		t.Fatal(err)
	}
	if vkey, err = fnote.VKeyToCosignatureV1(vkey); err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(e.VKey)
	if err != nil {
		t.Fatal(err)
	}
	w, err := theirs.New(t.Context(), theirs.Opts{Persistence: inmemory.New(), Signers: []note.Signer{signer},
		VerifierForLog: func(_ context.Context, origin string) (note.Verifier, bool, error) {
			return v, origin == ledgertest.Origin, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", theirs.NewHTTPHandler(w).AddCheckpoint)
	srv := httptest.NewServer(mux)
	defer srv.Close()
	grownTo(t, e, "transparency-dev", vkey, srv.URL)
}

// torchwood's litewitness, the program as it is, with its key in an ssh-agent.
func TestLitewitness(t *testing.T) {
	bin := os.Getenv("REGARD_LITEWITNESS")
	if bin == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("REGARD_LITEWITNESS doesn't name torchwood's witness: make witness-tools")
		}
		t.Skip("skipped: REGARD_LITEWITNESS doesn't name torchwood's witness (make witness-tools builds bin/tools/litewitness)")
	}
	e := newEnv(t)
	dir := t.TempDir()

	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: &key}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "agent.sock")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c); _ = c.Close() }()
		}
	}()
	sshKey, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}

	// What its witnessctl add-log and add-key do.
	file := filepath.Join(dir, "litewitness.db")
	db, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct {
		text string
		args []any
	}{
		{"CREATE TABLE log (origin TEXT PRIMARY KEY, tree_size INTEGER NOT NULL, tree_hash TEXT NOT NULL)", nil},
		{"CREATE TABLE key (origin TEXT NOT NULL, key TEXT NOT NULL, FOREIGN KEY(origin) REFERENCES log(origin))", nil},
		{"INSERT INTO log VALUES (?, 0, ?)", []any{ledgertest.Origin, base64.StdEncoding.EncodeToString(rfc6962.DefaultHasher.EmptyRoot())}},
		{"INSERT INTO key VALUES (?, ?)", []any{ledgertest.Origin, e.VKey}},
	} {
		if _, err := db.ExecContext(t.Context(), s.text, s.args...); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}

	addr := ledgertest.FreeAddress(t)
	const name = "witness.torchwood.example/w1"
	cmd := exec.Command(bin, "-name", name, "-db", file, "-ssh-agent", socket, "-listen", addr, "-key", ssh.FingerprintSHA256(sshKey))
	cmd.Stderr = &output.Buffer{}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("litewitness: %v", cmd.Stderr)
		}
	})
	ledgertest.Await(t, "litewitness", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	plain, err := note.NewEd25519VerifierKey(name, pub)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := fnote.VKeyToCosignatureV1(plain)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(vkey, name+"+") {
		t.Fatal(vkey)
	}
	grownTo(t, e, "torchwood", vkey, "http://"+addr)
}
