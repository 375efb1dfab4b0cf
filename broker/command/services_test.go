package command

import (
	"context"
	"database/sql"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
)

// TestDefinitionThatCantBeRecorded: a broker whose changed service the log doesn't take starts with the one before, and has the new one in force as soon as it is recorded; it stops whether or not that happens. The start used to fail.
func TestDefinitionThatCantBeRecorded(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../testdata/household.yaml")
	if err != nil {
		t.Fatal(err)
	}
	definition := filepath.Join(dir, "services", "household.yaml")
	write := func(version string) {
		t.Helper()
		if err := os.WriteFile(definition, []byte(strings.Replace(string(text), "version: 1", "version: "+version, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var logs output.Buffer
	start := func() *Instance {
		t.Helper()
		cfg, err := config.Load(config.Source{File: file})
		if err != nil {
			t.Fatal(err)
		}
		i, err := Start(t.Context(), cfg, slog.New(slog.NewTextHandler(&logs, nil)))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	stop := func(i *Instance) {
		t.Helper()
		if err := i.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}
	inForce := func(i *Instance) int64 {
		for _, d := range i.Broker.Definitions() {
			if d.ID == "household" {
				return d.Version
			}
		}
		return 0
	}

	write("1")
	i := start()
	data := i.cfg.DataDir
	stop(i)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(data, "store", "store.db")+"?_pragma=busy_timeout(10000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	do := func(query string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
	do("CREATE TRIGGER full BEFORE INSERT ON services BEGIN SELECT RAISE(ABORT, 'not now'); END")
	write("2")
	i = start()
	if v := inForce(i); v != 1 {
		t.Errorf("version %d is in force, which isn't recorded", v)
	}
	stop(i)
	i = start()
	do("DROP TRIGGER full")
	ledgertest.Await(t, "the definition", func() bool { return inForce(i) == 2 })
	ledgertest.Await(t, "it to be said", func() bool { return strings.Contains(logs.String(), "the log didn't take at the start") })
	stop(i)

	// A definition that can't be used starts nothing, as ever: nobody would know.
	bad := filepath.Join(dir, "services", "bad.yaml")
	if err := os.WriteFile(bad, []byte("id: bad\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "bad.yaml") {
		t.Errorf("a definition that can't be used: %v", err)
	}
}
