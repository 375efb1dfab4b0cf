package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
)

// recorded stores a disclosure with its outcome at the next index, in a store that has none yet or whose next one is given.
func recorded(t *testing.T, s *store.Store, n byte, at proof.Index) store.Disclosure {
	t.Helper()
	d, _, err := s.Begin(t.Context(), intent(n))
	if err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, at, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(at, proof.KindDisclosure)}, Attach: outcome(d)}); err != nil {
		t.Fatal(err)
	}
	return d
}

func outcome(d store.Disclosure) *store.Outcome {
	return &store.Outcome{Disclosure: d.Seq, Records: []store.Record{{Owner: d.Owner, Person: []byte("p"), Admin: []byte("a")}}}
}

// TestRoleCannotChangeWhatIsRecorded tries, as the role that serves, every statement that would.
func TestRoleCannotChangeWhatIsRecorded(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	recorded(t, s, 1, 0)
	if err := s.SaveKeys(t.Context(), []keys.StoredKey{{ID: keys.KeyID{1}, Kind: keys.KindMonth, Period: "2026-11", Wrapped: []byte{1}, Created: at}}); err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, 1, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(1, proof.KindKey)}, Attach: &store.Note{Name: "a note"}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Cluster.SQL(t.Context(), d.Name(t, dir), `
		INSERT INTO epochs (number, marker, text, opened, until, label_key, filed_upto, closer, size, items, bits, root) VALUES (-1, 0, '', 0, 0, '', 9, 1, 1, 1, 1, '');
		INSERT INTO erasures (id, owner, person, admin, log_index) VALUES ('\x01', '', '', '', 5);
		INSERT INTO filings VALUES (0, '\x01', 0); INSERT INTO rolls (epoch, label, entries, packed) VALUES (-1, '', 1, '');
		INSERT INTO retired_keys VALUES ('\x01', 1); INSERT INTO erased_audits VALUES (1, '', 0, 0, 0); INSERT INTO opened VALUES (9, 9, 0, '');
		INSERT INTO deferrals (log_index, disclosure, due, owner, person, admin) VALUES (8, 1, 0, '', '', '')`); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), d.Config(t, dir).Postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var forbidden []string
	for table, columns := range map[string]string{
		"leaves": "month log_index epoch kind identity text", "records": "month log_index disclosure position owner person admin", "filings": "epoch label log_index",
		"rolls": "id epoch label entries packed", "keys": "id kind owner period wrapped created", "retired_keys": "id log_index", "erased_audits": "log_index auditor first last at",
		"opened": "log_index deferred at ended", "disclosures": "seq id agency idem body asked_at owner due", "epochs": "number marker text opened until label_key",
		"erasures": "id owner person admin done", "deferrals": "log_index disclosure position owner person admin", "agreements": "id version agency service state json digest log_index", "meta": "name",
		"goose_db_version": "version_id is_applied",
	} {
		forbidden = append(forbidden, "TRUNCATE "+table, "DROP TABLE "+table, "ALTER TABLE "+table+" DISABLE TRIGGER ALL")
		if table != "meta" {
			forbidden = append(forbidden, "DELETE FROM "+table)
		}
		for _, c := range strings.Fields(columns) {
			forbidden = append(forbidden, fmt.Sprintf("UPDATE %s SET %[2]s = %[2]s", table, c))
		}
	}
	forbidden = append(forbidden,
		"UPDATE disclosures SET state = 0", "UPDATE epochs SET root = '\\x01' WHERE closer IS NOT NULL", "UPDATE epochs SET closer = NULL WHERE closer IS NOT NULL", "UPDATE epochs SET filed_upto = filed_upto - 1 WHERE filed_upto > 0",
		"UPDATE erasures SET log_index = 7 WHERE log_index IS NOT NULL", "DELETE FROM meta WHERE name = 'a note'", "UPDATE meta SET value = '7' WHERE name = 'a note'",
		"DELETE FROM records_197001", "SELECT * FROM records_197001", "SELECT drop_detail(197001, 58, 9)", "SELECT open_deferral(0, 8, 0, '')", "INSERT INTO rolls (epoch, label, entries, packed) VALUES (0, '', 1, '')",
		"DELETE FROM contests", "DELETE FROM erasure_requests", "CREATE TABLE x (n bigint)", "SET ROLE regard_keeper", "COPY leaves TO PROGRAM 'cat'",
	)
	for _, q := range forbidden {
		_, err := conn.Exec(t.Context(), q)
		var pe *pgconn.PgError
		if !errors.As(err, &pe) || pe.Code != "42501" {
			t.Errorf("%s: %v, want permission denied", q, err)
		}
	}
	// Nor does the keeper change the log itself.
	keeper, err := pgx.Connect(t.Context(), d.Config(t, dir).Keeper)
	if err != nil {
		t.Fatal(err)
	}
	defer keeper.Close(context.Background())
	for _, q := range []string{"UPDATE leaves SET text = text", "DELETE FROM leaves", "TRUNCATE records", "UPDATE goose_db_version SET is_applied = false", "DROP TABLE leaves_197001"} {
		_, err := keeper.Exec(t.Context(), q)
		var pe *pgconn.PgError
		if !errors.As(err, &pe) || pe.Code != "42501" {
			t.Errorf("the keeper: %s: %v, want permission denied", q, err)
		}
	}
}

// TestRolesAreChecked: the store isn't served as somebody who may do more, retention needs the keeper, and each role's address leads to the same database.
func TestRolesAreChecked(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	cfg := d.Config(t, dir)
	for name, c := range map[string]store.Config{
		"as the owner":     {Postgres: d.Cluster.Superuser(d.Name(t, dir))},
		"as the keeper":    {Postgres: cfg.Keeper},
		"both engines":     {Postgres: cfg.Postgres, Dir: dir},
		"password":         {Postgres: cfg.Postgres + " password=x"},
		"URL and password": {Postgres: "postgres://regard_broker:x@localhost/x"},
		"other database":   {Postgres: cfg.Postgres, Keeper: d.Config(t, t.TempDir()).Keeper},
		"not migrated":     {Postgres: d.Cluster.DSN("postgres", "regard_broker")},
	} {
		s, err := store.Open(t.Context(), c)
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", name)
		}
		if strings.Contains(name, "as the") && !errors.Is(err, store.ErrRole) || name == "not migrated" && !errors.Is(err, store.ErrSchema) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := d.Open(t, dir, func(c *store.Config) { c.Keeper = "" })
	if err := s.DestroyKeys(t.Context(), []keys.KeyID{{1}}); !errors.Is(err, store.ErrNoKeeper) {
		t.Errorf("keys were destroyed by nobody: %v", err)
	}
	if err := s.Copy(t.Context(), dir+"/x"); !errors.Is(err, store.ErrPostgres) {
		t.Errorf("a copy of a server: %v", err)
	}
	if err := d.Cluster.SQL(t.Context(), d.Name(t, dir), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)"); err != nil {
		t.Fatal(err)
	}
	if s, err := store.Open(t.Context(), cfg); !errors.Is(err, store.ErrSchema) {
		if err == nil {
			s.Close()
		}
		t.Errorf("a database of a later version: %v", err)
	}
}

// TestNobodyCreates: who may create functions beside those that run as the owner could become the owner. A migration takes that right away; where it can't, or somebody gave it later, the store isn't served.
func TestNobodyCreates(t *testing.T) {
	d := store.Databases(t)
	ctx := t.Context()
	sql := func(db, text string) {
		t.Helper()
		if err := d.Cluster.SQL(ctx, db, text); err != nil {
			t.Fatal(err)
		}
	}
	const db, owner = "store_of_an_older_server", "store_owner"
	sql("postgres", "CREATE DATABASE "+db)
	sql("postgres", "CREATE ROLE "+owner+" LOGIN CREATEROLE; ALTER DATABASE "+db+" OWNER TO "+owner)
	sql(db, "ALTER SCHEMA public OWNER TO postgres; GRANT CREATE ON SCHEMA public TO PUBLIC")
	if err := store.Migrate(ctx, d.Cluster.DSN(db, owner)); !errors.Is(err, store.ErrRole) || !strings.Contains(err.Error(), "REVOKE CREATE") {
		t.Errorf("as an owner who may not revoke it: %v", err)
	}
	cfg := store.Config{Postgres: d.Cluster.DSN(db, "regard_broker")}
	if s, err := store.Open(ctx, cfg); !errors.Is(err, store.ErrRole) {
		if err == nil {
			s.Close()
		}
		t.Errorf("served: %v", err)
	}
	sql(db, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
	if err := store.Migrate(ctx, d.Cluster.DSN(db, owner)); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	sql("postgres", "CREATE DATABASE "+db+"_2")
	sql(db+"_2", "GRANT CREATE ON SCHEMA public TO PUBLIC")
	if err := store.Migrate(ctx, d.Cluster.Superuser(db+"_2")); err != nil {
		t.Errorf("as somebody who may revoke it: %v", err)
	}
}

// TestTwoStoresOnOneDatabase: what one process may do once, two may do once.
func TestTwoStoresOnOneDatabase(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	a, b := d.Open(t, dir), d.Open(t, dir)
	ctx := t.Context()
	if err := commit(t, a, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindEpoch)}}); err != nil {
		t.Fatal(err)
	}
	both := func(f func(s *store.Store, who byte) error) (errs [2]error) {
		var wg sync.WaitGroup
		for i, s := range []*store.Store{a, b} {
			wg.Go(func() { errs[i] = f(s, byte(i)) })
		}
		wg.Wait()
		return errs
	}
	once := func(name string, want error, errs [2]error) {
		t.Helper()
		if (errs[0] == nil) == (errs[1] == nil) || want != nil && !errors.Is(errors.Join(errs[0], errs[1]), want) {
			t.Errorf("%s: %v and %v, want one, and %v", name, errs[0], errs[1], want)
		}
	}
	var last store.Disclosure
	for round := range byte(20) {
		var got [2]store.Disclosure
		var again [2]bool
		errs := both(func(s *store.Store, who byte) (err error) {
			in := intent(round + 1)
			in.ID[0] = who + 1
			got[who], again[who], err = s.Begin(ctx, in)
			return err
		})
		if errs[0] != nil || errs[1] != nil || again[0] == again[1] || got[0].Seq != got[1].Seq || got[0].ID != got[1].ID {
			t.Fatalf("the same Idempotency-Key at both: %+v %v %v", got, again, errs)
		}
		last = got[0]
		// Both would conclude it, each as the next.
		next := proof.Index(round) + 1
		once("an outcome", nil, both(func(s *store.Store, who byte) error {
			l := leaf(next, proof.KindDisclosure)
			l.Identity[1] = who
			return commit(t, s, next, ledger.PlacedGroup{Leaves: []ledger.Leaf{l}, Attach: outcome(got[0])})
		}))
		if n, err := (store.Order{Store: a}).Next(ctx); err != nil || n != next+1 {
			t.Fatalf("next is %d (%v), want %d", n, err, next+1)
		}
	}
	for _, s := range []*store.Store{a, b} {
		if err := commit(t, s, 21, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(21, proof.KindDisclosure)}, Attach: outcome(last)}); !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("an outcome of what is concluded: %v", err)
		}
	}
	once("a month's key", keys.ErrKeyExists, both(func(s *store.Store, who byte) error {
		return s.SaveKeys(ctx, []keys.StoredKey{{ID: keys.KeyID{who}, Kind: keys.KindMonth, Period: "2026-11", Wrapped: []byte{1}, Created: at}})
	}))
	once("a sign-in", store.ErrExists, both(func(s *store.Store, _ byte) error { return s.SpendSignIn(ctx, [32]byte{1}, at) }))
	once("the last place among an account's identifiers", store.ErrTooMany, both(func(s *store.Store, who byte) error {
		in := identifier(keys.Owner{1}, keys.Owner{10 + who}, proof.TypeINE)
		in.Max = 1
		return s.AttachIdentifier(ctx, in)
	}))
	once("somebody's identifier", store.ErrTaken, both(func(s *store.Store, who byte) error {
		return s.AttachIdentifier(ctx, identifier(keys.Owner{2 + who}, keys.Owner{20}, proof.TypeNIR))
	}))
	// What one attaches, the other's erasure finds; what one erases, the other can't use.
	key := sealed(30).Fresh
	if err := a.SaveKeys(ctx, []keys.StoredKey{*key}); err != nil {
		t.Fatal(err)
	}
	if ks, err := b.LoadKeys(ctx, keys.KindSubject, key.Owner, ""); err != nil || len(ks) != 1 {
		t.Fatalf("a key that the other process saved: %v, %v", ks, err)
	}
	if err := b.DestroyKeys(ctx, []keys.KeyID{key.ID}); err != nil {
		t.Fatal(err)
	}
	in := intent(99)
	in.Key = key.ID
	if _, _, err := a.Begin(ctx, in); !errors.Is(err, keys.ErrNoKey) {
		t.Errorf("an intent under a key that the other process destroyed: %v", err)
	}
}

// TestBeginsOfABatch: each gets its own answer, whatever the others' are.
func TestBeginsOfABatch(t *testing.T) {
	store.EachEngine(t, func(t *testing.T, open store.Opener) {
		s := open(t, t.TempDir())
		var wg sync.WaitGroup
		for i := range byte(64) {
			wg.Go(func() {
				in := intent(i)
				in.ID = store.ID{1, i}
				in.Idem = []byte{i / 2} // each twice
				in.Body = []byte{i / 2}
				if i%4 == 3 {
					in.Key = keys.KeyID{9} // never stored: refused, unless the other one was first
				}
				in.Fresh = []*keys.StoredKey{{ID: keys.KeyID{1, i}, Kind: keys.KindSubject, Owner: keys.Owner{i + 1}, Wrapped: []byte{1}, Created: at}}
				d, again, err := s.Begin(t.Context(), in)
				switch {
				case err != nil && (i%4 != 3 || !errors.Is(err, keys.ErrNoKey)):
					t.Errorf("%d: %v", i, err)
				case err == nil && !again && d.ID != in.ID, err == nil && again && d.ID == in.ID:
					t.Errorf("%d: %+v, again %v", i, d, again)
				}
			})
		}
		wg.Wait()
		left, err := s.Interrupted(t.Context(), 0, 100)
		if err != nil || len(left) != 32 {
			t.Errorf("%d intents, %v", len(left), err)
		}
		// The keys of those who repeated another's request aren't kept.
		ks, err := s.ListKeys(t.Context(), keys.KindSubject, keys.KeyID{}, 100)
		if err != nil || len(ks) != 32 {
			t.Errorf("%d keys, %v", len(ks), err)
		}
	})
}

// eventually asks until there is no error.
func eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	var err error
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
		if !errors.Is(err, store.ErrUnavailable) {
			t.Fatalf("%s: %v, want ErrUnavailable until it works", what, err)
		}
	}
	t.Fatalf("%s: %v after a minute", what, err)
}

// TestKilledServer: whoever was told that something is stored finds it after the server was killed, writing goes on by itself when it is back, and Next settles what nobody knows.
func TestKilledServer(t *testing.T) {
	c := pgtest.Own(t)
	s := store.DatabasesOn(t, c).Open(t, t.TempDir())
	ctx := t.Context()
	o := store.Order{Store: s}
	if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindEpoch)}}); err != nil {
		t.Fatal(err)
	}
	for round := range 2 {
		var wg sync.WaitGroup
		var mu sync.Mutex
		var begun []store.Disclosure
		enough := make(chan struct{})
		for w := range byte(8) {
			wg.Go(func() {
				for i := 0; ; i++ {
					in := intent(w)
					in.ID, in.Idem = store.ID{byte(round), w, byte(i), byte(i >> 8)}, nil
					d, _, err := s.Begin(ctx, in)
					if err != nil {
						if !errors.Is(err, store.ErrUnavailable) {
							t.Errorf("while the server is killed: %v", err)
						}
						return
					}
					mu.Lock()
					if begun = append(begun, d); len(begun) == 100 {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		next, err := o.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		first := begun[0]
		mu.Unlock()
		tried := make(chan error, 1)
		go func() {
			tried <- commit(t, s, next, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(next, proof.KindDisclosure)}, Attach: outcome(first)})
		}()
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		committed := <-tried
		if committed != nil && !errors.Is(committed, store.ErrUnavailable) || errors.Is(committed, ledger.ErrRefused) {
			t.Errorf("committing while the server is killed: %v", committed)
		}
		if _, err := s.Disclosure(ctx, first.ID); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("reading from a killed server: %v", err)
		}
		if err := s.Check(ctx); !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("checking a killed server: %v", err)
		}
		if err := c.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		eventually(t, "writing again", func() error {
			return s.SaveKeys(ctx, []keys.StoredKey{{ID: keys.KeyID{7, byte(round)}, Kind: keys.KindSubject, Owner: keys.Owner{1}, Wrapped: []byte{1}, Created: at}})
		})
		var after proof.Index
		eventually(t, "reading again", func() (err error) { after, err = o.Next(ctx); return err })
		if after != next && after != next+1 || committed == nil && after != next+1 {
			t.Fatalf("the order ends at %d after a commit at %d that ended with %v", after, next, committed)
		}
		for _, d := range begun {
			got, err := s.Disclosure(ctx, d.ID)
			if err != nil || got.Seq != d.Seq {
				t.Fatalf("a disclosure that was begun: %+v, %v", got, err)
			}
		}
		if after == next {
			eventually(t, "committing again", func() error {
				return commit(t, s, next, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(next, proof.KindDisclosure)}, Attach: outcome(first)})
			})
		}
	}
}

// TestAdministratorEndsConnections: each is made anew by itself.
func TestAdministratorEndsConnections(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	recorded(t, s, 1, 0)
	if err := d.Cluster.SQL(t.Context(), "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '"+d.Name(t, dir)+"'"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "beginning", func() error { _, _, err := s.Begin(t.Context(), intent(2)); return err })
	eventually(t, "reading", func() error { _, err := s.Interrupted(t.Context(), 0, 9); return err })
	eventually(t, "keeping", func() error { return s.DestroyKeys(t.Context(), nil) })
	// Closing leaves none behind.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), d.Cluster.Superuser("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	eventually(t, "closing", func() error {
		var n int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE datname = $1", d.Name(t, dir)).Scan(&n); err != nil || n == 0 {
			return err
		}
		return fmt.Errorf("%w: %d connections are left", store.ErrUnavailable, n)
	})
}

// TestServerErrors: each class of the server's errors says what the caller can do, and the next write goes on.
func TestServerErrors(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	recorded(t, s, 1, 0)
	raise := func(code string) {
		t.Helper()
		if err := d.Cluster.SQL(t.Context(), d.Name(t, dir), fmt.Sprintf(`
			CREATE OR REPLACE FUNCTION fail() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'made to fail' USING ERRCODE = '%s'; END $$;
			DROP TRIGGER IF EXISTS fail ON intents; CREATE TRIGGER fail BEFORE INSERT ON intents EXECUTE FUNCTION fail();
			DROP TRIGGER IF EXISTS fail ON leaves; CREATE TRIGGER fail BEFORE INSERT ON leaves EXECUTE FUNCTION fail()`, code)); err != nil {
			t.Fatal(err)
		}
	}
	for code, want := range map[string]error{
		"53100": store.ErrFull, "53300": store.ErrUnavailable, "57P01": store.ErrUnavailable, "57014": store.ErrUnavailable, "55P03": store.ErrUnavailable, "40001": store.ErrUnavailable, "40P01": store.ErrUnavailable,
		"25006": store.ErrUnavailable, "58030": store.ErrUnavailable, "XX001": store.ErrCorrupt, "42501": store.ErrRole,
	} {
		raise(code)
		if _, _, err := s.Begin(t.Context(), intent(2)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", code, err, want)
		}
		err := commit(t, s, 1, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(1, proof.KindDisclosure)}})
		if !errors.Is(err, want) || errors.Is(err, ledger.ErrRefused) {
			t.Errorf("%s: committing: %v, want %v", code, err, want)
		}
	}
	raise("23514")
	if err := commit(t, s, 1, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(1, proof.KindDisclosure)}}); !errors.Is(err, ledger.ErrRefused) {
		t.Errorf("what is wrong with the batch alone: %v", err)
	}
	if err := d.Cluster.SQL(t.Context(), d.Name(t, dir), "DROP TRIGGER fail ON intents; DROP TRIGGER fail ON leaves"); err != nil {
		t.Fatal(err)
	}
	recorded(t, s, 2, 1)
}

// TestOthersInTheWay: a transaction that others were in the way of is begun anew, until it gets through.
func TestOthersInTheWay(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	if err := d.Cluster.SQL(t.Context(), d.Name(t, dir), `CREATE SEQUENCE tries; GRANT USAGE ON tries TO regard_broker;
		CREATE FUNCTION fail() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN IF nextval('tries') % 3 <> 0 THEN RAISE EXCEPTION 'in the way' USING ERRCODE = '40P01'; END IF; RETURN NULL; END $$;
		CREATE TRIGGER fail BEFORE INSERT ON intents EXECUTE FUNCTION fail()`); err != nil {
		t.Fatal(err)
	}
	for i := range byte(5) {
		if _, again, err := s.Begin(t.Context(), intent(i)); err != nil || again {
			t.Errorf("%d: again %v, %v", i, again, err)
		}
	}
	if left, err := s.Interrupted(t.Context(), 0, 9); err != nil || len(left) != 5 {
		t.Errorf("%d intents, %v", len(left), err)
	}
}

// TestNoConnectionsLeft: the server has none for us. Nothing hangs, and it goes on when there are some.
func TestNoConnectionsLeft(t *testing.T) {
	c := pgtest.Own(t, "max_connections = 16", "superuser_reserved_connections = 3")
	d := store.DatabasesOn(t, c)
	dir := t.TempDir()
	s := d.Open(t, dir)
	var all []*pgx.Conn
	for {
		conn, err := pgx.Connect(t.Context(), c.DSN(d.Name(t, dir), "regard_broker"))
		if err != nil {
			break
		}
		all = append(all, conn)
	}
	if _, _, err := s.Begin(t.Context(), intent(1)); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("without a connection: %v", err)
	}
	// Readers have theirs, and take turns.
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := s.Check(t.Context()); err != nil && !errors.Is(err, store.ErrUnavailable) {
				t.Errorf("reading: %v", err)
			}
		})
	}
	wg.Wait()
	for _, conn := range all {
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "beginning", func() error { _, _, err := s.Begin(t.Context(), intent(1)); return err })
}

// TestMonths: entries lie in the month of their epoch, and the details of one are dropped at once when all its person parts are emptied, never before; whose they are and where they stand stays.
func TestMonths(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	o := store.Order{Store: s}
	month := keys.KeyID{15: 1}
	december, january := time.Date(2026, 12, 31, 23, 0, 0, 0, time.UTC), time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	epoch := func(first proof.Index, closes *ledger.ClosedEpoch, n proof.Epoch, opened time.Time, owner byte) {
		t.Helper()
		disclosed, _, err := s.Begin(ctx, intent(owner))
		if err != nil {
			t.Fatal(err)
		}
		out := outcome(disclosed)
		out.Records[0].Admin = sealedUnder(month)
		marker, entry := leaf(first, proof.KindEpoch), leaf(first+1, proof.KindDisclosure)
		marker.Epoch, entry.Epoch = n, n
		if err := o.Commit(ctx, &ledger.Batch{First: first, Closes: closes, Opens: &ledger.OpenEpoch{Number: n, Marker: first, Text: []byte("m"), Opened: opened, Until: opened.Add(time.Hour), LabelKey: "k"},
			Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{marker}}, {Leaves: []ledger.Leaf{entry}, Attach: out}}}); err != nil {
			t.Fatal(err)
		}
	}
	epoch(0, nil, 0, december, 1)
	if err := d.Cluster.SQL(ctx, d.Name(t, dir), `DO $$ BEGIN
		IF 3 <> (SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'records'::regclass AND 'toast_tuple_target=8160' = ANY (c.reloptions))
		THEN RAISE 'the records of a month do not lie in one piece'; END IF; END $$`); err != nil {
		t.Error(err)
	}
	if _, err := s.DropDetail(ctx, 202612); !errors.Is(err, store.ErrExists) {
		t.Errorf("the month of the open epoch: %v", err)
	}
	epoch(2, &ledger.ClosedEpoch{Closer: 2}, 1, january, 2)
	if rows, err := o.UnfiledRows(ctx, 0, 9); err != nil || len(rows) != 1 || rows[0].Index != 1 {
		t.Errorf("%+v, %v", rows, err)
	}
	if rows, err := o.UnfiledRows(ctx, 1, 9); err != nil || len(rows) != 2 && len(rows) != 1 || rows[len(rows)-1].Index != 3 {
		t.Errorf("%+v, %v", rows, err)
	}
	if months, err := s.Months(ctx); err != nil || len(months) != 0 {
		t.Errorf("months %v, %v", months, err)
	}
	if _, err := s.DropDetail(ctx, 202612); !errors.Is(err, store.ErrExists) {
		t.Errorf("a month with person parts: %v", err)
	}
	for _, m := range []int{202611, 209901, -1} {
		if _, err := s.DropDetail(ctx, m); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("month %d: %v", m, err)
		}
	}
	if _, _, err := s.DropRecords(ctx, map[keys.KeyID]bool{month: true}, 0, 1, 10); err != nil {
		t.Fatal(err)
	}
	if months, err := s.Months(ctx); err != nil || len(months) != 1 || months[0] != 202612 {
		t.Errorf("months %v, %v", months, err)
	}
	if n, err := s.DropDetail(ctx, 202612); err != nil || n != 1 {
		t.Fatalf("%d records, %v", n, err)
	}
	if _, err := s.DropDetail(ctx, 202612); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("again: %v", err)
	}
	// None was made while everybody was kept out.
	if err := d.Cluster.SQL(ctx, d.Name(t, dir), `DO $$ BEGIN
		IF 3 <> (SELECT count(*) FROM pg_index x JOIN pg_inherits h ON h.inhrelid = x.indexrelid JOIN pg_class c ON c.oid = x.indexrelid WHERE x.indrelid = 'records_202612'::regclass AND c.relname LIKE 'rest_202612%')
			OR 3 <> (SELECT count(*) FROM pg_index WHERE indrelid = 'records_202612'::regclass)
		THEN RAISE 'indexes of what is left: %', (SELECT array_agg(indexrelid::regclass) FROM pg_index WHERE indrelid = 'records_202612'::regclass); END IF; END $$`); err != nil {
		t.Error(err)
	}
	if months, err := s.Months(ctx); err != nil || len(months) != 0 {
		t.Errorf("months %v, %v", months, err)
	}
	for owner, whole := range map[byte]bool{1: false, 2: true} {
		rows, err := s.RecordsOf(ctx, keys.Owner{owner}, "", 0, 9)
		if err != nil || len(rows) != 1 {
			t.Fatalf("records of %d: %+v, %v", owner, rows, err)
		}
		if id, err := keys.KeyOf(rows[0].Admin); err != nil || id != month || whole != (len(rows[0].Person) > 0) || whole != (len(rows[0].Admin) > keys.Overhead) {
			t.Errorf("records of %d: %+v, %v", owner, rows, err)
		}
	}
	var texts []byte
	if err := o.Leaves(ctx, 0, 4, func(l ledger.Leaf) error { texts = append(texts, l.Text...); return nil }); err != nil || !bytes.Equal(texts, []byte{0, 1, 2, 3}) {
		t.Errorf("leaves %v, %v", texts, err)
	}
	if r, err := s.RowAt(ctx, 1); err != nil || r.None {
		t.Errorf("%+v, %v", r, err)
	}
	recordedAgain, _, err := s.Begin(ctx, intent(5))
	if err != nil {
		t.Fatal(err)
	}
	entry := leaf(4, proof.KindDisclosure)
	entry.Epoch = 1
	if err := o.Commit(ctx, &ledger.Batch{First: 4, Groups: []ledger.PlacedGroup{{Leaves: []ledger.Leaf{entry}, Attach: outcome(recordedAgain)}}}); err != nil {
		t.Error(err)
	}
}

// TestNothingBeginsAboutWhomAnotherErases: an erasure finds all that was begun before it, and nothing begins until it is done, but what is deferred.
func TestNothingBeginsAboutWhomAnotherErases(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	a, b := d.Open(t, dir), d.Open(t, dir)
	ctx := t.Context()
	person := keys.Owner{1}
	begin := func(n byte, due time.Time) error {
		in := intent(n)
		in.Owner, in.Due = person, due
		_, _, err := a.Begin(ctx, in)
		return err
	}
	// While one begins, the other erases: what was begun is known to it.
	var begun int
	var last error
	done := make(chan struct{})
	first := make(chan struct{})
	go func() {
		defer close(done)
		for n := byte(1); n < 200; n++ {
			if last = begin(n, time.Time{}); last != nil {
				return
			}
			if begun++; begun == 3 {
				close(first)
			}
		}
	}()
	<-first
	e := &store.Erasure{ID: store.ID{1}, Record: store.Record{Owner: person, Person: []byte{1}, Admin: []byte{1}}}
	if err := (store.Order{Store: b}).BeginErasure(ctx, e, store.ID{}, at, 0, nil); !errors.Is(err, store.ErrIntents) {
		t.Fatalf("with requests under way: %v", err)
	}
	everything := func(store.Seq) bool { return true }
	if err := (store.Order{Store: b, Term: 1 << 40}).BeginErasure(ctx, e, store.ID{}, at, 0, everything); !errors.Is(err, store.ErrTerm) {
		t.Fatalf("in another process's term: %v", err)
	}
	if err := (store.Order{Store: b}).BeginErasure(ctx, e, store.ID{}, at, 0, everything); err != nil {
		t.Fatal(err)
	}
	known, err := b.IntentsOf(ctx, person)
	if err != nil {
		t.Fatal(err)
	}
	<-done
	if last != nil && !errors.Is(last, store.ErrErasing) || len(known) != begun {
		t.Errorf("%d were begun (%v), the erasure knows of %d", begun, last, len(known))
	}
	if err := begin(201, time.Time{}); !errors.Is(err, store.ErrErasing) {
		t.Errorf("during the erasure: %v", err)
	}
	if err := begin(202, at); err != nil {
		t.Errorf("what is deferred: %v", err)
	}
	if _, again, err := a.Begin(ctx, func() *store.Intent { in := intent(1); in.Owner, in.ID = person, store.ID{0: 1, 15: 1}; return in }()); err != nil || !again {
		t.Errorf("a repeat: %v, %v", again, err)
	}
	if n, err := b.CarryOut(ctx, e, at); err != nil || n != 0 {
		t.Fatalf("before it is in the log: %d, %v", n, err)
	}
	if err := begin(204, time.Time{}); !errors.Is(err, store.ErrErasing) {
		t.Errorf("before it is in the log: %v", err)
	}
	if err := commit(t, b, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindErasure)}, Attach: &store.ErasureLogged{Erasure: *e}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CarryOut(ctx, e, at); err != nil {
		t.Fatal(err)
	}
	if err := begin(203, time.Time{}); err != nil {
		t.Errorf("after the erasure: %v", err)
	}
}

// TestDeposedLetsNobodyIn: whom the one that leads keeps out stays out, whatever an earlier leader does that gives up its own erasure of the same person, or clears up.
func TestDeposedLetsNobodyIn(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	earlier, now := store.Order{Store: s, Term: 1}, store.Order{Store: s, Term: 2}
	in := intent(1)
	begins := func() bool {
		t.Helper()
		in.ID[0]++
		_, _, err := s.Begin(ctx, in)
		if err != nil && !errors.Is(err, store.ErrErasing) {
			t.Fatal(err)
		}
		return err == nil
	}
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	old := func() {
		t.Helper()
		do("letting time pass", d.Cluster.SQL(ctx, d.Name(t, dir), "UPDATE erasing SET since = since - interval '1 minute'"))
	}
	do("shutting out", earlier.ShutOut(ctx, in.Owner))
	old()
	do("shutting out again", now.ShutOut(ctx, in.Owner))
	do("clearing up what is new", now.LetInLeft(ctx, nil))
	if begins() {
		t.Error("the leader let in whom it had just shut out")
	}
	old()
	do("shutting out late", earlier.ShutOut(ctx, in.Owner))
	do("giving up", earlier.LetIn(ctx, in.Owner))
	do("clearing up", earlier.LetInLeft(ctx, nil))
	if begins() {
		t.Error("an earlier leader let in whom this one keeps out")
	}
	do("keeping out", now.LetInLeft(ctx, []keys.Owner{in.Owner}))
	if begins() {
		t.Error("the leader let in whom it keeps out")
	}
	do("clearing up", now.LetInLeft(ctx, nil))
	if !begins() {
		t.Error("who isn't erased is kept out")
	}
	do("shutting out", earlier.ShutOut(ctx, in.Owner))
	do("giving up", now.LetIn(ctx, in.Owner))
	if !begins() {
		t.Error("what an earlier leader left keeps somebody out")
	}
}

// TestErasureIsCarriedOutOnce: of two processes that carry an erasure through one destroys the keys. What the person has by then when the other one comes is no part of it.
func TestErasureIsCarriedOutOnce(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	a, b := d.Open(t, dir), d.Open(t, dir)
	ctx := t.Context()
	person := keys.Owner{1}
	save := func(n byte) {
		t.Helper()
		if err := a.SaveKeys(ctx, []keys.StoredKey{{ID: keys.KeyID{n}, Kind: keys.KindSubject, Owner: person, Wrapped: []byte{n}, Created: at}}); err != nil {
			t.Fatal(err)
		}
	}
	left := func() (ids []byte) {
		t.Helper()
		rows, err := b.LoadKeys(ctx, keys.KindSubject, person, "")
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range rows {
			ids = append(ids, k.ID[0])
		}
		return ids
	}
	save(1)
	save(2)
	e := &store.Erasure{ID: store.ID{1}, Record: store.Record{Owner: person, Person: []byte{1}, Admin: []byte{1}}}
	if err := (store.Order{Store: a}).BeginErasure(ctx, e, store.ID{}, at, 0, nil); err != nil {
		t.Fatal(err)
	}
	if n, err := a.CarryOut(ctx, e, at); err != nil || n != 0 || len(left()) != 2 {
		t.Fatalf("before it is in the log: %d, %v, left %v", n, err, left())
	}
	if err := commit(t, a, 0, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(0, proof.KindErasure)}, Attach: &store.ErasureLogged{Erasure: *e}}); err != nil {
		t.Fatal(err)
	}
	open, err := b.OpenErasures(ctx)
	if err != nil || len(open) != 1 || !open[0].Logged {
		t.Fatalf("%+v, %v", open, err)
	}
	var destroyed [8]int64
	var wg sync.WaitGroup
	for i := range destroyed {
		wg.Go(func() {
			s := []*store.Store{a, b}[i%2]
			var err error
			if destroyed[i], err = s.CarryOut(ctx, &open[0], at); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var sum int64
	for _, n := range destroyed {
		sum += n
	}
	if sum != 2 || len(left()) != 0 {
		t.Errorf("%v keys were destroyed, left %v", destroyed, left())
	}
	save(3)
	if n, err := b.CarryOut(ctx, &open[0], at); err != nil || n != 0 {
		t.Errorf("again: %d, %v", n, err)
	}
	if ids := left(); !bytes.Equal(ids, []byte{3}) {
		t.Errorf("the new key was destroyed, too: left %v", ids)
	}
}

// TestErasureLeavesTimeToOthers: the answers about somebody about whom much was asked are dropped beside everybody, and what has gone already isn't written again.
func TestErasureLeavesTimeToOthers(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	person := keys.Owner{1}
	var next proof.Index
	disclosed := func(n byte, records int) {
		t.Helper()
		in := intent(n)
		in.Owner = person
		disclosure, _, err := s.Begin(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		out := outcome(disclosure)
		out.Payload, out.Until = []byte("sealed"), at
		leaves := make([]ledger.Leaf, records)
		for i := range leaves {
			leaves[i] = leaf(next, proof.KindDisclosure)
			leaves[i].Identity = [32]byte{byte(next), byte(next >> 8), 1}
			next++
		}
		for range records - 1 {
			out.Records = append(out.Records, out.Records[0])
		}
		if err := commit(t, s, next-proof.Index(records), ledger.PlacedGroup{Leaves: leaves, Attach: out}); err != nil {
			t.Fatal(err)
		}
	}
	disclosed(1, 1100) // more than are dropped at once
	if n, err := s.DropBodies(ctx, at.AddDate(100, 0, 0), 9); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	disclosed(2, 1)
	e := &store.Erasure{ID: store.ID{1}, Record: store.Record{Owner: person, Person: []byte{1}, Admin: []byte{1}}}
	if err := (store.Order{Store: s}).BeginErasure(ctx, e, store.ID{}, at, next, nil); err != nil {
		t.Fatal(err)
	}
	if err := commit(t, s, next, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(next, proof.KindErasure)}, Attach: &store.ErasureLogged{Erasure: *e}}); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, d.Config(t, dir).Postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	number := func(query string) (n int64) {
		t.Helper()
		if err := conn.QueryRow(ctx, query).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	const version = "SELECT xmin::text::bigint FROM disclosures ORDER BY seq LIMIT 1"
	before := number(version)
	// Somebody else is at work, so that nobody is alone.
	number(fmt.Sprintf("SELECT 1 FROM pg_advisory_lock_shared(%d)", store.Locks[1]))
	ended := make(chan error, 1)
	go func() {
		_, err := s.CarryOut(ctx, e, at)
		ended <- err
	}()
	ledgertest.Await(t, "the answers to go", func() bool {
		return number("SELECT (SELECT count(*) FROM payloads) + (SELECT count(body) FROM disclosures)") == 0
	})
	if number("SELECT count(*) FROM erasures WHERE done = 1") != 0 {
		t.Error("it was carried out beside somebody else")
	}
	number(fmt.Sprintf("SELECT 1 FROM pg_advisory_unlock_shared(%d)", store.Locks[1]))
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if number(version) != before {
		t.Error("a disclosure of which nothing was left was written again")
	}
	if number("SELECT count(*) FROM erasures WHERE done = 1") != 1 {
		t.Error("the erasure isn't done")
	}
}

// brief is a context that ends when it has been asked for a number of times.
type brief struct {
	context.Context
	left int
}

func (b *brief) Err() error {
	if b.left--; b.left < 0 {
		return context.DeadlineExceeded
	}
	return nil
}

// TestErasureALittleAtATime: an erasure about somebody about whom much was asked ends, however little of it is done in each round.
func TestErasureALittleAtATime(t *testing.T) {
	store.EachEngine(t, func(t *testing.T, open store.Opener) {
		s := open(t, t.TempDir())
		ctx := t.Context()
		in := intent(1)
		disclosure, _, err := s.Begin(ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		const records = 14_500 // more than two rounds
		out := outcome(disclosure)
		out.Payload, out.Until = []byte("sealed"), at
		leaves := make([]ledger.Leaf, records)
		for i := range leaves {
			leaves[i] = leaf(proof.Index(i), proof.KindDisclosure)
			leaves[i].Identity = [32]byte{byte(i), byte(i >> 8), 1}
			if i > 0 {
				out.Records = append(out.Records, out.Records[0])
			}
		}
		if err := commit(t, s, 0, ledger.PlacedGroup{Leaves: leaves, Attach: out}); err != nil {
			t.Fatal(err)
		}
		e := &store.Erasure{ID: store.ID{1}, Record: store.Record{Owner: in.Owner, Person: []byte{1}, Admin: []byte{1}}}
		if err := (store.Order{Store: s}).BeginErasure(ctx, e, store.ID{}, at, records, nil); err != nil {
			t.Fatal(err)
		}
		if err := commit(t, s, records, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(records, proof.KindErasure)}, Attach: &store.ErasureLogged{Erasure: *e}}); err != nil {
			t.Fatal(err)
		}
		for round := 1; ; round++ {
			_, err := s.CarryOut(&brief{ctx, 6}, e, at)
			if err == nil {
				if round < 2 {
					t.Error("one round was enough")
				}
				break
			}
			if !errors.Is(err, context.DeadlineExceeded) || round == 20 {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		if open, err := s.OpenErasures(ctx); err != nil || len(open) != 0 {
			t.Errorf("it isn't done: %v, %v", open, err)
		}
	})
}

// TestMonthDroppedBefore: a month whose records an older version dropped has no details, and is looked at once.
func TestMonthDroppedBefore(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	recorded(t, s, 1, 0)
	if err := d.Cluster.SQL(ctx, d.Name(t, dir), `DO $$ DECLARE m integer := (SELECT month FROM epochs); BEGIN
		EXECUTE format('DROP TABLE records_%s', m);
		UPDATE epochs SET closer = 1;
		INSERT INTO epochs (number, marker, text, opened, until, label_key, filed_upto) SELECT 1, 1, text, opened + 3600000 * 24 * 40::bigint, until, label_key, filed_upto FROM epochs; END $$`); err != nil {
		t.Fatal(err)
	}
	months, err := s.Months(ctx)
	if err != nil || len(months) != 1 {
		t.Fatalf("months %v, %v", months, err)
	}
	if _, err := s.DropDetail(ctx, months[0]); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("nothing was left: %v", err)
	}
	if months, err := s.Months(ctx); err != nil || len(months) != 0 {
		t.Errorf("it is looked at again: %v, %v", months, err)
	}
}

// TestLargeMonth: what stays of a month is copied in steps, each durable by itself, beside whoever stores something; an attempt that was interrupted is gone on with, and nothing is lost of what has changed meanwhile.
func TestLargeMonth(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	recorded(t, s, 1, 0)
	sql := func(text string) {
		t.Helper()
		if err := d.Cluster.SQL(ctx, d.Name(t, dir), text); err != nil {
			t.Fatal(err)
		}
	}
	const rows = 12_345
	sql(`UPDATE epochs SET closer = 1; UPDATE records SET person = ''; SELECT make_months(197003);
		INSERT INTO epochs (number, marker, text, opened, until, label_key, filed_upto) SELECT 1, 1, text, opened + 3600000 * 24 * 40::bigint, until, label_key, filed_upto FROM epochs`)
	sql(fmt.Sprintf(`INSERT INTO records (month, log_index, position, owner, person, admin) SELECT month, 10 + i, 0, '\x%032x', '', decode(repeat('ab', 900), 'hex') FROM epochs CROSS JOIN generate_series(1, %d) i WHERE number = 0`, 7, rows))
	months := func() []int {
		t.Helper()
		months, err := s.Months(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return months
	}
	sql("UPDATE records SET person = '\\x01' WHERE log_index = 10000")
	if got := months(); len(got) != 1 {
		t.Fatalf("months %v: the end of the month was to be looked at", got)
	}
	if _, err := s.DropDetail(ctx, 197001); !errors.Is(err, store.ErrExists) {
		t.Errorf("with a person part: %v", err)
	}
	sql("UPDATE records SET person = '' WHERE log_index = 10000")
	// An attempt that was interrupted after a step. Meanwhile something came of what should have been at rest.
	sql("SELECT drop_detail(197001, 58, 5000)")
	sql("UPDATE records SET person = '\\x01' WHERE log_index = 100")
	if _, err := s.DropDetail(ctx, 197001); !errors.Is(err, store.ErrExists) {
		t.Errorf("with a person part that came meanwhile: %v", err)
	}
	sql("UPDATE records SET person = '' WHERE log_index = 100")
	sql("SELECT drop_detail(197001, 58, 5000)")
	sql("INSERT INTO records (month, log_index, position, owner, person, admin) SELECT month, 5, 0, owner, person, admin FROM records WHERE log_index = 11")
	n, err := s.DropDetail(ctx, 197001)
	if err != nil || n != rows+2 {
		t.Fatalf("%d records, %v", n, err)
	}
	if got := months(); len(got) != 0 {
		t.Errorf("months %v", got)
	}
	sql(fmt.Sprintf(`DO $$ BEGIN
		IF (SELECT count(DISTINCT xmin::text) FROM records_197001) < 3 THEN RAISE 'all was copied at once'; END IF;
		IF (SELECT count(*) FROM records WHERE length(admin) <= 58) <> %d THEN RAISE 'records: %%', (SELECT count(*) FROM records); END IF;
		IF to_regclass('rest_197001') IS NOT NULL THEN RAISE 'the copy lies there twice'; END IF; END $$`, rows+2))
}

// TestDetailsBehindAReader: whoever reads records for a long time, as a backup does, holds up the end of a month's details, and nobody waits behind that for longer than an attempt lasts.
func TestDetailsBehindAReader(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	recorded(t, s, 1, 0)
	if err := d.Cluster.SQL(ctx, d.Name(t, dir), `UPDATE epochs SET closer = 1; UPDATE records SET person = ''; SELECT make_months(197003);
		INSERT INTO epochs (number, marker, text, opened, until, label_key, filed_upto) SELECT 1, 1, text, opened + 3600000 * 24 * 40::bigint, until, label_key, filed_upto FROM epochs`); err != nil {
		t.Fatal(err)
	}
	conn := func(address string) *pgx.Conn {
		c, err := pgx.Connect(ctx, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return c
	}
	do := func(c *pgx.Conn, text string) {
		t.Helper()
		if _, err := c.Exec(ctx, text); err != nil {
			t.Fatal(err)
		}
	}
	reader, look := conn(d.Config(t, dir).Postgres), conn(d.Cluster.Superuser(d.Name(t, dir))) // who sees what others wait for
	do(reader, "BEGIN")
	do(reader, "SELECT count(*) FROM records")
	ended := make(chan error, 1)
	go func() {
		_, err := s.DropDetail(ctx, 197001)
		ended <- err
	}()
	ledgertest.Await(t, "an attempt that has failed", func() bool {
		var pauses bool
		if err := look.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep')").Scan(&pauses); err != nil {
			t.Fatal(err)
		}
		return pauses
	})
	do(look, "INSERT INTO records (month, log_index, position, owner, person, admin) VALUES (197002, 100, 0, '', '', '')")
	select {
	case err := <-ended:
		t.Fatalf("the details are gone while somebody reads them: %v", err)
	default:
	}
	do(reader, "COMMIT")
	if err := <-ended; err != nil {
		t.Errorf("when nobody reads any more: %v", err)
	}
	if months, err := s.Months(ctx); err != nil || len(months) != 0 {
		t.Errorf("months %v, %v", months, err)
	}
}

// TestChangesAreCounted: whatever other processes keep in memory is counted by the transaction that changes it, and they are told when it is durable.
func TestChangesAreCounted(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s, other := d.Open(t, dir), d.Open(t, dir)
	ctx := t.Context()
	listens, err := pgx.Connect(ctx, d.Config(t, dir).Postgres)
	if err != nil {
		t.Fatal(err)
	}
	defer listens.Close(context.Background())
	if _, err := listens.Exec(ctx, "LISTEN regard_changed"); err != nil {
		t.Fatal(err)
	}
	last, err := other.Changes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	next := proof.Index(0)
	logged := func(a store.Attachment) func() error {
		return func() error {
			err := commit(t, s, next, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(next, proof.KindKey)}, Attach: a})
			next++
			return err
		}
	}
	key := keys.StoredKey{ID: keys.KeyID{1}, Kind: keys.KindSubject, Owner: keys.Owner{1}, Wrapped: []byte{1}, Created: at}
	answers := keys.StoredKey{ID: keys.KeyID{2}, Kind: keys.KindPayload, Period: "2026-11-26T12:00Z", Wrapped: []byte{1}, Created: at}
	for _, c := range []struct {
		name           string
		do             func() error
		registry, keys int64
	}{
		{"an agency", logged(&store.AgencyChange{Agency: store.Agency{ID: "a", Name: "A", SIRET: "1", State: store.Active}}), 1, 0},
		{"its addresses", func() error { return s.SetAgencyAddresses(ctx, "a", "c@a.example", "") }, 1, 0},
		{"an auditor", logged(&store.AuditorChange{Auditor: store.Auditor{ID: "b", Name: "B", State: store.Active}}), 1, 0},
		{"an agreement", logged(&store.AgreementChange{Agreement: store.Agreement{ID: "g", Version: 1, JSON: []byte{1}}}), 1, 0},
		{"a service", logged(&store.ServiceChange{Service: store.Service{ID: "s", Version: 1, YAML: []byte{1}}}), 1, 0},
		{"a policy", logged(&store.BundleActivation{Bundle: store.Bundle{Revision: "1", Bytes: []byte{1}}}), 1, 0},
		{"a key that came into force", logged(&store.Note{Name: "key x"}), 0, 1},
		{"a new person's key", func() error { return s.SaveKeys(ctx, []keys.StoredKey{key}) }, 0, 0},
		{"a key of answers", func() error { return s.SaveKeys(ctx, []keys.StoredKey{answers}) }, 0, 0},
		{"a key of answers that was destroyed", func() error { return s.DestroyKeys(ctx, []keys.KeyID{answers.ID}) }, 0, 0},
		{"a key that was destroyed", func() error { return s.DestroyKeys(ctx, []keys.KeyID{key.ID}) }, 0, 1},
		{"something else", logged(nil), 0, 0},
		{"what is refused", func() error {
			if err := logged(&store.AgreementChange{Agreement: store.Agreement{ID: "g", Version: 1, JSON: []byte{1}}})(); !errors.Is(err, ledger.ErrRefused) {
				return fmt.Errorf("not refused: %w", err)
			}
			next--
			return nil
		}, 0, 0},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		now, err := other.Changes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if now.Registry != last.Registry+c.registry || now.Keys != last.Keys+c.keys {
			t.Errorf("%s: from %+v to %+v", c.name, last, now)
		}
		last = now
		if c.registry+c.keys > 0 {
			wait, cancel := context.WithTimeout(ctx, time.Minute)
			if _, err := listens.WaitForNotification(wait); err != nil {
				t.Errorf("%s: nobody is told: %v", c.name, err)
			}
			cancel()
		}
	}
	// A request that was decided before doesn't begin.
	for number, want := range map[int64]error{0: nil, last.Registry: nil, last.Registry - 1: store.ErrStale, last.Registry + 1: store.ErrStale} {
		in := intent(byte(100 + number))
		in.Registry = number
		if _, _, err := s.Begin(ctx, in); !errors.Is(err, want) {
			t.Errorf("decided by %d of %d: %v", number, last.Registry, err)
		}
		if _, again, err := s.Begin(ctx, in); want == nil && (err != nil || !again) || want != nil && !errors.Is(err, want) {
			t.Errorf("decided by %d of %d, again: %v, %v", number, last.Registry, again, err)
		}
	}
}

// TestLeadersInTheWay: a leader that stopped in the middle of a transaction, as either role, keeps nobody from leading. Who waits as the new one does is left alone.
func TestLeadersInTheWay(t *testing.T) {
	d := store.Databases(t)
	dir := t.TempDir()
	s := d.Open(t, dir)
	ctx := t.Context()
	if err := d.Cluster.SQL(ctx, d.Name(t, dir), "UPDATE lease SET term = 7"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, url, lock string }{
		{"orders", d.Config(t, dir).Postgres, "SELECT pg_advisory_xact_lock_shared(%[2]d), pg_advisory_xact_lock(%[3]d)"},
		{"erases", d.Config(t, dir).Keeper, "SELECT pg_advisory_xact_lock(%[1]d), pg_advisory_xact_lock(%[2]d)"},
		{"begins", d.Config(t, dir).Postgres, "SELECT pg_advisory_xact_lock_shared(%[2]d)"},
	} {
		conn, err := pgx.Connect(ctx, c.url)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		tx, err := conn.Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf(c.lock+" WHERE %[1]d + %[2]d + %[3]d > 0", store.Locks...)); err != nil {
			t.Fatal(err)
		}
		waiting := make(chan error, 1)
		go func() { waiting <- s.DestroyKeys(ctx, []keys.KeyID{{9}}) }() // it waits for all others
		if err := (store.Order{Store: s, Term: 7}).Lead(ctx); err != nil {
			t.Errorf("while one before %s: %v", c.name, err)
		}
		if c.name != "begins" {
			if err := tx.Commit(ctx); err == nil {
				t.Errorf("what %s wasn't ended", c.name)
			}
		} else {
			_ = tx.Rollback(ctx)
		}
		if err := <-waiting; err != nil {
			t.Errorf("who waited while one before %s: %v", c.name, err)
		}
	}
}
