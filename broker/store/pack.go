package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	// packRow is the length at which a row of rolls is full: with what stands beside it, it fills a page of 4096 bytes.
	packRow = 3900
	// packStep is how many filings one transaction moves.
	packStep = 2000
)

// Pack moves a part of the filings of a large closed epoch to where they take less space. It is done when more is false. Nobody who reads notices.
func (s *Store) Pack(ctx context.Context) (more bool, err error) {
	var epoch int64
	// The least epoch that has filings left, by a look at the index for each large one that hasn't. Large is what the index epochs_large has: others take no space to speak of.
	err = s.r.QueryRowContext(ctx, "SELECT e.number FROM epochs e WHERE e.items >= 4096 AND EXISTS (SELECT 1 FROM filings f WHERE f.epoch = e.number) ORDER BY e.number LIMIT 1").Scan(&epoch)
	if err == sql.ErrNoRows {
		return false, nil
	}
	if err != nil {
		return false, classify(err)
	}
	return true, s.keep(ctx, func(t *tx) error { return packSome(t, epoch) })
}

func packSome(t *tx, epoch int64) error {
	var p packer
	var last proof.Label
	n := 0
	err := t.rows("SELECT label, log_index FROM filings WHERE epoch = ? ORDER BY label, log_index LIMIT ?", func(r row) error {
		var label []byte
		var index int64
		if err := r.Scan(&label, &index); err != nil {
			return err
		}
		if len(label) != len(last) {
			return fmt.Errorf("%w: a label of %d bytes", ErrCorrupt, len(label))
		}
		n++
		p.add(ledger.Filing{Label: proof.Label(label), Index: proof.Index(index)})
		return nil
	}, epoch, packStep)
	if err != nil {
		return err
	}
	if n == packStep && p.labels < 2 {
		// A single roll of thousands: all of it at once.
		p = packer{}
		err := t.rows("SELECT label, log_index FROM filings WHERE epoch = ?1 AND label = (SELECT label FROM filings WHERE epoch = ?1 ORDER BY label LIMIT 1) ORDER BY log_index", func(r row) error {
			var label []byte
			var index int64
			err := r.Scan(&label, &index)
			p.add(ledger.Filing{Label: proof.Label(label), Index: proof.Index(index)})
			return err
		}, epoch)
		if err != nil {
			return err
		}
		n = 0
	}
	if n == 0 && p.labels == 0 {
		return nil // another process was faster
	}
	switch {
	case n < packStep:
		p.close()
	case len(p.done) == 0: // the last label may have more: it stays, and so does what doesn't fill a row, but for this
		p.indexes = nil
		p.close()
	}
	for _, b := range p.done {
		if _, err := t.exec("INSERT INTO rolls (epoch, label, entries, packed) VALUES (?, ?, ?, ?)", epoch, b.first[:], int64(b.entries), b.packed); err != nil {
			return err
		}
		last = b.last
	}
	if len(p.done) == 0 {
		return fmt.Errorf("%w: no roll of epoch %d is whole", ErrCorrupt, epoch)
	}
	_, err = t.exec("DELETE FROM filings WHERE epoch = ? AND label <= ?", epoch, last[:])
	return err
}

// packer makes rows of rolls.
type packer struct {
	done []packedRow

	row     packedRow
	labels  int         // in all
	hand    proof.Label // whose indexes come
	indexes []proof.Index
}

type packedRow struct {
	first, last proof.Label
	entries     int
	packed      []byte
}

// add takes filings by increasing label, then index.
func (p *packer) add(f ledger.Filing) {
	if len(p.indexes) > 0 && p.hand != f.Label {
		p.flush()
	}
	if len(p.indexes) == 0 {
		p.labels++
		p.hand = f.Label
	}
	p.indexes = append(p.indexes, f.Index)
}

// flush puts the roll in hand into the row, and begins another row if that is full.
func (p *packer) flush() {
	r := &p.row
	if len(r.packed) == 0 {
		r.first = p.hand
	}
	r.last = p.hand
	roll := append([]byte(nil), r.last[:]...)
	roll = binary.AppendUvarint(roll, uint64(len(p.indexes)))
	before := proof.Index(0)
	for _, i := range p.indexes {
		roll = binary.AppendUvarint(roll, uint64(i-before))
		before = i
	}
	r.packed = append(r.packed, roll...)
	r.entries += len(p.indexes)
	p.indexes = p.indexes[:0]
	if len(r.packed) > packRow-48 {
		p.done = append(p.done, *r)
		p.row = packedRow{}
	}
}

func (p *packer) close() {
	if len(p.indexes) > 0 {
		p.flush()
	}
	if len(p.row.packed) > 0 {
		p.done = append(p.done, p.row)
		p.row = packedRow{}
	}
}

// unpack calls fn for the filings in a row of rolls, of one label alone if only isn't nil.
func unpack(packed []byte, only *proof.Label, fn func(ledger.Filing) error) error {
	wrong := fmt.Errorf("%w: a row of rolls is malformed", ErrCorrupt)
	number := func() (uint64, bool) {
		n, size := binary.Uvarint(packed)
		if size <= 0 {
			return 0, false
		}
		packed = packed[size:]
		return n, true
	}
	for len(packed) > 0 {
		var f ledger.Filing
		if len(packed) < len(f.Label) {
			return wrong
		}
		packed = packed[copy(f.Label[:], packed):]
		n, ok := number()
		if !ok || n == 0 || n > uint64(len(packed)) {
			return wrong
		}
		for range n {
			d, ok := number()
			if !ok {
				return wrong
			}
			f.Index += proof.Index(d)
			if only == nil || *only == f.Label {
				if err := fn(f); err != nil {
					return err
				}
			}
		}
		if only != nil && bytes.Compare(f.Label[:], only[:]) >= 0 {
			return nil
		}
	}
	return nil
}

// FilingsAfter calls fn for the filings of an epoch under labels behind one (nil: all), by increasing label, then index, all as of one moment. What is packed comes first: an epoch is packed from its least label on.
func (s *Store) FilingsAfter(ctx context.Context, epoch proof.Epoch, after *proof.Label, fn func(ledger.Filing) error) error {
	behind := []byte{} // less than every label
	if after != nil {
		behind = after[:]
	}
	snapshot, err := s.r.snapshot(ctx)
	if err != nil {
		return classify(err)
	}
	defer snapshot.Rollback() //nolint:errcheck // it only read
	packed, err := snapshot.QueryContext(ctx, `SELECT packed FROM rolls WHERE epoch = ?1 AND label >= coalesce((SELECT label FROM rolls WHERE epoch = ?1 AND label <= ?2 ORDER BY label DESC LIMIT 1), x'') ORDER BY label`, int64(epoch), behind)
	if err != nil {
		return classify(err)
	}
	defer packed.Close()
	for packed.Next() {
		var row sql.RawBytes
		if err := packed.Scan(&row); err != nil {
			return classify(err)
		}
		err := unpack(row, nil, func(f ledger.Filing) error {
			if bytes.Compare(f.Label[:], behind) <= 0 {
				return nil
			}
			return fn(f)
		})
		if err != nil {
			return err
		}
	}
	if err := packed.Err(); err != nil {
		return classify(err)
	}
	rows, err := snapshot.QueryContext(ctx, "SELECT label, log_index FROM filings WHERE epoch = ? AND label > ? ORDER BY label, log_index", int64(epoch), behind)
	if err != nil {
		return classify(err)
	}
	defer rows.Close()
	for rows.Next() {
		var f ledger.Filing
		var label sql.RawBytes
		var index int64
		if err := rows.Scan(&label, &index); err != nil {
			return classify(err)
		}
		if copy(f.Label[:], label) != len(f.Label) {
			return fmt.Errorf("%w: a label of %d bytes", ErrCorrupt, len(label))
		}
		f.Index = proof.Index(index)
		if err := fn(f); err != nil {
			return err
		}
	}
	return classify(rows.Err())
}

// CountFilings is how many entries of an epoch have a label in the store.
func (s *Store) CountFilings(ctx context.Context, epoch proof.Epoch) (n uint64, err error) {
	err = s.r.QueryRowContext(ctx, "SELECT (SELECT count(*) FROM filings WHERE epoch = ?1) + (SELECT coalesce(sum(entries), 0) FROM rolls WHERE epoch = ?1)", int64(epoch)).Scan(&n)
	return n, classify(err)
}

// Filings implements ledger.Store.
func (s Order) Filings(ctx context.Context, epoch proof.Epoch, fn func(ledger.Filing) error) error {
	return s.FilingsAfter(ctx, epoch, nil, fn)
}

// Roll implements ledger.Store.
func (s Order) Roll(ctx context.Context, epoch proof.Epoch, label proof.Label) ([]proof.Index, error) {
	rows, err := s.r.QueryContext(ctx, "SELECT log_index FROM filings WHERE epoch = ? AND label = ? ORDER BY log_index", int64(epoch), label[:])
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var out []proof.Index
	for rows.Next() {
		var i int64
		if err := rows.Scan(&i); err != nil {
			return nil, classify(err)
		}
		out = append(out, proof.Index(i))
	}
	if err := rows.Err(); err != nil || len(out) > 0 {
		return out, classify(err)
	}
	// A roll moves as a whole: what isn't there is here, or nowhere.
	var packed []byte
	err = s.r.QueryRowContext(ctx, "SELECT packed FROM rolls WHERE epoch = ? AND label <= ? ORDER BY label DESC LIMIT 1", int64(epoch), label[:]).Scan(&packed)
	if err == sql.ErrNoRows {
		return nil, nil
	}
	if err != nil {
		return nil, classify(err)
	}
	err = unpack(packed, &label, func(f ledger.Filing) error {
		out = append(out, f.Index)
		return nil
	})
	return out, err
}
