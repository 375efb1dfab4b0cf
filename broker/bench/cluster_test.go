package bench

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/deploy/pgcluster"
)

// A run with small numbers, on the real engines, does all that a large one does. It says nothing about speed.
func TestRunCluster(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a dozen processes")
	}
	vault := os.Getenv("REGARD_DEVVAULT")
	if _, err := pgcluster.Find(); err != nil || vault == "" {
		if os.Getenv("CI") != "" {
			t.Fatalf("PostgreSQL or Vault is missing: %v, REGARD_DEVVAULT=%q", err, vault)
		}
		t.Skip("skipped: needs PostgreSQL, and REGARD_DEVVAULT (make devvault)")
	}
	dir, err := os.MkdirTemp("", "regard-bench-") // PostgreSQL's user can't pass through t.TempDir
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	profiles, statements := t.TempDir(), filepath.Join(t.TempDir(), "statements")
	o := Options{
		Duration: 400 * time.Millisecond, Turns: 1, Connections: []int{4}, Persons: 300, Agreements: 12, Agencies: 4, Services: 3,
		Single: 200 * time.Millisecond, Dir: dir, CPUProfile: profiles, Statements: statements, JSON: true, Cluster: &Engines{Vault: vault},
	}
	var out, progress bytes.Buffer
	if err := Run(t.Context(), o, &out, &progress); err != nil {
		t.Fatalf("%v\n%s", err, &progress)
	}
	var r Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Verified.Receipts == 0 || r.Verified.Bad != 0 {
		t.Errorf("verified %d receipts, %d bad: %s", r.Verified.Receipts, r.Verified.Bad, r.Verified.First)
	}
	if f := r.failures(); f != "" {
		t.Errorf("errors among the answers: %s", f)
	}
	if len(r.Cluster.Loads) != 1 {
		t.Fatalf("%d loads", len(r.Cluster.Loads))
	}
	l := r.Cluster.Loads[0]
	if l.Cluster.Answers == 0 || l.Alone.Answers == 0 || l.Proxy.Answers == 0 || l.Entries == 0 || l.Leaves == 0 || l.Cluster.Batch == 0 {
		t.Errorf("parts were not measured: %+v", l)
	}
	var parties []string
	for _, s := range l.CPU {
		parties = append(parties, s.Party)
	}
	if got := strings.Join(parties, "; "); got != "PostgreSQL, main; PostgreSQL, signed; signer; Vault; broker 1; broker 2" || l.Cluster.CPU == 0 {
		t.Errorf("time of %s, %s in all", got, l.Cluster.CPU)
	}
	for _, name := range []string{"broker-1", "broker-2"} {
		if s, err := os.Stat(filepath.Join(profiles, name, "cpu.prof")); err != nil || s.Size() == 0 {
			t.Errorf("no profile of %s (%v)", name, err)
		}
	}
	counted, err := os.ReadFile(statements)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"database regard: ", "database trillian: ", "INSERT INTO leaves", "regard_integrate"} {
		if !bytes.Contains(counted, []byte(want)) {
			t.Errorf("what PostgreSQL counted lacks %q:\n%s", want, counted)
		}
	}
	var table bytes.Buffer
	if err := r.write(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"rate of two brokers at 4 connections", "beside one broker alone", "leaves of Trillian alone", "PostgreSQL, main"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &table)
		}
	}
	if !regexp.MustCompile(`Trillian alone, .* p50 [1-9][^,]*, p99 [1-9]`).Match(table.Bytes()) {
		t.Errorf("the table lacks how long Trillian alone takes:\n%s", &table)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the run left %v behind (%v)", left, err)
	}
}
