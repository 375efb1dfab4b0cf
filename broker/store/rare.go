package store

import (
	"context"

	"github.com/regard-broker/regard/ledger/proof"
)

const selectRare = "SELECT log_index, text FROM leaves WHERE kind IN ('deferred@v1', 'key@v1', 'opened@v1', 'restart@v1') AND kind = ? AND log_index < ? ORDER BY log_index"

// Rare calls fn for all entries of a kind below a log index, in order: of kind deferred, key, opened or restart, which few entries are.
func (s *Store) Rare(ctx context.Context, kind proof.Kind, below proof.Index, fn func(proof.Index, []byte) error) error {
	return s.each(ctx, selectRare,
		func(scan func(...any) error) error {
			var index int64
			var text []byte
			if err := scan(&index, &text); err != nil {
				return err
			}
			return fn(proof.Index(index), text)
		}, string(kind), int64(below))
}
