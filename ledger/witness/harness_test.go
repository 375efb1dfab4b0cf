package witness

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// somebodysLog is a log made of x/mod's reference code: whatever it says can be signed, also what no log should say.
type somebodysLog struct {
	origin, vkey string
	signer       note.Signer
	hashes       []tlog.Hash
	size         int64
}

func newLog(t testing.TB, origin string) *somebodysLog {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	return &somebodysLog{origin: origin, vkey: vkey, signer: signer}
}

// fork is another history of the same log: the first n entries are the same.
func (l *somebodysLog) fork(t testing.TB, n int64) *somebodysLog {
	t.Helper()
	f := &somebodysLog{origin: l.origin, vkey: l.vkey, signer: l.signer}
	f.grow(t, n, "entry")
	return f
}

func (l *somebodysLog) grow(t testing.TB, to int64, what string) {
	t.Helper()
	for ; l.size < to; l.size++ {
		h, err := tlog.StoredHashes(l.size, fmt.Appendf(nil, "%s %d", what, l.size), l.reader())
		if err != nil {
			t.Fatal(err)
		}
		l.hashes = append(l.hashes, h...)
	}
}

func (l *somebodysLog) reader() tlog.HashReader {
	return tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, len(idx))
		for i, x := range idx {
			out[i] = l.hashes[x]
		}
		return out, nil
	})
}

func (l *somebodysLog) root(t testing.TB, size int64) tlog.Hash {
	t.Helper()
	h, err := tlog.TreeHash(size, l.reader())
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func (l *somebodysLog) text(t testing.TB, size int64) string {
	t.Helper()
	return fmt.Sprintf("%s\n%d\n%s\n", l.origin, size, l.root(t, size))
}

func (l *somebodysLog) checkpoint(t testing.TB, size int64) string {
	t.Helper()
	n, err := note.Sign(&note.Note{Text: l.text(t, size)}, l.signer)
	if err != nil {
		t.Fatal(err)
	}
	return string(n)
}

// ask is the body of add-checkpoint for the growth from old to size.
func (l *somebodysLog) ask(t testing.TB, old, size int64) string {
	t.Helper()
	var lines strings.Builder
	if old > 0 && old < size {
		p, err := tlog.ProveTree(size, old, l.reader())
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range p {
			lines.WriteString(base64.StdEncoding.EncodeToString(h[:]) + "\n")
		}
	}
	return fmt.Sprintf("old %d\n%s\n%s", old, lines.String(), l.checkpoint(t, size))
}

// answer of a witness.
type answer struct {
	status int
	kind   string // Content-Type
	body   string
	header http.Header
}

func post(t testing.TB, url, body string) answer {
	t.Helper()
	res, err := http.Post(url+"/add-checkpoint", "", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header.Get("Content-Type"), string(b), res.Header}
}

// newConfig makes a key and an empty state.
func newConfig(t testing.TB, logs ...*somebodysLog) Config {
	t.Helper()
	key, err := NewKey("witness.example/w1")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Key: key, State: filepath.Join(t.TempDir(), "witness.db"), ClientRate: 1e6, ClientBurst: 1e6}
	for _, l := range logs {
		cfg.Logs = append(cfg.Logs, Log{Origin: l.origin, VKey: l.vkey, PerDay: 1e9})
	}
	if err := Create(t.Context(), cfg.State); err != nil {
		t.Fatal(err)
	}
	return cfg
}
