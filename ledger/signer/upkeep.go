package signer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// upkeep is what the master does for the tables beside the log.
type upkeep struct {
	s *Signer
	// analyzed is how many leaves there were when the planner was told last.
	analyzed uint64
	grown    chan uint64
}

const (
	pruneEvery = time.Minute
	// upkeepLimit bounds one round: ANALYZE reads a sample of fixed size.
	upkeepLimit = 5 * time.Minute
)

// run works until ctx ends.
func (u *upkeep) run(ctx context.Context) {
	t := time.NewTicker(pruneEvery)
	defer t.Stop()
	u.prune(ctx)
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			u.prune(ctx)
		case size := <-u.grown:
			// Without statistics PostgreSQL takes a tree's leaves for few and reads them all for each of a batch. From the first leaves on it must know better, and at each doubling again: in
			// between, its samples are at most half as large as the truth, which doesn't change the plan.
			if size > 0 && (u.analyzed == 0 || size >= 2*u.analyzed) {
				u.analyze(ctx, size)
			}
		}
	}
}

// told says how large the tree is; it never waits.
func (u *upkeep) told(size uint64) {
	select {
	case <-u.grown:
	default:
	}
	u.grown <- size // nobody else sends
}

func (u *upkeep) analyze(ctx context.Context, size uint64) {
	ctx, cancel := context.WithTimeout(ctx, upkeepLimit)
	defer cancel()
	err := func() error {
		if _, err := u.s.db.Exec(ctx, `ANALYZE LeafData, SequencedLeafData`); err != nil {
			return err
		}
		// Who may not analyze a table gets a warning only.
		var known int
		if err := u.s.db.QueryRow(ctx, `SELECT count(*) FROM pg_stats WHERE schemaname = current_schema() AND tablename IN ('leafdata', 'sequencedleafdata') AND attname = 'treeid'`).Scan(&known); err != nil {
			return err
		}
		if known != 2 {
			return errors.New("PostgreSQL has no statistics after it: the signer's role must own Trillian's tables")
		}
		return nil
	}()
	if err != nil {
		if ctx.Err() == nil {
			u.s.metrics.upkeepErrors.Inc()
			u.s.log.Error("telling PostgreSQL's planner of the tree's size failed: integration may slow down as the tree grows", "error", err)
		}
		return
	}
	u.analyzed = size
	u.s.metrics.analyzed.Set(float64(size))
	u.s.log.Debug("analyzed", "leaves", size)
}

// prune removes old roots but for the newest: there is one for each batch, and nobody asks for an old one.
func (u *upkeep) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, upkeepLimit)
	defer cancel()
	n, err := u.s.pruneRoots(ctx)
	if err != nil {
		if ctx.Err() == nil {
			u.s.metrics.upkeepErrors.Inc()
			u.s.log.Error("removing old roots failed", "error", err)
		}
		return
	}
	u.s.metrics.pruned.Add(float64(n))
}

// pruneRoots keeps the newest KeepRoots roots of the tree and returns how many others it removed.
func (s *Signer) pruneRoots(ctx context.Context) (int64, error) {
	tag, err := s.db.Exec(ctx, `DELETE FROM TreeHead WHERE TreeId = $1 AND TreeHeadTimestamp <
		(SELECT TreeHeadTimestamp FROM TreeHead WHERE TreeId = $1 ORDER BY TreeHeadTimestamp DESC OFFSET $2 LIMIT 1)`, s.tree.TreeId, s.cfg.KeepRoots-1)
	if err != nil {
		return 0, fmt.Errorf("removing roots: %w", err)
	}
	return tag.RowsAffected(), nil
}
