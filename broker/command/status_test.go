package command

import (
	"context"
	"database/sql"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/config"
)

// What the store holds and can't be read is in regard status and in the metrics, and the broker serves.
func TestStatusTellsOfDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	start := func() *Instance {
		t.Helper()
		cfg, err := config.Load(config.Source{File: file})
		if err != nil {
			t.Fatal(err)
		}
		i, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
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
	i := start()
	data := i.cfg.DataDir
	if code, out, errs := run("status", "-c", file); code != 0 || strings.Contains(out, "DAMAGED") {
		t.Errorf("before: exit code %d, %s%s", code, out, errs)
	}
	stop(i)
	db, err := sql.Open("sqlite", filepath.Join(data, "store", "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), "INSERT INTO erasures (id, owner, person, admin) VALUES (zeroblob(15) || x'01', zeroblob(15) || x'01', x'00', x'00')"); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	i = start()
	defer stop(i)
	if code, out, errs := run("status", "-c", file); code != 0 || !strings.HasPrefix(out, "ready\n") || !strings.Contains(out, "DAMAGED RECORDS: 0 requests that can't be recorded, 1 erasures") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := run("status", "-c", file, "--json"); code != 0 || !strings.Contains(out, `"erasures": 1`) && !strings.Contains(out, `"erasures":1`) {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	res, err := http.Get("http://" + i.Addresses["ops"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(text), "\nregard_damaged_erasures 1\n") || !strings.Contains(string(text), "\nregard_damaged_requests 0\n") {
		t.Errorf("%v, %s", err, text)
	}
}

// A policy that is in the files and not in force is in regard status, in regard policy show and in the metrics.
func TestPolicyNotInForceIsTold(t *testing.T) {
	dir, files := filepath.Join(t.TempDir(), "b"), t.TempDir()
	if err := os.CopyFS(files, os.DirFS("../../policy/bundle")); err != nil {
		t.Fatal(err)
	}
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{File: file, Set: []string{"policy.dir=" + files}})
	if err != nil {
		t.Fatal(err)
	}
	i, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := i.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	metrics := func() string { return get(t, "http://"+i.Addresses["ops"]+"/metrics") }
	if !strings.Contains(metrics(), "\nregard_policy_not_in_force 0\n") {
		t.Error("at first the policy of the files isn't in force")
	}
	broken := filepath.Join(files, "broken.rego")
	if err := os.WriteFile(broken, []byte("package broken if"), 0o600); err != nil {
		t.Fatal(err)
	}
	i.Reload(t.Context())
	if !strings.Contains(metrics(), "\nregard_policy_not_in_force 1\n") {
		t.Error("no metric says that the policy of the files isn't in force")
	}
	const told = "THE POLICY THAT IS CONFIGURED IS NOT IN FORCE"
	if code, out, errs := run("status", "-c", file); code != 0 || !strings.Contains(out, told) {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := run("status", "-c", file, "--json"); code != 0 || !strings.Contains(out, `"problem": "`) {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := run("policy", "show", "-c", file); code != 0 || !strings.Contains(out, "problem ") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	i.Reload(t.Context())
	if !strings.Contains(metrics(), "\nregard_policy_not_in_force 0\n") {
		t.Error("the policy is mended, and the metric doesn't say so")
	}
	if code, out, errs := run("status", "-c", file); code != 0 || strings.Contains(out, told) {
		t.Errorf("it is mended: exit code %d, %s%s", code, out, errs)
	}
}
