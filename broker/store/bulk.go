package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// rowsOf is how many rows are inserted at once. On PostgreSQL that is one statement, whatever their number: an array for each column.
type rowsOf struct {
	sqlite   string // INSERT INTO table (columns)
	types    string // of the columns: integer, text, blob
	postgres string // the whole statement, about the columns of u in their order; %s takes unnest's arguments
}

var (
	intoLeaves = &rowsOf{"INSERT INTO leaves (log_index, epoch, kind, identity, text)", "iitbb",
		"INSERT INTO leaves (month, log_index, epoch, kind, identity, text) SELECT (SELECT month FROM epochs WHERE number = u.b), u.* FROM unnest(%s) AS u (a, b, c, d, e)"}
	intoRecords = &rowsOf{"INSERT INTO records (log_index, disclosure, position, owner, person, admin)", "iiibbb", ""}
	intoFilings = &rowsOf{"INSERT OR IGNORE INTO filings (epoch, label, log_index)", "ibi",
		"INSERT INTO filings (epoch, label, log_index) SELECT * FROM unnest(%s) ON CONFLICT DO NOTHING"}
	intoKeys = &rowsOf{"INSERT INTO keys (id, kind, owner, period, wrapped, created)", "btbtbi",
		"INSERT INTO keys (id, kind, owner, period, wrapped, created) SELECT * FROM unnest(%s)"}
	// Only PostgreSQL's.
	intoMonths = &rowsOf{"", "iiibbbi", // with the epoch of the entry
		"INSERT INTO records (month, log_index, disclosure, position, owner, person, admin) SELECT (SELECT month FROM epochs WHERE number = u.g), a, b, c, d, e, f FROM unnest(%s) AS u (a, b, c, d, e, f, g)"}
	intoPayloads = &rowsOf{"", "iib",
		"INSERT INTO payloads (disclosure, until, sealed) SELECT * FROM unnest(%s)"}
	intoHanded = &rowsOf{"", "bbi", // an update: the rows are there
		"UPDATE handed h SET body = NULL, indexes = u.b, epoch = u.c, at = clock_timestamp() FROM unnest(%s) AS u (a, b, c) WHERE h.id = u.a AND h.body IS NOT NULL"}
	intoDeferrals = &rowsOf{"", "iiibbb", // until the time that stands in their disclosure
		`INSERT INTO deferrals (log_index, disclosure, position, due, owner, person, admin) SELECT u.a, u.b, u.c, d.due, u.d, u.e, u.f
		FROM unnest(%s) AS u (a, b, c, d, e, f) JOIN disclosures d ON d.seq = u.b WHERE d.due IS NOT NULL`}
)

// statement is the text for PostgreSQL.
func (r *rowsOf) statement() string { return fmt.Sprintf(r.postgres, arrays(r.types, 1)) }

// arrays are parameters for unnest, from a number on.
func arrays(types string, from int) string {
	var args strings.Builder
	for i, t := range types {
		if i > 0 {
			args.WriteString(", ")
		}
		fmt.Fprintf(&args, "$%d::%s[]", from+i, map[rune]string{'i': "bigint", 't': "text", 'b': "bytea"}[t])
	}
	return args.String()
}

// Columns of begin.
const (
	beginTypes   = "btbbibibibb" // of a disclosure and its intent
	beginKeys    = "btbtbib"     // of a key, and the disclosure that it came with
	beginsAtOnce = 16            // what was stored is found among what was sent by comparing each with each
)

// begin stores disclosures, their intents and keys in one statement, without those whose key is gone, whose person is being erased, or that are decided by what has changed; an erasure doesn't reach what is deferred.
var begin = `WITH u AS MATERIALIZED (SELECT * FROM unnest(` + arrays(beginTypes, 2) + `) AS u (a, b, c, d, e, f, g, h, i, person, admin)),
	d AS (INSERT INTO disclosures (id, agency, idem, body, asked_at, state, owner, due) SELECT u.a, u.b, u.c, u.d, u.e, 0, u.f, u.g FROM u
		WHERE (u.i IS NULL OR u.i = (SELECT number FROM changes WHERE what = 'registry')) AND (u.h IS NULL OR EXISTS (SELECT FROM keys WHERE id = u.h)) AND (u.g IS NOT NULL OR NOT EXISTS (SELECT FROM erasures WHERE owner = u.f AND done = 0) AND NOT EXISTS (SELECT FROM erasing WHERE owner = u.f))
		ON CONFLICT (agency, idem) WHERE idem IS NOT NULL DO NOTHING RETURNING seq, id),
	i AS (INSERT INTO intents (disclosure, person, admin, member) SELECT d.seq, u.person, u.admin, $1 FROM d JOIN u ON u.a = d.id),
	k AS (INSERT INTO keys (id, kind, owner, period, wrapped, created) SELECT a, b, c, d, e, f FROM unnest(` + arrays(beginKeys, 2+len(beginTypes)) + `) AS k (a, b, c, d, e, f, g) WHERE EXISTS (SELECT FROM d WHERE d.id = k.g))
	SELECT seq, id FROM d`

// columns turns values, row by row, into an array a column.
func columns(types string, values []any) ([]any, error) {
	width := len(types)
	out := make([]any, width)
	for c, t := range types {
		var err error
		switch t {
		case 'i':
			out[c], err = column(values, c, width, func(v any) (pgtype.Int8, bool) {
				n, ok := v.(int64)
				return pgtype.Int8{Int64: n, Valid: v != nil}, ok || v == nil
			})
		case 't':
			out[c], err = column(values, c, width, func(v any) (string, bool) { s, ok := v.(string); return s, ok })
		default:
			out[c], err = column(values, c, width, func(v any) ([]byte, bool) { b, ok := v.([]byte); return b, ok || v == nil })
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func column[T any](values []any, first, width int, of func(any) (T, bool)) ([]T, error) {
	out := make([]T, 0, len(values)/width)
	for i := first; i < len(values); i += width {
		v, ok := of(values[i])
		if !ok {
			return nil, fmt.Errorf("store: a %T in column %d", values[i], first)
		}
		out = append(out, v)
	}
	return out, nil
}

// pgTx is a transaction. What is only to be stored waits until something else is asked, or the end, and then goes out at once: a statement that waits for the answer to the one before costs a
// way to the server and back.
type pgTx struct {
	ctx    context.Context
	c      *pgx.Conn
	queue  *pgx.Batch
	checks bool  // of answers that are queued
	wrong  error // what one found
	trips  *atomic.Int64

	epoch    int64           // of the batch that is committed
	keys     []any           // of intoKeys
	done     []int64         // disclosures that have their outcome
	payloads []any           // of intoPayloads
	late     []any           // of intoDeferrals
	placed   []any           // of intoHanded
	tells    bool            // that groups have their place
	changes  map[string]bool // that are counted at the end
	sealed   [][]byte        // keys of records: each has to be stored
	member   int64
}

func (p *pgTx) begin(locks []string) {
	p.queue.Queue("BEGIN")
	for _, l := range locks {
		p.queue.Queue(l)
	}
}

// send carries out what is queued.
func (p *pgTx) send() error {
	if p.queue.Len() == 0 {
		return nil
	}
	p.trips.Add(1)
	err := unavailable(p.c.SendBatch(p.ctx, p.queue).Close())
	p.queue, p.checks = &pgx.Batch{}, false
	if p.wrong != nil { // it was found before anything failed
		err, p.wrong = p.wrong, nil
	}
	return err
}

// ask has a number checked with the next answer.
func (p *pgTx) ask(query string, check func(int64) error) {
	p.checks = true
	p.queue.Queue(query).QueryRow(func(row pgx.Row) error {
		var n int64
		if err := row.Scan(&n); err != nil {
			return err
		}
		if err := check(n); err != nil && p.wrong == nil {
			p.wrong = err
		}
		return nil
	})
}

// commit ends the transaction. It doesn't wait for what is queued, unless that is to be checked: after an error the server takes nothing that was sent with it.
func (p *pgTx) commit() error {
	if err := p.gather(); err != nil {
		return err
	}
	// Last, and in one order: nobody who waits for these rows has anything that is waited for here.
	for _, what := range slices.Sorted(maps.Keys(p.changes)) {
		p.queue.Queue("UPDATE changes SET number = number + 1 WHERE what = $1", what)
	}
	if len(p.changes) > 0 {
		p.queue.Queue("SELECT pg_notify('regard_changed', '')") // it goes out with the commit
		p.checks = true
	}
	if p.checks {
		if err := p.send(); err != nil {
			return err
		}
	}
	// A transaction that failed answers with ROLLBACK, and with no error.
	committed := false
	p.queue.Queue("COMMIT").Exec(func(tag pgconn.CommandTag) error {
		if committed = tag.String() == "COMMIT"; !committed {
			p.wrong = fmt.Errorf("%w: COMMIT was answered with %s", ErrUnavailable, tag)
		}
		return nil
	})
	if p.tells {
		// Behind the commit, whose sync it would else spend with a lock that everybody needs who tells anybody anything, in all databases of the server.
		p.queue.Queue("SELECT pg_notify('regard_placed', '')")
	}
	err := p.send()
	if committed {
		return nil // whoever isn't told looks by itself
	}
	return err
}

func (p *pgTx) exec(query string, args []any) (n int64, err error) {
	if err := p.gather(); err != nil {
		return 0, err
	}
	p.queue.Queue(forPostgres(query), args...).Exec(func(tag pgconn.CommandTag) error {
		n = tag.RowsAffected()
		return nil
	})
	err = p.send()
	return n, err
}

func (p *pgTx) row(query string, args []any) row {
	first := row{err: sql.ErrNoRows}
	err := p.rows(query, func(r row) error {
		if first.err != nil {
			first = r
		}
		return nil
	}, args)
	if err != nil {
		return row{err: err}
	}
	return first
}

// rows calls fn when all rows are there: it may ask for more.
func (p *pgTx) rows(query string, fn func(row) error, args []any) error {
	if err := p.gather(); err != nil {
		return err
	}
	var out []row
	p.queue.Queue(forPostgres(query), args...).Query(func(rows pgx.Rows) error {
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				return err
			}
			r := row{values: make([]driver.Value, len(values))}
			for i, v := range values {
				r.values[i] = v
				if n, ok := v.(int32); ok {
					r.values[i] = int64(n)
				}
			}
			out = append(out, r)
		}
		return rows.Err()
	})
	if err := p.send(); err != nil {
		return err
	}
	for _, r := range out {
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

// insert has rows stored with the next answer.
func (p *pgTx) insert(into *rowsOf, values []any) error {
	if len(values) == 0 {
		return nil
	}
	_, err := p.queued(into, values)
	return err
}

func (p *pgTx) queued(into *rowsOf, values []any) (*pgx.QueuedQuery, error) {
	columns, err := columns(into.types, values)
	if err != nil {
		return nil, err
	}
	return p.queue.Queue(into.statement(), columns...), nil
}

// flush stores what was put off.
func (p *pgTx) flush() error {
	if err := p.gather(); err != nil {
		return err
	}
	return p.send()
}

// gather queues what was put off.
func (p *pgTx) gather() error {
	if len(p.done) > 0 {
		done := p.done
		p.done = nil
		// The state guards against a second outcome.
		p.queue.Queue("UPDATE disclosures SET state = 1 WHERE seq = ANY($1) AND state = 0", done).Exec(p.want(len(done), func() error {
			return fmt.Errorf("store: one of %d disclosures has no open intent", len(done))
		}))
		p.queue.Queue("DELETE FROM intents WHERE disclosure = ANY($1)", done)
	}
	late, placed := len(p.late)/len(intoDeferrals.types), len(p.placed)/len(intoHanded.types)
	p.tells = p.tells || placed > 0
	for _, x := range []struct {
		into      *rowsOf
		values    *[]any
		want      int // 0: any
		otherwise string
	}{
		{intoKeys, &p.keys, 0, ""}, {intoPayloads, &p.payloads, 0, ""}, {intoDeferrals, &p.late, late, "store: a disclosure was not begun as a deferred one"},
		{intoHanded, &p.placed, placed, "store: a group that was handed over has its place already"},
	} {
		values := *x.values
		if *x.values = nil; len(values) == 0 {
			continue
		}
		q, err := p.queued(x.into, values)
		if err != nil {
			return err
		}
		if x.want > 0 {
			q.Exec(p.want(x.want, func() error { return errors.New(x.otherwise) }))
		}
	}
	if sealed := p.sealed; len(sealed) > 0 {
		// Another process may have destroyed a key that the one that sealed still had in memory.
		p.sealed = nil
		p.checks = true
		p.queue.Queue("SELECT EXISTS (SELECT FROM unnest($1::bytea[]) AS u (id) WHERE NOT EXISTS (SELECT FROM keys k WHERE k.id = u.id))", sealed).QueryRow(func(row pgx.Row) error {
			var gone bool
			err := row.Scan(&gone)
			if gone && p.wrong == nil {
				p.wrong = keys.ErrNoKey
			}
			return err
		})
	}
	return nil
}

// want checks how many rows a statement changed.
func (p *pgTx) want(n int, otherwise func() error) func(pgconn.CommandTag) error {
	p.checks = true
	return func(tag pgconn.CommandTag) error {
		if tag.RowsAffected() != int64(n) && p.wrong == nil {
			p.wrong = otherwise()
		}
		return nil
	}
}

func (p *pgTx) saveKeys(ks []*keys.StoredKey) {
	for _, k := range ks {
		if k != nil {
			p.keys = appendKey(p.keys, k)
		}
	}
}

func appendKey(values []any, k *keys.StoredKey) []any {
	var owner any
	if !k.Owner.IsZero() {
		owner = k.Owner[:]
	}
	return append(values, k.ID[:], string(k.Kind), owner, k.Period, k.Wrapped, k.Created.UnixMilli())
}

// beginning is a Begin that waits for its batch.
type beginning struct {
	in    *Intent
	d     Disclosure
	again bool
	err   error // about this one alone
}

// beginAll has all of them stored with the commit. Of those that weren't, findAgain says why.
func (p *pgTx) beginAll(all []*beginning) (left map[ID]*beginning, err error) {
	// In one order everywhere, so that two processes don't wait for each other's keys.
	slices.SortFunc(all, func(a, b *beginning) int {
		return cmp.Or(cmp.Compare(a.in.Agency, b.in.Agency), bytes.Compare(a.in.Idem, b.in.Idem), bytes.Compare(a.in.ID[:], b.in.ID[:]))
	})
	left = make(map[ID]*beginning, len(all))
	for _, x := range all {
		x.d, x.again, x.err = Disclosure{}, false, nil
		if left[x.in.ID] != nil {
			return nil, fmt.Errorf("%w: two disclosures with one id", ErrExists)
		}
		left[x.in.ID] = x
	}
	for some := range slices.Chunk(all, beginsAtOnce) {
		if err := p.beginSome(some, left); err != nil {
			return nil, err
		}
	}
	return left, nil
}

// beginSome queues one statement, which takes those that it stores out of left.
func (p *pgTx) beginSome(some []*beginning, left map[ID]*beginning) error {
	values := make([]any, 0, len(beginTypes)*len(some))
	var fresh []any
	for _, x := range some {
		in := x.in
		var due, key, registry any
		if in.Registry != 0 {
			registry = in.Registry
		}
		if !in.Due.IsZero() {
			due = in.Due.UnixMilli()
		}
		if !in.Key.IsZero() && !slices.ContainsFunc(in.Fresh, func(k *keys.StoredKey) bool { return k != nil && k.ID == in.Key }) {
			key = in.Key[:]
		}
		values = append(values, in.ID[:], in.Agency, in.Idem, in.Body, in.AskedAt.UnixMilli(), in.Owner[:], due, key, registry, in.Person, in.Admin)
		for _, k := range in.Fresh {
			if k != nil {
				fresh = append(appendKey(fresh, k), in.ID[:])
			}
		}
	}
	disclosures, err := columns(beginTypes, values)
	if err != nil {
		return err
	}
	ks, err := columns(beginKeys, fresh)
	if err != nil {
		return err
	}
	p.queue.Queue(begin, slices.Concat([]any{p.member}, disclosures, ks)...).Query(func(rows pgx.Rows) (err error) {
		for rows.Next() {
			var seq int64
			var id []byte
			if err := rows.Scan(&seq, &id); err != nil {
				return err
			}
			x := left[idOf(id)]
			if x == nil {
				return errors.New("store: a disclosure was stored that nobody began")
			}
			delete(left, x.in.ID)
			in := x.in
			x.d = Disclosure{Seq: Seq(seq), ID: in.ID, Agency: in.Agency, Body: in.Body, AskedAt: in.AskedAt, Owner: in.Owner}
		}
		return rows.Err()
	})
	return nil
}

// findAgain says of those that were not stored why, after the transaction: their Idempotency-Key was used before, who may ask has changed, their person is being erased, or a key is gone.
func (p *pgTx) findAgain(left map[ID]*beginning) error {
	if len(left) == 0 {
		return nil
	}
	type used struct{ agency, idem string }
	waiting := map[used][]*beginning{}
	var agencies []string
	var idems, owners [][]byte
	for _, x := range left {
		x.err = keys.ErrNoKey
		owners = append(owners, x.in.Owner[:])
		if x.in.Idem != nil {
			agencies, idems = append(agencies, x.in.Agency), append(idems, x.in.Idem)
			u := used{x.in.Agency, string(x.in.Idem)}
			waiting[u] = append(waiting[u], x)
		}
	}
	erasing := map[keys.Owner]bool{}
	err := p.rows("SELECT owner FROM erasures WHERE done = 0 AND owner = ANY (?1) UNION ALL SELECT owner FROM erasing WHERE owner = ANY (?1)", func(r row) error {
		var b []byte
		err := r.Scan(&b)
		erasing[ownerOf(b)] = true
		return err
	}, []any{owners})
	if err != nil {
		return err
	}
	var registry int64
	if err := p.row("SELECT number FROM changes WHERE what = 'registry'", nil).Scan(&registry); err != nil {
		return err
	}
	for _, x := range left {
		switch {
		case x.in.Registry != 0 && x.in.Registry != registry:
			x.err = ErrStale
		case erasing[x.in.Owner] && x.in.Due.IsZero():
			x.err = ErrErasing
		}
	}
	return p.rows("SELECT d.idem, d.seq, d.id, d.agency, d.body, d.asked_at, d.state, d.owner FROM disclosures d WHERE (d.agency, d.idem) IN (SELECT * FROM unnest(?::text[], ?::bytea[]))", func(r row) error {
		idem, _ := r.values[0].([]byte)
		d, err := scanDisclosure(row{values: r.values[1:]})
		for _, x := range waiting[used{d.Agency, string(idem)}] {
			x.d, x.again, x.err = d, true, nil
		}
		return err
	}, []any{agencies, idems})
}

// inEpoch adds the epoch to rows of records.
func (p *pgTx) inEpoch(values []any) (*rowsOf, []any) {
	width := len(intoRecords.types)
	out := make([]any, 0, len(values)/width*(width+1))
	for ; len(values) > 0; values = values[width:] {
		out = append(append(out, values[:width]...), p.epoch)
	}
	return intoMonths, out
}

// saveOutcome is Outcome.apply for many.
func (p *pgTx) saveOutcome(o *Outcome) {
	p.done = append(p.done, int64(o.Disclosure))
	p.saveKeys(o.Fresh)
	for i := range o.Records {
		// What can't be parsed shows when it is opened.
		if id, err := keys.KeyOf(o.Records[i].Person); err == nil && !id.IsZero() {
			p.sealed = append(p.sealed, id[:])
		}
	}
	if o.Payload != nil {
		p.payloads = append(p.payloads, int64(o.Disclosure), o.Until.UnixMilli(), o.Payload)
	}
}

func (p *pgTx) saveLate(r *Record, index proof.Index, disclosure Seq, position int) {
	p.late = append(p.late, int64(index), int64(disclosure), int64(position), r.Owner[:], r.Person, r.Admin)
}
