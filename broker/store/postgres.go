package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/dsn"
)

// Errors of PostgreSQL, by what the caller should do.
var (
	// ErrUnavailable: the database can't be reached, or gave up. What was to be written may have been written. It is tried again by asking again; the store connects anew by itself.
	ErrUnavailable = errors.New("store: the database isn't available")
	// ErrRole: the database role may do less than it has to, or more than it should. Nothing was written.
	ErrRole = errors.New("store: wrong database role")
	// ErrSchema: the database isn't of this version: migrate it, or run the version that did.
	ErrSchema = errors.New("store: the database's schema is of another version")
	// ErrNoKeeper: what changes or deletes what is recorded needs Config.Keeper.
	ErrNoKeeper = errors.New("store: no connection for the keeper is configured")
	// ErrErasing: another process erases the person whom a disclosure is about. Nothing was written; it can be begun when that is done. On SQLite the only process knows by itself.
	ErrErasing = errors.New("store: the person is being erased")
	// ErrPostgres: only an SQLite store does this. A PostgreSQL database is backed up by its own means.
	ErrPostgres = errors.New("store: not of a PostgreSQL database: it is backed up and restored by its own means (pg_dump, archiving)")
)

const (
	// patience bounds a transaction and everything it waits for. A network that drops packets is noticed by nothing else.
	patience = 30 * time.Second
	// stale is how long a connection may lie idle before it is asked whether it is still there.
	stale = time.Second
	// tries bounds how often a transaction is begun anew that others were in the way of.
	tries = 10
)

// impatient are settings of the server for connections that write: a broker that vanished mustn't keep its locks. The times are those of patience, but for one that stops in the middle of a
// transaction, paused or cut off: all others wait for its locks, and another one could lead by then. Only the keeper may take its time.
var impatient = map[string]string{
	"statement_timeout": "25s", "lock_timeout": "20s", "idle_in_transaction_session_timeout": "3s",
	"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3", "tcp_user_timeout": "20s",
}

// The locks of lane.go: numbers that nobody else should use in this database.
const (
	lockRest  = 0x6567617264_0001
	lockAll   = 0x6567617264_0002
	lockOrder = 0x6567617264_0003
)

// Migrate brings a database to the present schema, as the owner of its tables, who isn't the role that serves. There is no way down: what the migrations have under Down is never carried out, and isn't complete. The way back is
// the backup that was made before.
func Migrate(ctx context.Context, address string) (err error) {
	cfg, err := dsn.Parse(address)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	db := stdlib.OpenDB(*cfg)
	defer func() { err = errors.Join(err, db.Close()) }()
	sub, err := fs.Sub(migrations, "migrations/postgres")
	if err != nil {
		return err
	}
	one, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, sub, goose.WithSessionLocker(one))
	if err != nil {
		return err
	}
	if _, err = p.Up(ctx); err != nil {
		return fmt.Errorf("migrating the database: %w", classify(err))
	}
	// Who doesn't own the schema, as in a database that comes from a PostgreSQL before 15, revokes nothing, and no error says so.
	var open bool
	if err := db.QueryRowContext(ctx, "SELECT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE')").Scan(&open); err != nil {
		return fmt.Errorf("migrating the database: %w", classify(err))
	}
	if open {
		return fmt.Errorf("%w: everybody may create functions in the schema public, and so become its owner; as a superuser: REVOKE CREATE ON SCHEMA public FROM PUBLIC", ErrRole)
	}
	return nil
}

func openPostgres(ctx context.Context, cfg Config) (*Store, error) {
	reads, err := dsn.Parse(cfg.Postgres)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	writes := reads.Copy()
	reads.RuntimeParams["default_transaction_read_only"] = "on"
	// Statements look everything up by keys. Without statistics, in a young table, the planner thinks otherwise, and keeps to that while the table grows.
	byKeys(reads)
	s := &Store{path: fmt.Sprintf("the database %s at %s", reads.Database, reads.Host), log: cfg.Logger, mailing: cfg.Mailing, pg: true, member: cfg.Member}
	s.r = newReader(stdlib.OpenDB(*reads), cfg.Readers, true)
	fail := func(err error) (*Store, error) {
		return nil, errors.Join(fmt.Errorf("opening %s: %w", s.path, classify(err)), s.release())
	}
	if err := s.checkSchema(ctx); err != nil {
		return fail(err)
	}
	if err := s.checkRole(ctx); err != nil {
		return fail(err)
	}
	if err := s.checkLocks(ctx); err != nil {
		return fail(err)
	}
	if err := s.reads.prepare(ctx, s.r); err != nil {
		return fail(err)
	}
	hot := writes.Copy()
	byKeys(hot)
	var keeper *pgx.ConnConfig
	if cfg.Keeper != "" {
		if keeper, err = dsn.Parse(cfg.Keeper); err != nil {
			return fail(err)
		}
		if keeper.Database != writes.Database || keeper.Host != writes.Host || keeper.Port != writes.Port {
			return fail(errors.New("the keeper's address is that of another database"))
		}
	}
	// What is this process's own, whoever else connects as the same role.
	name := "regard " + rand.Text()
	lane := func(c *pgx.ConnConfig, before, after []int64) *lane {
		c.RuntimeParams["application_name"] = name
		for setting, value := range impatient {
			c.RuntimeParams[setting] = value
		}
		if c == keeper {
			c.RuntimeParams["idle_in_transaction_session_timeout"] = "30s"
		}
		w := &pgWriter{store: s, cfg: c, before: before, after: after}
		return newLane(w.transact, nil, w.drop)
	}
	s.lanes = lanes{begins: lane(hot, nil, nil), order: lane(hot, nil, []int64{lockOrder}), rest: lane(writes, []int64{lockRest}, nil)}
	s.logins = append(s.logins, writes)
	s.startLooking()
	if keeper != nil {
		s.lanes.keeper = lane(keeper, []int64{lockRest}, nil)
		s.logins = append(s.logins, keeper)
	}
	return s, nil
}

// byKeys has the planner go through indexes wherever it can.
func byKeys(c *pgx.ConnConfig) {
	for _, p := range []string{"enable_seqscan", "enable_hashjoin", "enable_mergejoin"} {
		c.RuntimeParams[p] = "off"
	}
}

// checkSchema compares the version of the database with that of this program.
func (s *Store) checkSchema(ctx context.Context) error {
	names, err := fs.Glob(migrations, "migrations/postgres/*.sql")
	if err != nil {
		return err
	}
	last, err := goose.NumericComponent(names[len(names)-1])
	if err != nil {
		return err
	}
	var at int64
	err = s.r.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&at)
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Code == "42P01" {
		return fmt.Errorf("%w: it is empty; prepare it with Migrate", ErrSchema)
	}
	if err != nil {
		return err
	}
	if at != last {
		return fmt.Errorf("%w: it is at %d, this program at %d", ErrSchema, at, last)
	}
	return nil
}

// checkRole refuses to serve as somebody who could change what is recorded, or make what runs as the owner do it.
func (s *Store) checkRole(ctx context.Context) error {
	var who string
	var mighty bool
	err := s.r.QueryRowContext(ctx, `SELECT current_user, has_table_privilege('leaves', 'UPDATE') OR has_table_privilege('leaves', 'DELETE') OR has_table_privilege('records', 'UPDATE') OR has_table_privilege('records', 'DELETE')
		OR has_schema_privilege('public', 'CREATE') OR pg_has_role('regard_keeper', 'MEMBER')`).Scan(&who, &mighty)
	if err != nil {
		return err
	}
	if mighty {
		return fmt.Errorf("%w: %s may change what is recorded; serve as regard_broker", ErrRole, who)
	}
	return nil
}

// checkLocks warns before the server has too few of them: who looks for something in all months locks all of them, with their indexes.
func (s *Store) checkLocks(ctx context.Context) error {
	var locks, months int
	if err := s.r.QueryRowContext(ctx, "SELECT current_setting('max_locks_per_transaction')::int, (SELECT count(*) FROM pg_inherits WHERE inhparent = 'leaves'::regclass)").Scan(&locks, &months); err != nil {
		return err
	}
	if need := 8 * months; locks < need {
		s.log.Warn("the PostgreSQL server's max_locks_per_transaction is low for so many months: queries may fail when many come at once", "is", locks, "should be", max(256, 2*need))
	}
	return nil
}

// Months lists those months, as numbers such as 202611, whose epochs are all closed, whose person parts seem to be emptied, and whose details are still on the disk, oldest first: one look at the end of each, which is emptied last. On
// SQLite there are none.
func (s *Store) Months(ctx context.Context) (out []int, err error) {
	if !s.pg {
		return nil, nil
	}
	err = s.each(ctx, `SELECT month FROM (SELECT DISTINCT month FROM epochs WHERE month < (SELECT month FROM epochs WHERE closer IS NULL) AND month NOT IN (SELECT month FROM ended_months)) m
		WHERE coalesce((SELECT length(person) FROM records r WHERE r.month = m.month ORDER BY log_index DESC LIMIT 1), 0) = 0 ORDER BY month`, func(scan func(...any) error) error {
		var month int
		err := scan(&month)
		out = append(out, month)
		return err
	})
	return out, err
}

const (
	// detailsAtOnce is of how many records a step of DropDetail copies what stays.
	detailsAtOnce = 5000
	// detailsRest is between two steps: requests come first.
	detailsRest = 10 * time.Millisecond
)

// DropDetail drops, at once and from the disk, what the end of retention left of a month's records, and returns how many there are: all but what tells whose they are, where they stand, and which key sealed them. What stays is copied
// before, in steps that hold up nobody; one that was interrupted is gone on with. ErrNotFound if there is none of it, ErrExists if some are still to be kept. On SQLite it stays.
func (s *Store) DropDetail(ctx context.Context, month int) (n int64, err error) {
	switch {
	case !s.pg:
		return 0, ErrNotFound
	case s.lanes.keeper == nil:
		return 0, ErrNoKeeper
	}
	// As the keeper, and beside everybody: nobody stores anything about a month that has ended, and a large one takes its time.
	c, err := pgx.ConnectConfig(ctx, s.logins[len(s.logins)-1])
	if err != nil {
		return 0, classify(err)
	}
	defer c.Close(context.WithoutCancel(ctx)) //nolint:errcheck // nothing is under way on it
	if _, err := c.Exec(ctx, "SET statement_timeout = 0"); err != nil {
		return 0, classify(err)
	}
	for {
		var done bool
		err := c.QueryRow(ctx, "SELECT copied, done FROM drop_detail($1, $2, $3)", month, keys.Overhead, detailsAtOnce).Scan(&n, &done)
		var pe *pgconn.PgError
		switch {
		case errors.As(err, &pe) && pe.Code == "55006":
			return 0, fmt.Errorf("%w: %s", ErrExists, pe.Message)
		case err != nil || done:
			return n, classify(err)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(detailsRest):
		}
	}
}

// pgWriter owns the connection of a lane.
type pgWriter struct {
	store         *Store
	cfg           *pgx.ConnConfig
	before, after []int64 // locks, before and after lockAll
	c             *pgx.Conn
	used          time.Time
}

func (w *pgWriter) transact(batch []*job) error {
	for n := 1; ; n++ {
		err := w.try(batch)
		if err == nil || n == tries || !inTheWay(err) {
			return err
		}
		// Nothing was written, and who was in the way has been let through.
	}
}

// connect makes sure that there is a connection. After a pause it asks: a server that was started again doesn't tell.
func (w *pgWriter) connect(ctx context.Context) (err error) {
	if w.c != nil && !w.c.IsClosed() && (time.Since(w.used) < stale || w.c.Ping(ctx) == nil) {
		return nil
	}
	w.drop()
	if w.c, err = pgx.ConnectConfig(ctx, w.cfg); err != nil {
		w.c = nil
		return err
	}
	if err := sendBlobs(w.c.TypeMap()); err != nil {
		return err
	}
	// What is acknowledged has to be on the disk, whatever the server's default.
	_, err = w.c.Exec(ctx, "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")
	return err
}

func (w *pgWriter) drop() {
	if w.c != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = w.c.Close(ctx) // it is of no use any more
		w.c = nil
	}
}

func (w *pgWriter) try(batch []*job) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.connect(ctx); err != nil {
		w.drop()
		return fmt.Errorf("%w (%w)", ErrUnavailable, err)
	}
	defer func() {
		if err != nil && w.c != nil {
			if _, rerr := w.c.Exec(ctx, "ROLLBACK"); rerr != nil || w.c.PgConn().TxStatus() != 'I' {
				w.drop()
			}
		}
		w.used = time.Now()
	}()
	p := &pgTx{ctx: ctx, c: w.c, queue: &pgx.Batch{}, trips: &w.store.stats.Trips, member: w.store.member}
	t := &tx{pg: p, mailing: w.store.mailing}
	p.begin(w.locks(batch))
	var begins []*beginning
	for _, j := range batch {
		if j.begin != nil {
			begins = append(begins, j.begin)
			continue
		}
		if err := j.do(t); err != nil {
			return err
		}
	}
	var left map[ID]*beginning
	if len(begins) > 0 {
		if left, err = p.beginAll(begins); err != nil {
			return err
		}
	}
	if err := p.commit(); err != nil {
		return err
	}
	w.store.stats.Commits.Add(1)
	w.store.stats.Jobs.Add(int64(len(batch)))
	if err := p.findAgain(left); err != nil { // the others are stored
		for _, x := range left {
			x.err = classify(err)
		}
		w.drop()
	}
	return nil
}

// locks of a batch, in the order of lane.go.
func (w *pgWriter) locks(batch []*job) (out []string) {
	exclusive := func(locks ...int64) {
		for _, n := range locks {
			out = append(out, fmt.Sprintf("SELECT pg_advisory_xact_lock(%d)", n))
		}
	}
	exclusive(w.before...)
	if slices.ContainsFunc(batch, func(j *job) bool { return j.alone }) {
		exclusive(lockAll)
	} else {
		out = append(out, fmt.Sprintf("SELECT pg_advisory_xact_lock_shared(%d)", int64(lockAll)))
	}
	exclusive(w.after...)
	return out
}

// unavailable marks an error of the connection. One that the server gave has its own class.
func unavailable(err error) error {
	var pe *pgconn.PgError
	if err == nil || errors.As(err, &pe) || errors.Is(err, sql.ErrNoRows) {
		return err
	}
	return fmt.Errorf("%w (%v)", ErrUnavailable, err)
}

// inTheWay: another transaction was, and this one can begin anew.
func inTheWay(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (pe.Code == "40001" || pe.Code == "40P01")
}

func classifyPostgres(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		// https://www.postgresql.org/docs/15/errcodes-appendix.html
		switch class := pe.Code[:2]; {
		case pe.Code == "53100":
			return fmt.Errorf("%w (%v)", ErrFull, err)
		case class == "XX" && pe.Code != "XX000":
			return fmt.Errorf("%w (%v)", ErrCorrupt, err)
		case pe.Code == "42501":
			return fmt.Errorf("%w (%w)", ErrRole, err)
		// No room for more, ended or ending by the administrator, timeouts, others in the way for too long, read only: it is a standby now.
		case class == "08", class == "53", class == "57", class == "58", class == "40", pe.Code == "55P03", pe.Code == "25006", pe.Code == "25P03":
			return fmt.Errorf("%w (%w)", ErrUnavailable, err)
		}
		return err
	}
	var ne net.Error
	var ce *pgconn.ConnectError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &ce), errors.As(err, &ne), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, driver.ErrBadConn), errors.Is(err, net.ErrClosed), errors.Is(err, sql.ErrConnDone), pgconn.SafeToRetry(err):
		return fmt.Errorf("%w (%w)", ErrUnavailable, err)
	}
	return err
}

func isUniquePostgres(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && pe.Code == "23505"
}

// isOfWhatIsStored says of an error that PostgreSQL works, and fails at what it is given: a limit of its own, an exception of a trigger, an internal error.
func isOfWhatIsStored(err error) bool {
	var pe *pgconn.PgError
	return errors.As(err, &pe) && (strings.HasPrefix(pe.Code, "54") || strings.HasPrefix(pe.Code, "P0") || pe.Code == "XX000")
}

func isRefusedPostgres(err error) bool {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		return strings.HasPrefix(pe.Code, "22") || strings.HasPrefix(pe.Code, "23")
	}
	return !errors.Is(err, ErrUnavailable)
}
