package store

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// An Attachment is what goes into the store in the transaction that gives entries their place in the log. The types of this package are the only ones.
type Attachment interface {
	apply(t *tx, leaves []ledger.Leaf) error
}

// Order is the part of the store that the log needs (ledger.Store), but for Unfiled: whose entry it is is sealed, and the store has no keys.
//
// Term is the number of the term in which this process leads, where others may too, see package cluster: Commit stores nothing in another one's term. 0: there are no others.
type Order struct {
	*Store
	Term int64
}

// ErrTerm: another process leads by now.
var ErrTerm = errors.New("store: another process leads the log")

// Lead waits until nothing of an earlier term is being stored. From then on nothing of it is: what Tail returns stays so until this process commits. A transaction that stands in the way for too long, of
// a leader that was paused or cut off in the middle of it, is ended.
func (s Order) Lead(ctx context.Context) error {
	if s.pg && s.Term != 0 {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go s.clear(ctx)
	}
	done := make(chan error, 1)
	go func() { done <- s.submit(ctx, s.lanes.order, &job{done: make(chan error, 1), do: s.inTerm}) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done(): // it writes nothing: there is no outcome to wait for
		return ctx.Err()
	}
}

const selectTerm = "SELECT term FROM lease"

func (s Order) inTerm(t *tx) error {
	if s.Term == 0 || t.pg == nil {
		return nil
	}
	var term int64
	if err := t.row(selectTerm).Scan(&term); err != nil {
		return err
	}
	if term != s.Term {
		return ErrTerm
	}
	return nil
}

// Tail implements ledger.Store, in one read transaction.
func (s Order) Tail(ctx context.Context) (ledger.Tail, error) {
	var t ledger.Tail
	snapshot, err := s.r.snapshot(ctx)
	if err != nil {
		return t, classify(err)
	}
	defer snapshot.Rollback() //nolint:errcheck // it only read
	var next sql.NullInt64
	if err := snapshot.QueryRowContext(ctx, "SELECT max(log_index) FROM leaves").Scan(&next); err != nil {
		return t, classify(err)
	}
	if !next.Valid {
		return t, nil
	}
	t.Next = proof.Index(next.Int64 + 1)
	open, err := scanEpoch(snapshot.QueryRowContext(ctx, selectEpoch+" WHERE closer IS NULL"))
	if err != nil {
		return t, fmt.Errorf("reading the open epoch: %w", err)
	}
	t.Open = &open.OpenEpoch
	t.Counts = map[proof.Kind]uint64{}
	rows, err := snapshot.QueryContext(ctx, "SELECT kind, count(*) FROM leaves WHERE log_index >= ? GROUP BY kind", int64(open.Marker))
	if err != nil {
		return t, classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var kind string
		var n uint64
		if err := rows.Scan(&kind, &n); err != nil {
			return t, classify(err)
		}
		t.Counts[proof.Kind(kind)] = n
	}
	return t, classify(rows.Err())
}

// Next implements ledger.Store: one look at the end of an index.
func (s Order) Next(ctx context.Context) (proof.Index, error) {
	var next int64
	if err := s.r.QueryRowContext(ctx, selectNext(s.pg)).Scan(&next); err != nil {
		return 0, classify(err)
	}
	return proof.Index(next), nil
}

// selectNext asks for the end of the order. On PostgreSQL it is in one partition, that of the open epoch.
func selectNext(pg bool) string {
	if pg {
		return "SELECT coalesce(max(log_index) + 1, 0) FROM leaves WHERE month = (SELECT month FROM epochs WHERE closer IS NULL)"
	}
	return "SELECT coalesce(max(log_index) + 1, 0) FROM leaves"
}

// Commit implements ledger.Store.
func (s Order) Commit(ctx context.Context, b *ledger.Batch) error {
	err := s.submit(ctx, s.lanes.order, &job{done: make(chan error, 1), do: func(t *tx) error {
		var misplaced error // the batch as a whole
		err := s.store(t, b, &misplaced)
		if misplaced != nil { // what else is wrong follows from that
			return misplaced
		}
		return err
	}})
	if isOfWhatIsStored(err) {
		return fmt.Errorf("%w: %w", ledger.ErrAlone, err)
	}
	return err
}

// store stores a batch. On PostgreSQL whether it is the next one of this term is asked together with it: what that finds comes before what storing it does, and nothing is committed before all is known.
func (s Order) store(t *tx, b *ledger.Batch, misplaced *error) error {
	isNext := func(next int64) error {
		if next == int64(b.First) || *misplaced != nil {
			return *misplaced
		}
		*misplaced = fmt.Errorf("store: the batch begins at log index %d, the log ends at %d", b.First, next)
		return *misplaced
	}
	if t.pg != nil {
		if s.Term != 0 {
			t.pg.ask(selectTerm, func(term int64) error {
				if term != s.Term {
					*misplaced = ErrTerm
				}
				return *misplaced
			})
		}
		t.pg.ask(selectNext(true), isNext)
	} else {
		var next int64
		if err := t.row(selectNext(false)).Scan(&next); err != nil {
			return err
		}
		if err := isNext(next); err != nil {
			return err
		}
	}
	if b.Closes != nil {
		if err := closeEpoch(t, b.Closes); err != nil {
			return err
		}
	}
	if b.Opens != nil {
		if err := openEpoch(t, b.Opens); err != nil {
			return err
		}
	}
	var leaves []any
	for _, g := range b.Groups {
		for i := range g.Leaves {
			leaves = appendLeaf(leaves, &g.Leaves[i])
		}
	}
	if err := t.insert(intoLeaves, leaves); err != nil {
		return err
	}
	if t.pg != nil && len(leaves) > 0 { // a batch is of one epoch: who turns it begins a new batch
		t.pg.epoch = leaves[1].(int64)
	}
	for _, g := range b.Groups {
		if err := attach(t, g.Attach, g.Leaves); err != nil {
			return err
		}
	}
	return refused(t.flush())
}

func appendLeaf(values []any, l *ledger.Leaf) []any {
	return append(values, int64(l.Index), int64(l.Epoch), string(l.Kind), l.Identity[:], l.Text)
}

// attach stores what comes with a group. What is wrong with the attachment, and not with the disk, wraps ledger.ErrRefused: the other groups go on without it.
func attach(t *tx, what any, leaves []ledger.Leaf) error {
	if what == nil {
		return nil
	}
	a, ok := what.(Attachment)
	if !ok {
		return fmt.Errorf("%w: a %T can't be stored with an entry", ledger.ErrRefused, what)
	}
	return refused(a.apply(t, leaves))
}

func refused(err error) error {
	if err == nil || !isRefused(err) {
		return err
	}
	return fmt.Errorf("%w: %w", ledger.ErrRefused, err)
}

func openEpoch(t *tx, e *ledger.OpenEpoch) error {
	if t.pg != nil {
		if err := t.row("SELECT make_months(month_of(?))", e.Opened.UnixMilli()).err; err != nil {
			return err
		}
	}
	_, err := t.exec("INSERT INTO epochs (number, marker, text, opened, until, label_key, filed_upto) VALUES (?, ?, ?, ?, ?, ?, ?)",
		int64(e.Number), int64(e.Marker), e.Text, e.Opened.UnixMilli(), e.Until.UnixMilli(), e.LabelKey, int64(e.Marker))
	return err
}

func closeEpoch(t *tx, e *ledger.ClosedEpoch) error {
	n, err := t.exec("UPDATE epochs SET closer = ?, size = ?, items = ?, bits = ?, root = ? WHERE number = ? AND closer IS NULL",
		int64(e.Closer), int64(e.Size), int64(e.Items), int64(e.Bits), e.Root[:], int64(e.Number))
	if err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("store: epoch %d isn't open", e.Number)
	}
	return nil
}

// Leaves implements ledger.Store.
func (s Order) Leaves(ctx context.Context, from, to proof.Index, fn func(ledger.Leaf) error) error {
	rows, err := s.r.QueryContext(ctx, "SELECT log_index, epoch, kind, identity, text FROM leaves WHERE log_index >= ? AND log_index < ? ORDER BY log_index", int64(from), int64(to))
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var l ledger.Leaf
		var index, epoch int64
		var kind string
		var identity []byte
		if err := rows.Scan(&index, &epoch, &kind, &identity, &l.Text); err != nil {
			return classify(err)
		}
		if index != int64(from) || len(identity) != len(l.Identity) {
			return fmt.Errorf("%w: leaf %d is missing or malformed", ErrCorrupt, from)
		}
		l.Index, l.Epoch, l.Kind = proof.Index(index), proof.Epoch(epoch), proof.Kind(kind)
		copy(l.Identity[:], identity)
		if err := fn(l); err != nil {
			return err
		}
		from++
	}
	if err := rows.Err(); err != nil {
		return classify(err)
	}
	if from != to {
		return fmt.Errorf("%w: leaf %d is missing", ErrCorrupt, from)
	}
	return nil
}

// UnfiledRow is a filed-kind entry without a label, with its person part as sealed.
type UnfiledRow struct {
	Index  proof.Index
	Owner  keys.Owner
	Person []byte
}

// UnfiledRows lists filed-kind entries of an epoch that have no label yet, lowest index first.
func (s Order) UnfiledRows(ctx context.Context, epoch proof.Epoch, limit int) ([]UnfiledRow, error) {
	var upto int64
	if err := s.reads.filedUpto.QueryRowContext(ctx, int64(epoch)).Scan(&upto); err != nil {
		return nil, classify(err)
	}
	rows, err := s.reads.unfiled.QueryContext(ctx, upto, int64(epoch), limit)
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var out []UnfiledRow
	for rows.Next() {
		var u UnfiledRow
		var index int64
		var owner sql.RawBytes
		if err := rows.Scan(&index, &owner, &u.Person); err != nil {
			return nil, classify(err)
		}
		if copy(u.Owner[:], owner) != len(u.Owner) {
			return nil, fmt.Errorf("%w: record %d is malformed", ErrCorrupt, index)
		}
		u.Index = proof.Index(index)
		out = append(out, u)
	}
	return out, classify(rows.Err())
}

// File implements ledger.Store. Filings come lowest index first, as UnfiledRows gives them. What has a label already keeps it: an entry may have been skipped since.
func (s Order) File(ctx context.Context, epoch proof.Epoch, filings []ledger.Filing) error {
	if len(filings) == 0 {
		return nil
	}
	last := filings[len(filings)-1].Index
	// In the order of the table, so that rows of one page come one after the other.
	filings = slices.SortedFunc(slices.Values(filings), func(a, b ledger.Filing) int {
		return cmp.Or(bytes.Compare(a.Label[:], b.Label[:]), cmp.Compare(a.Index, b.Index))
	})
	for i := range filings {
		last = max(last, filings[i].Index)
	}
	return s.do(ctx, func(t *tx) error {
		var upto int64
		if err := t.row("SELECT filed_upto FROM epochs WHERE number = ?"+t.or("", " FOR UPDATE"), int64(epoch)).Scan(&upto); err != nil {
			return err
		}
		values := make([]any, 0, 3*len(filings))
		for i := range filings {
			if f := &filings[i]; int64(f.Index) >= upto {
				values = append(values, int64(epoch), f.Label[:], int64(f.Index))
			}
		}
		if err := t.insert(intoFilings, values); err != nil {
			return err
		}
		_, err := t.exec("UPDATE epochs SET filed_upto = CASE WHEN filed_upto < ?1 THEN ?1 ELSE filed_upto END WHERE number = ?2", int64(last+1), int64(epoch))
		return err
	})
}

const selectEpoch = "SELECT number, marker, text, opened, until, label_key, closer, size, items, bits, root FROM epochs"

func scanEpoch(row interface{ Scan(...any) error }) (ledger.ClosedEpoch, error) {
	var e ledger.ClosedEpoch
	var number, marker, opened, until int64
	var closer, size, items, bits sql.NullInt64
	var root []byte
	if err := row.Scan(&number, &marker, &e.Text, &opened, &until, &e.LabelKey, &closer, &size, &items, &bits, &root); err != nil {
		return e, classify(err)
	}
	e.Number, e.Marker = proof.Epoch(number), proof.Index(marker)
	e.Opened, e.Until = time.UnixMilli(opened).UTC(), time.UnixMilli(until).UTC()
	e.Closer, e.Size, e.Items, e.Bits = proof.Index(closer.Int64), uint64(size.Int64), uint64(items.Int64), uint8(bits.Int64)
	copy(e.Root[:], root)
	return e, nil
}

// Epoch implements ledger.Store.
func (s Order) Epoch(ctx context.Context, n proof.Epoch) (ledger.ClosedEpoch, error) {
	e, err := scanEpoch(s.r.QueryRowContext(ctx, selectEpoch+" WHERE number = ? AND closer IS NOT NULL", int64(n)))
	if errors.Is(err, ErrNotFound) {
		return e, fmt.Errorf("epoch %d: %w", n, ledger.ErrNotFound)
	}
	return e, err
}

// EpochOf implements ledger.Store.
func (s Order) EpochOf(ctx context.Context, i proof.Index) (proof.Epoch, error) {
	var n int64
	err := classify(s.r.QueryRowContext(ctx, "SELECT epoch FROM leaves WHERE log_index = ?", int64(i)).Scan(&n))
	if errors.Is(err, ErrNotFound) {
		return 0, fmt.Errorf("log index %d: %w", i, ledger.ErrNotFound)
	}
	return proof.Epoch(n), err
}
