package signer_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/integration/storagetest"
	"github.com/google/trillian/storage"
	"github.com/google/trillian/storage/postgresql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/grpc/codes"

	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/signer"
)

func stop(t testing.TB, cmd *exec.Cmd) { t.Helper(); signal(t, cmd, syscall.SIGSTOP) }
func cont(t testing.TB, cmd *exec.Cmd) { t.Helper(); signal(t, cmd, syscall.SIGCONT) }

func signal(t testing.TB, cmd *exec.Cmd, s os.Signal) {
	t.Helper()
	if err := cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// TestSchemaIsTrillians: the copy is that of the module.
func TestSchemaIsTrillians(t *testing.T) {
	t.Parallel()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/google/trillian").Output()
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "storage/postgresql/schema/storage.sql"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("trillian.sql")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Error("ledger/signer/trillian.sql isn't storage/postgresql/schema/storage.sql of the Trillian in go.mod: copy it, and look whether regard.sql still fits")
	}
}

// TestInit: several at once make one tree, and once more changes nothing.
func TestInit(t *testing.T) {
	t.Parallel()
	c, name := pgtest.Database(t)
	dsn := c.Superuser(name)
	if _, err := signer.Start(t.Context(), signer.Config{DSN: dsn}); err == nil {
		t.Fatal("started on a database that isn't prepared")
	}
	var mu sync.Mutex
	trees := map[int64]bool{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			tree, err := signer.Init(t.Context(), dsn)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			trees[tree] = true
		})
	}
	wg.Wait()
	if len(trees) != 1 {
		t.Fatalf("trees: %v", trees)
	}
	addr := socket(t)
	s := start(t, signer.Config{DSN: dsn, Listen: addr})
	if !trees[s.Tree()] {
		t.Errorf("the signer's tree is %d", s.Tree())
	}
	l := dial(t, addr)
	grow(t, l, 0, 10)
	if tree, err := signer.Init(t.Context(), dsn); err != nil || tree != s.Tree() {
		t.Fatalf("again: %d, %v", tree, err)
	}
	grow(t, l, 10, 20)

	for _, tree := range []int64{1, -1} {
		if _, err := signer.Start(t.Context(), signer.Config{DSN: dsn, Tree: tree}); err == nil {
			t.Errorf("started with tree %d", tree)
		}
	}
	if err := c.SQL(t.Context(), name, "UPDATE Trees SET TreeState = 'FROZEN'"); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Start(t.Context(), signer.Config{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "FROZEN") {
		t.Errorf("started on a frozen log: %v", err)
	}
	if err := c.SQL(t.Context(), name, "INSERT INTO Trees SELECT 7, 'ACTIVE', TreeType, DisplayName, Description, CreateTimeMillis, UpdateTimeMillis, MaxRootDurationMillis FROM Trees"); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Start(t.Context(), signer.Config{DSN: dsn}); err == nil || !strings.Contains(err.Error(), "say which") {
		t.Errorf("started with two logs: %v", err)
	}
}

// Trillian's own suite over the schema as it is here, its log modes included.
func TestTrillianLogSuite(t *testing.T) {
	c := pgtest.Shared(t)
	for name, logs := range map[string]func(*pgxpool.Pool) storage.LogStorage{
		"stock": func(db *pgxpool.Pool) storage.LogStorage { return postgresql.NewLogStorage(db, nil) },
		"own":   signer.NewLeafStorage,
	} {
		t.Run(name, func(t *testing.T) { logSuite(t, c, name, logs) })
	}
}

func logSuite(t *testing.T, c *pgcluster.Cluster, prefix string, logs func(*pgxpool.Pool) storage.LogStorage) {
	n := 0
	storagetest.RunLogStorageTests(t, func(ctx context.Context, t *testing.T) (storage.LogStorage, storage.AdminStorage) {
		n++
		name := fmt.Sprintf("suite_%s_%d", prefix, n)
		if err := c.SQL(ctx, "postgres", "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
		dsn := c.Superuser(name)
		if _, err := signer.Init(ctx, dsn); err != nil {
			t.Fatal(err)
		}
		db, err := pgxpool.New(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(db.Close)
		if _, err := db.Exec(ctx, "TRUNCATE Trees CASCADE"); err != nil { // the suite counts them
			t.Fatal(err)
		}
		return logs(db), postgresql.NewAdminStorage(db)
	})
}

func statuses(t testing.TB, r *trillian.AddSequencedLeavesResponse) (out []codes.Code) {
	t.Helper()
	for _, q := range r.Results {
		out = append(out, codes.Code(q.Status.GetCode()))
	}
	return out
}

// TestLeavesAgain: what is there already, or whose place is taken, is said of each leaf; the others are added.
func TestLeavesAgain(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	start(t, signer.Config{DSN: dsn, Listen: addr})
	l := dial(t, addr)
	grow(t, l, 0, 5)
	batch := leaves(3, 4) // two that are there, two new ones
	res, err := l.Client().AddSequencedLeaves(t.Context(), &trillian.AddSequencedLeavesRequest{LogId: l.TreeID(), Leaves: batch})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(statuses(t, res)); got != "[FailedPrecondition FailedPrecondition OK OK]" {
		t.Errorf("answered %v", got)
	}
	awaitSize(t, l, 7)
	other := leaves(100, 1)
	other[0].LeafIndex = 3 // another leaf at a place that is taken
	same := leaves(2, 1)
	same[0].LeafIndex = 7 // a leaf that is there, at another place
	for _, wrong := range [][]*trillian.LogLeaf{other, same} {
		res, err := l.Client().AddSequencedLeaves(t.Context(), &trillian.AddSequencedLeavesRequest{LogId: l.TreeID(), Leaves: wrong})
		if err != nil || statuses(t, res)[0] != codes.FailedPrecondition {
			t.Errorf("answered %v, %v", res, err)
		}
	}
	grow(t, l, 7, 8)
}

// TestVacuumAndAnalyzeGoWithAdding: the lock that they take, held for as long as it pleases, stops nobody.
func TestVacuumAndAnalyzeGoWithAdding(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	start(t, signer.Config{DSN: dsn, Listen: addr})
	l := dial(t, addr)
	tx, err := connect(t, dsn).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "LOCK TABLE LeafData, SequencedLeafData IN SHARE UPDATE EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	grow(t, l, 0, 64)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestPlanner: a session that has planned Trillian's query for a batch when the tree was small, as the signer's has, plans anew as it grows: it looks each leaf up, and never reads all of them.
// Without the signer's ANALYZE it keeps its first plan.
func TestPlanner(t *testing.T) {
	t.Parallel()
	c := pgtest.Own(t, "autovacuum = off", "plan_cache_mode = force_generic_plan")
	if err := c.SQL(t.Context(), "postgres", "CREATE DATABASE log"); err != nil {
		t.Fatal(err)
	}
	dsn, tree := prepared(t, c, "log")
	addr := socket(t)
	p := startProcess(t, childConfig{DSN: dsn, Listen: addr})
	l := dial(t, addr)
	conn := connect(t, dsn)
	if _, err := conn.Exec(t.Context(), `PREPARE batch(bigint, bigint, bigint) AS SELECT s.MerkleLeafHash,l.LeafIdentityHash,l.LeafValue,s.SequenceNumber,l.ExtraData,l.QueueTimestampNanos,s.IntegrateTimestampNanos
		FROM SequencedLeafData s INNER JOIN LeafData l ON (s.LeafIdentityHash=l.LeafIdentityHash AND s.TreeId=l.TreeId)
		WHERE s.SequenceNumber>=$1 AND s.SequenceNumber<$2 AND l.TreeId=$3 ORDER BY s.SequenceNumber`); err != nil {
		t.Fatal(err)
	}
	next := int64(0)
	for _, size := range []int64{1, 10, 64, 500, 1500, 10_000} {
		for next < size {
			to := min(next+500, size)
			grow(t, l, next, to)
			next = to
		}
		ledgertest.Await(t, "the planner to be told", func() bool {
			n, _ := strconv.ParseFloat(p.metric("regard_signer_analyzed_entries"), 64)
			return 2*int64(n) > next
		})
		rows, err := conn.Query(t.Context(), fmt.Sprintf("EXPLAIN EXECUTE batch(%d, %d, %d)", next-64, next+960, tree))
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); next == 10_000 && (strings.Contains(text, "Seq Scan") || strings.Contains(text, "Join Filter")) {
			t.Errorf("at %d leaves all of them are read, for each of a batch:\n%s", next, text)
		}
	}
	if v := p.metric("regard_signer_upkeep_errors_total"); v != "0" {
		t.Errorf("%s errors of upkeep", v)
	}
}

// TestRootsArePruned: the newest stay.
func TestRootsArePruned(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	s := start(t, signer.Config{DSN: dsn, Listen: addr})
	l := dial(t, addr)
	for i := range int64(20) {
		grow(t, l, i, i+1)
	}
	conn := connect(t, dsn)
	count := func() (n, newest int) {
		t.Helper()
		if err := conn.QueryRow(t.Context(), "SELECT count(*), max(TreeSize) FROM TreeHead").Scan(&n, &newest); err != nil {
			t.Fatal(err)
		}
		return n, newest
	}
	if n, newest := count(); n != 21 || newest != 20 {
		t.Fatalf("%d roots, the newest of %d", n, newest)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	for _, keep := range []int{5, 1} {
		s := start(t, signer.Config{DSN: dsn, KeepRoots: keep})
		ledgertest.Await(t, "old roots to go", func() bool { n, _ := count(); return n == keep })
		if _, newest := count(); newest != 20 {
			t.Fatalf("keeping %d, the newest root is of %d", keep, newest)
		}
		if err := s.Stop(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := signer.Start(t.Context(), signer.Config{DSN: dsn, KeepRoots: -1}); err == nil {
		t.Error("no root is kept")
	}
	start(t, signer.Config{DSN: dsn, Listen: addr})
	l = dial(t, addr)
	grow(t, l, 20, 25)
}

// TestClockBehind: a signer whose clock is an hour late says so, and the tree goes on: through another one, and through itself when it is alone.
func TestClockBehind(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	a, b := socket(t), socket(t)
	right := startProcess(t, childConfig{DSN: dsn, Listen: a})
	l := dial(t, a)
	grow(t, l, 0, 10)
	late := startProcess(t, childConfig{DSN: dsn, Listen: b, Late: time.Hour})
	alarmed := func(p *process) bool {
		code, text, err := p.get("/healthz")
		return err == nil && code == 503 && strings.Contains(text, "clock") && p.metric("regard_signer_healthy") == "0"
	}
	ledgertest.Await(t, "the alarm of the late signer, which is not the master", func() bool { return alarmed(late) })
	if v := late.metric("regard_signer_clock_ahead_of_postgresql_seconds"); !strings.HasPrefix(v, "-36") && !strings.HasPrefix(v, "-359") {
		t.Errorf("the clock is said to be ahead by %s s", v)
	}
	right.kill(t)
	l = dial(t, b)
	grow(t, l, 10, 20) // alone it must go on
	ledgertest.Await(t, "the alarm of the late signer, which is the master", func() bool {
		v := late.metric("regard_signer_clock_behind_seconds")
		return alarmed(late) && (strings.HasPrefix(v, "36") || strings.HasPrefix(v, "359"))
	})
	if out := late.out.String(); !strings.Contains(out, "level=ERROR") || !strings.Contains(out, "the clock is behind the log's latest root") {
		t.Errorf("the log doesn't say it:\n%s", out)
	}
	right = startProcess(t, childConfig{DSN: dsn, Listen: a})
	late.kill(t)
	l = dial(t, a)
	grow(t, l, 20, 30)
	ledgertest.Await(t, "the right one to be well", func() bool { code, _, err := right.get("/healthz"); return err == nil && code == 200 })
}

// TestClockStepsBack: the master's clock steps back while it leads, with another one waiting: that one goes on.
func TestClockStepsBack(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	var mu sync.Mutex
	late := time.Duration(0)
	s := start(t, signer.Config{DSN: dsn, Listen: addr, Clock: func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(-late) }})
	l := dial(t, addr)
	grow(t, l, 0, 10)
	other := startProcess(t, childConfig{DSN: dsn})
	if err := s.Healthy(); err != nil {
		t.Fatalf("unwell with a right clock: %v", err)
	}
	mu.Lock()
	late = time.Hour
	mu.Unlock()
	ledgertest.Await(t, "the other to become the master", func() bool { return other.metric("regard_signer_master") == "1" })
	grow(t, l, 10, 20)
	if err := s.Healthy(); err == nil {
		t.Error("no alarm")
	}
	mu.Lock()
	late = 0
	mu.Unlock()
	ledgertest.Await(t, "the alarm to end", func() bool { return s.Healthy() == nil })
}

// TestStrangerAtTheTree: a root that somebody else stored is noticed before anything is stored over it, said, and then built upon.
func TestStrangerAtTheTree(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	p := startProcess(t, childConfig{DSN: dsn, Listen: addr})
	l := dial(t, addr)
	grow(t, l, 0, 300)
	if _, err := connect(t, dsn).Exec(t.Context(), "INSERT INTO TreeHead SELECT TreeId, TreeHeadTimestamp + 3600000000000, TreeSize, RootHash, RootSignature FROM TreeHead ORDER BY TreeHeadTimestamp DESC LIMIT 1"); err != nil {
		t.Fatal(err)
	}
	grow(t, l, 300, 700)
	if !strings.Contains(p.out.String(), "another process grows this tree") {
		t.Errorf("it isn't said:\n%s", p.out)
	}
}

// TestDamagedTile: a tile that doesn't give the root stops the tree, and is said.
func TestDamagedTile(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	first := startProcess(t, childConfig{DSN: dsn, Listen: addr})
	l := dial(t, addr)
	grow(t, l, 0, 300)
	first.kill(t)
	if _, err := connect(t, dsn).Exec(t.Context(), "UPDATE Subtree SET Nodes = (SELECT Nodes FROM Subtree ORDER BY SubtreeId LIMIT 1)"); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, childConfig{DSN: dsn, Listen: addr})
	ledgertest.Await(t, "leaves to be added", func() bool { return add(t.Context(), l, 300, 10) == nil })
	ledgertest.Await(t, "the damage to be said", func() bool {
		code, _, err := p.get("/healthz")
		return err == nil && code == 503 && strings.Contains(p.out.String(), "integrating leaves")
	})
	if r, err := root(t.Context(), l); err != nil || r.TreeSize != 300 {
		t.Errorf("the tree has %d leaves, %v", r.TreeSize, err)
	}
}
