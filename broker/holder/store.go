package holder

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	_ "modernc.org/sqlite" // the driver "sqlite"

	"github.com/regard-broker/regard/ledger/proof"
)

// Store keeps a holder's disclosures in a SQLite file (WAL, synchronous=FULL), readable by this user only: what a call returned survives kill -9 and power loss. Calls that write at the same time share a
// sync. It may be read by another process while one writes. It is safe for concurrent use. It holds personal data: receipts name people.
type Store struct {
	db     *sql.DB // one connection, of the writer
	r      *sql.DB
	role   string
	proven State  // from which on nothing is missing before the epoch's close
	noted  string // its name in the file, of when this was opened; empty: a new store, or one of before
	ops    chan *op
	done   chan struct{}
}

// Roles of a holder.
const (
	RoleAgency   = "agency"
	RoleProvider = "provider"
)

const storeFile = "receipts.db"

// laterColumns are those that a store of before doesn't have.
var laterColumns = []string{"until INTEGER NOT NULL DEFAULT 0", "opened INTEGER NOT NULL DEFAULT 0"}

// storeIndex is of columns that may have been added: when settlements are expected from, of what is in a state and not delayed, and until when the others are.
const storeIndex = "CREATE INDEX IF NOT EXISTS held_since ON held (state, until, max(at, opened))"

const storeSchema = `
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS held (
  id      TEXT PRIMARY KEY,              -- of the disclosure
  at      INTEGER NOT NULL,              -- when it was asked or answered, ms
  service TEXT    NOT NULL,
  state   INTEGER NOT NULL,
  outcome TEXT    NOT NULL DEFAULT '',
  epoch   INTEGER NOT NULL DEFAULT 0,    -- of the asked entry, from state 1 on
  data    BLOB,                          -- SHA-256 of an agency's data
  due     INTEGER NOT NULL,              -- next look, ms
  tries   INTEGER NOT NULL DEFAULT 0,
  unheard INTEGER NOT NULL DEFAULT 0,    -- an answer that the broker says it couldn't read
  code    TEXT    NOT NULL DEFAULT '',   -- why it isn't further
  until   INTEGER NOT NULL DEFAULT 0,    -- while its person is told later: when that has to be over, ms
  opened  INTEGER NOT NULL DEFAULT 0     -- when the end of such a delay was seen, ms
);
CREATE INDEX IF NOT EXISTS held_due ON held (due) WHERE state < 3;
DROP INDEX IF EXISTS held_open;
CREATE INDEX IF NOT EXISTS held_states ON held (state, at, unheard); -- all of Status
-- What a provider was asked and answered; also: which intents were used.
CREATE TABLE IF NOT EXISTS answers (
  id       TEXT    NOT NULL,
  question BLOB    NOT NULL,             -- digest
  until    INTEGER NOT NULL,             -- end of the intent, ms
  said     BLOB    NOT NULL,             -- JSON
  PRIMARY KEY (id, question)
);
CREATE INDEX IF NOT EXISTS answers_until ON answers (until);
CREATE TABLE IF NOT EXISTS receipts (
  id        TEXT    NOT NULL,
  log_index INTEGER NOT NULL,
  text      BLOB    NOT NULL,
  PRIMARY KEY (id, log_index)
);
-- Entries that were shown without their subject, because of an erasure as the broker says.
CREATE TABLE IF NOT EXISTS erased (
  id        TEXT    NOT NULL,
  log_index INTEGER NOT NULL,
  PRIMARY KEY (id, log_index)
);
CREATE TABLE IF NOT EXISTS evidence (
  n     INTEGER PRIMARY KEY,
  id    TEXT    NOT NULL,
  at    INTEGER NOT NULL,
  code  TEXT    NOT NULL,
  detail TEXT   NOT NULL,
  bytes BLOB    NOT NULL                 -- what the broker showed
);`

type op struct {
	fn   func(*sql.Tx) error
	done chan error
}

// OpenStore opens or creates the store in a directory, for a role.
func OpenStore(ctx context.Context, dir, role string) (*Store, error) {
	if role != RoleAgency && role != RoleProvider {
		return nil, errors.New("holder: a store is an agency's or a provider's")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the store of receipts: %w", err)
	}
	path, err := filepath.Abs(filepath.Join(dir, storeFile))
	if err != nil {
		return nil, fmt.Errorf("opening the store of receipts: %w", err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- the holder's own directory
	if err != nil {
		return nil, fmt.Errorf("opening the store of receipts: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("opening the store of receipts: %w", err)
	}
	s := &Store{role: role, ops: make(chan *op, 256), done: make(chan struct{})}
	dsn := func(more string) string {
		return (&url.URL{Scheme: "file", Path: path, RawQuery: "_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=secure_delete(1)" + more}).String()
	}
	if s.db, err = sql.Open("sqlite", dsn("&_txlock=immediate")); err != nil {
		return nil, fmt.Errorf("opening the store of receipts: %w", err)
	}
	s.db.SetMaxOpenConns(1)
	if s.r, err = sql.Open("sqlite", dsn("")); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store of receipts: %w", err), s.db.Close())
	}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the store of receipts %s: %w", path, err), s.r.Close(), s.db.Close())
	}
	go s.write()
	return s, nil
}

// ReadRole returns whose store is in a directory; the error wraps fs.ErrNotExist if there is none.
func ReadRole(ctx context.Context, dir string) (string, error) {
	path, err := filepath.Abs(filepath.Join(dir, storeFile))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err != nil {
		return "", err
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path, RawQuery: "mode=ro&_pragma=busy_timeout(10000)"}).String())
	if err != nil {
		return "", err
	}
	defer db.Close()
	var role string
	err = db.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = 'role'").Scan(&role)
	return role, err
}

func (s *Store) prepare(ctx context.Context) error {
	if _, err := s.db.ExecContext(ctx, storeSchema); err != nil {
		return err
	}
	for _, column := range laterColumns {
		name, _, _ := strings.Cut(column, " ")
		var there bool
		if err := s.db.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM pragma_table_info('held') WHERE name = ?)", name).Scan(&there); err != nil {
			return err
		}
		if !there {
			if _, err := s.db.ExecContext(ctx, "ALTER TABLE held ADD COLUMN "+column); err != nil {
				return err
			}
		}
	}
	if _, err := s.db.ExecContext(ctx, storeIndex); err != nil {
		return err
	}
	for name, value := range map[string]string{"format": "1", "role": s.role} {
		if _, err := s.db.ExecContext(ctx, "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", name, value); err != nil {
			return err
		}
		var is string
		if err := s.db.QueryRowContext(ctx, "SELECT value FROM meta WHERE name = ?", name).Scan(&is); err != nil {
			return err
		}
		if is != value {
			return fmt.Errorf("its %s is %q, want %q", name, is, value)
		}
	}
	err := s.db.QueryRowContext(ctx, "SELECT coalesce((SELECT value FROM meta WHERE name = 'proven'), '')").Scan(&s.noted)
	s.proven = provenBy(s.noted == Signed.String())
	return err
}

// demand notes whether the log's signature is enough, also for those who read the store without the policy.
func (s *Store) demand(signedIsEnough bool) error {
	s.proven = provenBy(signedIsEnough)
	if s.noted == s.proven.String() {
		return nil
	}
	return s.do("noting what is enough", func(tx *sql.Tx) error {
		if s.noted == "" && signedIsEnough {
			// A store of before calls witnessed what the log alone has signed.
			if _, err := tx.Exec("UPDATE held SET state = ? WHERE state = ?", int(Signed), int(Witnessed)); err != nil {
				return err
			}
		}
		_, err := tx.Exec("INSERT INTO meta (name, value) VALUES ('proven', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", s.proven.String())
		return err
	})
}

// Close waits for what is being written.
func (s *Store) Close() error {
	close(s.ops)
	<-s.done
	return errors.Join(s.r.Close(), s.db.Close())
}

// write is the one writer: what waits while a transaction is being synced goes into the next.
func (s *Store) write() {
	defer close(s.done)
	for first := range s.ops {
		batch := []*op{first}
		for more := true; more && len(batch) < 256; {
			select {
			case o, ok := <-s.ops:
				if more = ok; ok {
					batch = append(batch, o)
				}
			default:
				more = false
			}
		}
		if err := s.commit(batch); err == nil || len(batch) == 1 {
			for _, o := range batch {
				o.done <- err
			}
			continue
		}
		for _, o := range batch { // alone, so that one doesn't spoil its neighbours
			o.done <- s.commit([]*op{o})
		}
	}
}

func (s *Store) commit(batch []*op) error {
	tx, err := s.db.BeginTx(context.Background(), nil)
	if err != nil {
		return err
	}
	for _, o := range batch {
		if err := o.fn(tx); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	return tx.Commit()
}

func (s *Store) do(what string, fn func(*sql.Tx) error) error {
	o := &op{fn, make(chan error, 1)}
	s.ops <- o
	if err := <-o.done; err != nil {
		return fmt.Errorf("%s in the store of receipts: %w", what, err)
	}
	return nil
}

// Held is what the store has about one disclosure.
type Held struct {
	ID      string
	At      time.Time
	Service string
	State   State
	Outcome string
	Epoch   proof.Epoch
	Code    string
	Data    []byte // SHA-256 of an agency's data, if it got any
	Answers []said // of a provider
	// Receipts by log index.
	Receipts [][]byte
	// Erased are the log indexes of entries that were shown without their subject, because of an erasure as the broker says.
	Erased []proof.Index

	tries int
}

// exchange is one question to a provider and what is about to be answered.
type exchange struct {
	disclosure, service string
	at                  time.Time
	question            proof.Hash
	until               proof.Time // end of the intent
	said                said
	intent              []byte // as it was signed
	unidentified        bool   // nothing is answered: it can't be told whom it would identify
}

// answered notes what a provider was asked and is about to answer. A second question of a disclosure that isn't a part of an answer is noted, with its intent as evidence; then the result is errTwice.
func (s *Store) answered(x *exchange) error {
	twice := false
	err := s.do("noting an answer", func(tx *sql.Tx) error {
		var asked bool
		if err := tx.QueryRow("SELECT EXISTS (SELECT 1 FROM answers WHERE id = ? AND NOT coalesce(json_extract(CAST(said AS TEXT), '$.part'), 0))", x.disclosure).Scan(&asked); err != nil {
			return err
		}
		what := x.said
		what.Part = what.Part || asked && x.unidentified
		twice = asked && !what.Part
		text, err := json.Marshal(what)
		if err != nil {
			return err
		}
		ms := x.at.UnixMilli()
		if _, err := tx.Exec("INSERT INTO held (id, at, service, state, due) VALUES (?, ?, ?, 0, ?) ON CONFLICT (id) DO NOTHING", x.disclosure, ms, x.service, ms); err != nil {
			return err
		}
		if _, err := tx.Exec("INSERT INTO answers (id, question, until, said) VALUES (?, ?, ?, ?)", x.disclosure, x.question[:], int64(x.until), text); err != nil || !twice {
			return err
		}
		return refuted(tx, x.disclosure, errTwice, x.at, [][]byte{x.intent})
	})
	if err == nil && twice {
		return errTwice
	}
	return err
}

// errTwice: one entry of the log would stand for two questions, and for the people in both answers.
var errTwice = &Refutation{"question.twice", "two questions were announced under one disclosure"}

// used lists the questions whose intents may still be valid at a time.
func (s *Store) used(ctx context.Context, now time.Time) (map[usedKey]proof.Time, error) {
	rows, err := s.r.QueryContext(ctx, "SELECT id, question, until FROM answers WHERE until >= ?", now.UnixMilli())
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := map[usedKey]proof.Time{}
	for rows.Next() {
		var k usedKey
		var q []byte
		var until int64
		if err := rows.Scan(&k.disclosure, &q, &until); err != nil {
			return nil, err
		}
		if copy(k.question[:], q) != len(k.question) {
			return nil, errors.New("holder: a question in the store is malformed")
		}
		out[k] = proof.Time(until)
	}
	return out, rows.Err()
}

// keep stores an agency's receipt at once, unless there is one that has come as far.
func (s *Store) keep(id, service, outcome string, at time.Time, data []byte, state State, r receipt) error {
	return s.do("keeping a receipt", func(tx *sql.Tx) error {
		was := -1
		if err := tx.QueryRow("SELECT state FROM held WHERE id = ?", id).Scan(&was); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		ms := at.UnixMilli()
		if _, err := tx.Exec(`INSERT INTO held (id, at, service, state, outcome, epoch, data, due, until) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET state = max(state, excluded.state), data = coalesce(data, excluded.data)`,
			id, ms, service, int(state), outcome, int64(r.verdict.Epoch), data, ms, int64(r.until())); err != nil || was >= int(state) {
			return err
		}
		return putReceipts(tx, id, []receipt{r})
	})
}

func putReceipts(tx *sql.Tx, id string, rs []receipt) error {
	for _, r := range rs {
		if _, err := tx.Exec("INSERT INTO receipts (id, log_index, text) VALUES (?, ?, ?) ON CONFLICT (id, log_index) DO UPDATE SET text = excluded.text", id, int64(r.verdict.Index), r.text); err != nil {
			return err
		}
	}
	return nil
}

// advance stores how far a disclosure has come.
func (s *Store) advance(id string, to progress, now, due time.Time) error {
	return s.do("noting progress", func(tx *sql.Tx) error {
		if err := putReceipts(tx, id, to.receipts); err != nil {
			return err
		}
		for _, i := range to.erased {
			if _, err := tx.Exec("INSERT INTO erased (id, log_index) VALUES (?, ?) ON CONFLICT DO NOTHING", id, int64(i)); err != nil {
				return err
			}
		}
		unheard := 0
		if to.unheard {
			unheard = 1
		}
		// Never back from what a person decided meanwhile, nor from a refutation.
		_, err := tx.Exec("UPDATE held SET state = ?, outcome = ?, epoch = ?, unheard = ?, code = ?, due = ?, tries = CASE WHEN state = ? THEN tries + 1 ELSE 0 END, opened = CASE WHEN until > 0 AND ? = 0 THEN ? ELSE opened END, until = ? WHERE id = ? AND state NOT IN (?, ?)",
			int(to.state), to.outcome, int64(to.epoch), unheard, to.code, due.UnixMilli(), int(to.state), int64(to.until), now.UnixMilli(), int64(to.until), id, int(Accepted), int(Refuted))
		return err
	})
}

// later notes that a look brought nothing.
func (s *Store) later(id, code string, due time.Time) error {
	return s.do("noting a look", func(tx *sql.Tx) error {
		_, err := tx.Exec("UPDATE held SET code = ?, due = ?, tries = tries + 1 WHERE id = ? AND state < ?", code, due.UnixMilli(), id, int(Settled))
		return err
	})
}

// refuted keeps what the broker showed.
func (s *Store) refuted(id string, r *Refutation, at time.Time, shown [][]byte) error {
	return s.do("keeping evidence", func(tx *sql.Tx) error { return refuted(tx, id, r, at, shown) })
}

func refuted(tx *sql.Tx, id string, r *Refutation, at time.Time, shown [][]byte) error {
	if len(shown) == 0 {
		shown = [][]byte{{}}
	}
	for _, b := range shown {
		if _, err := tx.Exec("INSERT INTO evidence (id, at, code, detail, bytes) VALUES (?, ?, ?, ?, ?)", id, at.UnixMilli(), r.Code, r.Detail, b); err != nil {
			return err
		}
	}
	_, err := tx.Exec("UPDATE held SET state = ?, code = ? WHERE id = ? AND state <> ?", int(Refuted), r.Code, id, int(Accepted))
	return err
}

// ErrUnknown: the store has nothing about such a disclosure.
var ErrUnknown = errors.New("there is no such disclosure in the store")

// Accept closes a disclosure by hand, for a reason that is kept: what is missing won't come, or what is wrong was looked into. The evidence stays.
func (s *Store) Accept(id, reason string) error {
	if strings.TrimSpace(reason) == "" || len(reason) > 500 {
		return errors.New("holder: give a reason of at most 500 bytes")
	}
	return s.do("accepting", func(tx *sql.Tx) error {
		res, err := tx.Exec("UPDATE held SET state = ?, code = ? WHERE id = ?", int(Accepted), reason, id)
		if err != nil {
			return err
		}
		if n, err := res.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, ErrUnknown)
		}
		return nil
	})
}

// forgetBatch is how many disclosures one transaction forgets: a guard that answers meanwhile doesn't wait for long.
const forgetBatch = 500

// MinForget is how old what is forgotten has to be, at least: an intent that was used must be known as long as it is valid.
const MinForget = 24 * time.Hour

// Forget deletes what is held about disclosures of before a time that are settled or accepted, and returns how many these were. What isn't finished stays, and so does evidence.
func (s *Store) Forget(ctx context.Context, before time.Time) (n int64, err error) {
	if time.Since(before) < MinForget {
		return 0, fmt.Errorf("holder: what is younger than %v can't be forgotten", MinForget)
	}
	for {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		var some int64
		err := s.do("forgetting", func(tx *sql.Tx) error {
			const which = " WHERE id IN (SELECT id FROM held WHERE state IN (3, 4) AND at < ? ORDER BY state, at, id LIMIT ?)"
			for _, statement := range []string{"DELETE FROM answers" + which, "DELETE FROM receipts" + which, "DELETE FROM erased" + which, "DELETE FROM held" + which} {
				res, err := tx.Exec(statement, before.UnixMilli(), forgetBatch)
				if err != nil {
					return err
				}
				if some, err = res.RowsAffected(); err != nil { // the last one counts
					return err
				}
			}
			return nil
		})
		if n += some; err != nil || some < forgetBatch {
			return n, err
		}
	}
}

// due lists disclosures that are to be looked at, those first that wait longest.
func (s *Store) due(ctx context.Context, now time.Time, limit int) ([]string, error) {
	rows, err := s.r.QueryContext(ctx, "SELECT id FROM held WHERE state < 3 AND due <= ? ORDER BY due LIMIT ?", now.UnixMilli(), limit)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

// held reads one disclosure.
func (s *Store) held(ctx context.Context, id string) (*Held, error) {
	h := &Held{ID: id}
	var at, state, epoch int64
	err := s.r.QueryRowContext(ctx, "SELECT at, service, state, outcome, epoch, data, code, tries FROM held WHERE id = ?", id).Scan(&at, &h.Service, &state, &h.Outcome, &epoch, &h.Data, &h.Code, &h.tries)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, ErrUnknown
	}
	if err != nil {
		return nil, err
	}
	h.At, h.State, h.Epoch = time.UnixMilli(at).UTC(), State(state), proof.Epoch(epoch) // #nosec G115 -- as it was stored
	texts, err := s.blobs(ctx, "SELECT said FROM answers WHERE id = ? ORDER BY rowid", id)
	if err != nil {
		return nil, err
	}
	for _, t := range texts {
		var a said
		if err := json.Unmarshal(t, &a); err != nil {
			return nil, fmt.Errorf("holder: an answer of %s in the store is malformed: %w", id, err)
		}
		h.Answers = append(h.Answers, a)
	}
	if h.Receipts, err = s.blobs(ctx, "SELECT text FROM receipts WHERE id = ? ORDER BY log_index", id); err != nil {
		return nil, err
	}
	h.Erased, err = s.erased(ctx, id)
	return h, err
}

func (s *Store) erased(ctx context.Context, id string) ([]proof.Index, error) {
	rows, err := s.r.QueryContext(ctx, "SELECT log_index FROM erased WHERE id = ? ORDER BY log_index", id)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []proof.Index
	for rows.Next() {
		var i int64
		if err := rows.Scan(&i); err != nil {
			return nil, err
		}
		out = append(out, proof.Index(i)) // #nosec G115 -- as it was stored
	}
	return out, rows.Err()
}

func (s *Store) blobs(ctx context.Context, query string, args ...any) ([][]byte, error) {
	rows, err := s.r.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		var b []byte
		if err := rows.Scan(&b); err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	return out, rows.Err()
}

// Status is how things stand.
type Status struct {
	// Counts of disclosures by State.
	Counts [len(stateNames)]int64
	// Unheard are answers with status 2xx of which the broker's record says that they couldn't be read: nobody in them has an entry.
	Unheard int64
	// Erased are disclosures that didn't settle because somebody in them was erased, as the broker says. How many can be true the log tells: regard-audit reconcile compares.
	Erased int64
	// OldestUnproven is the oldest disclosure that isn't witnessed, or signed where that is enough, OldestUnsettled the oldest that isn't settled; zero: none. One whose person was told later counts from when that was seen,
	// and not at all before.
	OldestUnproven, OldestUnsettled time.Time
	// OldestDelay is when the first of the delays that aren't over has to be; zero: none.
	OldestDelay time.Time
}

// Status counts.
func (s *Store) Status(ctx context.Context) (Status, error) {
	out, err := s.ages(ctx)
	if err != nil {
		return out, err
	}
	rows, err := s.r.QueryContext(ctx, "SELECT state, count(*), sum(unheard) FROM held GROUP BY state")
	if err != nil {
		return out, fmt.Errorf("reading the store of receipts: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var state, n, unheard int64
		if err := rows.Scan(&state, &n, &unheard); err != nil {
			return out, fmt.Errorf("reading the store of receipts: %w", err)
		}
		if state < 0 || int(state) >= len(out.Counts) {
			return out, errors.New("holder: a state in the store is unknown")
		}
		out.Counts[state], out.Unheard = n, out.Unheard+unheard
	}
	if err := rows.Err(); err != nil {
		return out, fmt.Errorf("reading the store of receipts: %w", err)
	}
	if err := s.r.QueryRowContext(ctx, "SELECT count(DISTINCT id) FROM erased").Scan(&out.Erased); err != nil {
		return out, fmt.Errorf("reading the store of receipts: %w", err)
	}
	return out, nil
}

// Unheard says of how many answers the broker's records say that they couldn't be read.
type Unheard struct {
	N  int64
	Of int64 // disclosures whose records were seen
}

// DefaultMaxUnheard is the share of unheard answers above which there is an alarm, unless another is given.
const DefaultMaxUnheard = 0.05

// minUnheard is how many make an alarm, at least: connections break.
const minUnheard = 3

// Exceeds reports whether these are more than a share, from 0 to 1, and not just a few.
func (u Unheard) Exceeds(share float64) bool {
	return u.N >= minUnheard && float64(u.N) > share*float64(u.Of)
}

// Unheard counts the disclosures since a time.
func (s *Store) Unheard(ctx context.Context, since time.Time) (u Unheard, err error) {
	err = s.r.QueryRowContext(ctx, "SELECT count(*), coalesce(sum(unheard), 0) FROM held WHERE state IN (1, 2, 3, 4) AND at >= ?", since.UnixMilli()).Scan(&u.Of, &u.N)
	if err != nil {
		return u, fmt.Errorf("reading the store of receipts: %w", err)
	}
	return u, nil
}

// ages are the part of Status that says whether something is overdue: by indexes alone.
func (s *Store) ages(ctx context.Context) (Status, error) {
	var out Status
	oldest := func(t *time.Time, query string, args ...any) error {
		var at sql.NullInt64
		if err := s.r.QueryRowContext(ctx, query, args...).Scan(&at); err != nil {
			return fmt.Errorf("reading the store of receipts: %w", err)
		}
		if v := time.UnixMilli(at.Int64).UTC(); at.Valid && (t.IsZero() || v.Before(*t)) {
			*t = v
		}
		return nil
	}
	for state := Waiting; state < Settled; state++ {
		if state < s.proven {
			if err := oldest(&out.OldestUnproven, "SELECT min(at) FROM held WHERE state = ?", int(state)); err != nil {
				return out, err
			}
		}
		if err := oldest(&out.OldestUnsettled, "SELECT min(max(at, opened)) FROM held WHERE state = ? AND until = 0", int(state)); err != nil {
			return out, err
		}
		if err := oldest(&out.OldestDelay, "SELECT min(until) FROM held WHERE state = ? AND until > 0", int(state)); err != nil {
			return out, err
		}
	}
	err := s.r.QueryRowContext(ctx, "SELECT count(*) FROM held WHERE state = ?", int(Refuted)).Scan(&out.Counts[Refuted])
	if err != nil {
		return out, fmt.Errorf("reading the store of receipts: %w", err)
	}
	return out, nil
}

// An Exported line is what Export writes about one disclosure: JSON, a line each, by increasing id. It is personal data.
type Exported struct {
	ID       string    `json:"id"`
	Role     string    `json:"role"` // agency or provider
	At       time.Time `json:"at"`
	Service  string    `json:"service"`
	State    string    `json:"state"`
	Outcome  string    `json:"outcome,omitempty"`
	Code     string    `json:"code,omitempty"`
	Receipts []string  `json:"receipts"`
	// Erased are the log indexes of entries that were shown later without their subject, because of an erasure as the broker says.
	Erased []proof.Index `json:"erased,omitempty"`
}

// Export writes everything that is held, for whoever reconciles it with the log.
func (s *Store) Export(ctx context.Context, w io.Writer) error {
	for after := ""; ; {
		ids, err := s.blobs(ctx, "SELECT id FROM held WHERE id > ? ORDER BY id LIMIT 500", after)
		if err != nil {
			return fmt.Errorf("reading the store of receipts: %w", err)
		}
		if len(ids) == 0 {
			return nil
		}
		for _, id := range ids {
			after = string(id)
			h, err := s.held(ctx, after)
			if err != nil {
				return fmt.Errorf("reading the store of receipts: %w", err)
			}
			line := Exported{ID: h.ID, Role: s.role, At: h.At, Service: h.Service, State: h.State.String(), Outcome: h.Outcome, Code: h.Code, Receipts: []string{}, Erased: h.Erased}
			for _, r := range h.Receipts {
				line.Receipts = append(line.Receipts, string(r))
			}
			b, err := json.Marshal(line)
			if err != nil {
				return err
			}
			if _, err := w.Write(append(b, '\n')); err != nil {
				return err
			}
		}
	}
}

// Evidence is something that the broker showed and that refutes it.
type Evidence struct {
	Disclosure string
	At         time.Time
	Refutation Refutation
	Shown      []byte
}

// Evidence lists all evidence, oldest first.
func (s *Store) Evidence(ctx context.Context) ([]Evidence, error) {
	rows, err := s.r.QueryContext(ctx, "SELECT id, at, code, detail, bytes FROM evidence ORDER BY n")
	if err != nil {
		return nil, fmt.Errorf("reading the store of receipts: %w", err)
	}
	defer rows.Close()
	var out []Evidence
	for rows.Next() {
		var e Evidence
		var at int64
		if err := rows.Scan(&e.Disclosure, &at, &e.Refutation.Code, &e.Refutation.Detail, &e.Shown); err != nil {
			return nil, fmt.Errorf("reading the store of receipts: %w", err)
		}
		e.At = time.UnixMilli(at).UTC()
		out = append(out, e)
	}
	return out, rows.Err()
}
