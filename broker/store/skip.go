package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// ErrNotNext: another entry is the next to be filed. Nothing was changed.
var ErrNotNext = errors.New("store: this entry isn't the next to be filed")

// skippedPrefix begins the names of notes about skipped entries that the log hasn't declared yet.
const skippedPrefix = "skipped "

// Skip files the next entry without a label under one that is nobody's: every filed entry stands in exactly one roll, and whose this one is can't be known any more. From then on its record
// counts as lost. The log has to declare it: Skipped lists it until then.
func (s *Store) Skip(ctx context.Context, index proof.Index, reason string) error {
	return s.alone(ctx, func(t *tx) error {
		var epoch, upto, next int64
		if err := t.row("SELECT number, filed_upto FROM epochs WHERE closer IS NULL").Scan(&epoch, &upto); err != nil {
			return err
		}
		if err := t.row("SELECT coalesce(min(log_index), -1) FROM records WHERE log_index >= ?", upto).Scan(&next); err != nil {
			return err
		}
		if next != int64(index) {
			return ErrNotNext
		}
		var label proof.Label
		if _, err := rand.Read(label[:]); err != nil {
			return err
		}
		if _, err := t.exec("INSERT INTO filings (epoch, label, log_index) VALUES (?, ?, ?)", epoch, label[:], int64(index)); err != nil {
			return err
		}
		if _, err := t.exec("UPDATE epochs SET filed_upto = ? WHERE number = ?", int64(index)+1, epoch); err != nil {
			return err
		}
		if _, err := t.exec("INSERT INTO meta (name, value) VALUES (?, ?)", skippedPrefix+index.String(), reason); err != nil {
			return err
		}
		_, err := t.exec("INSERT INTO meta (name, value) VALUES (?, ?)", lostPrefix+index.String(), strconv.FormatUint(uint64(index)+1, 10))
		return err
	})
}

// Skipped is an entry that was skipped.
type Skipped struct {
	Index  proof.Index
	Reason string // token
}

// Skipped lists what was skipped and isn't declared in the log.
func (s *Store) Skipped(ctx context.Context) ([]Skipped, error) {
	var out []Skipped
	err := s.each(ctx, "SELECT name, value FROM meta WHERE name >= 'skipped 0' AND name < 'skipped :' ORDER BY name", func(scan func(...any) error) error {
		var name string
		var k Skipped
		if err := scan(&name, &k.Reason); err != nil {
			return err
		}
		n, err := strconv.ParseUint(strings.TrimPrefix(name, skippedPrefix), 10, 63)
		k.Index = proof.Index(n)
		out = append(out, k)
		return err
	})
	return out, err
}

// SkipDeclared is attached to the entry that declares a skipped one.
type SkipDeclared struct{ Index proof.Index }

func (d *SkipDeclared) apply(t *tx, _ []ledger.Leaf) error {
	name := skippedPrefix + d.Index.String()
	var n int64
	if err := t.row("SELECT count(*) FROM meta WHERE name = ?", name).Scan(&n); err != nil {
		return err
	}
	if n != 1 {
		return fmt.Errorf("store: entry %d isn't waiting to be declared", d.Index)
	}
	_, err := t.exec("DELETE FROM meta WHERE name = ?", name)
	return err
}
