package broker_test

import (
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/fsck"
	logmirror "github.com/regard-broker/regard/ledger/mirror"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// TestAuditorsMirror lets a mirror that the auditors' tool made show a broker that its data directory is an old copy; and what the tool that checks logs has to say of both is nothing.
func TestAuditorsMirror(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	w.provider.answer = couple
	w.disclose(asker("TUE AVANT"))
	vkeys, err := w.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p, err := proof.NewPolicy(vkeys[0])
	if err != nil {
		t.Fatal(err)
	}
	w.close()
	old := filepath.Join(t.TempDir(), "old")
	copyTree(t, w.cfg.DataDir, old)
	w.open()
	w.disclose(asker("TUE APRES"))
	w.close()
	public, err := reader.Dir(filepath.Join(w.cfg.DataDir, "public"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	m, err := logmirror.Open(t.Context(), logmirror.Config{Source: public, Dir: dir, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if r, err := m.Sync(t.Context()); err != nil || len(r.Missing) > 0 {
		t.Fatalf("%+v %v", r, err)
	}
	copied, err := reader.Dir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, src := range []reader.Source{public, copied} {
		if r, err := fsck.Check(t.Context(), fsck.Config{Source: src, Policy: p}); err != nil || !r.Complete || len(r.Findings) > 0 {
			t.Errorf("%s: %+v %v", src, r, err)
		}
	}
	if err := os.RemoveAll(w.cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	copyTree(t, old, w.cfg.DataDir)
	served := httptest.NewServer(tiles.Handler(dir))
	defer served.Close()
	w.cfg.Mirrors = []string{served.URL}
	b, err := broker.New(t.Context(), w.cfg)
	w.b = b
	if err == nil || !strings.Contains(err.Error(), "the store is an older copy") || !errors.Is(err, ledger.ErrHalted) {
		t.Errorf("an old copy of the data directory, and a mirror that has more: %v", err)
	}
}
