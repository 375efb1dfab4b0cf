package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/sync/errgroup"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// have strikes off what the copy has, after checking it.
func (m *Mirror) have(ctx context.Context) error {
	for name, w := range m.lacks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.marker != nil {
			if wholeIndex(ctx, m.disk, *w.marker) == nil {
				delete(m.lacks, name)
			}
			continue
		}
		if b, err := m.disk.Get(ctx, name, reader.MaxBlob); err == nil && sha256.Sum256(b) == w.digest {
			delete(m.lacks, name)
		}
	}
	return nil
}

// wholeIndex reads the whole index of the epoch that a marker closes.
func wholeIndex(ctx context.Context, s reader.Source, marker proof.Marker) error {
	tr, err := openIndex(ctx, s, marker)
	if err != nil {
		return err
	}
	for b, err := range tr.Bundles(ctx, 0, 2) {
		if err == nil {
			err = lowest(ctx, s, indexPrefix(marker), b)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lowest compares a tile of hashes with the entries beside it. A reader of entries needs none, but those of the copy do.
func lowest(ctx context.Context, s reader.Source, prefix string, b reader.Bundle) error {
	if len(b.Leaves) < layout.TileWidth {
		return nil // a partial tile is read when the tree is opened
	}
	name := prefix + layout.TilePath(0, b.First/layout.TileWidth, 0)
	got, err := s.Get(ctx, name, 32*layout.TileWidth)
	if err != nil {
		return err
	}
	for i := range b.Leaves {
		if len(got) != 32*len(b.Leaves) || proof.Hash(got[32*i:32*i+32]) != b.Leaves[i] {
			return fmt.Errorf("%s %w", name, reader.ErrDamaged)
		}
	}
	return nil
}

// indexPrefix returns where the index is served of the epoch that a marker closes.
func indexPrefix(closing proof.Marker) string { return "index/" + (closing.Epoch - 1).String() + "/" }

func openIndex(ctx context.Context, s reader.Source, marker proof.Marker) (*reader.Tree, error) {
	return reader.OpenTree(ctx, s, indexPrefix(marker), 1<<marker.Closed.Bits, marker.Closed.Index)
}

// fetchLacking copies indexes and blobs. What the log doesn't serve as it should is reported and stays lacking.
func (m *Mirror) fetchLacking(ctx context.Context, res *Result) error {
	var mu sync.Mutex
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(m.cfg.Workers)
	var got []string
	for _, name := range slices.Sorted(maps.Keys(m.lacks)) {
		w := m.lacks[name]
		work.Go(func() error {
			err := m.fetch(wctx, name, w)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				got = append(got, name)
			case reader.IsMissing(err) || errors.Is(err, reader.ErrDamaged) || errors.Is(err, reader.ErrRefused):
				res.Missing = append(res.Missing, Missing{name, err.Error()})
			default:
				return err
			}
			return nil
		})
	}
	err := work.Wait()
	for _, name := range got {
		delete(m.lacks, name)
	}
	slices.SortFunc(res.Missing, func(a, b Missing) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return err
}

func (m *Mirror) fetch(ctx context.Context, name string, w want) error {
	if w.marker == nil {
		b, err := m.cfg.Source.Get(ctx, name, reader.MaxBlob)
		if err != nil {
			return err
		}
		if sha256.Sum256(b) != w.digest {
			return reader.ErrDamaged
		}
		return tiles.WriteFile(m.cfg.Dir, name, b)
	}
	tr, err := openIndex(ctx, m.cfg.Source, *w.marker)
	if err != nil {
		return err
	}
	out := tiles.Create(filepath.Join(m.cfg.Dir, filepath.FromSlash(name)))
	for b, err := range tr.Bundles(ctx, 0, 2) {
		if err != nil {
			return err
		}
		for _, e := range b.Entries {
			if err := out.Append(e); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

// For which epochs statements of auditors are asked for at each Sync, and how often for all.
const (
	recentEpochs = 8
	allAudits    = time.Hour
)

// audits copies the statements of auditors about indexes that can be verified and are new.
func (m *Mirror) audits(ctx context.Context) (added int, err error) {
	keys, err := fsck.AuditorKeys(ctx, m.cfg.Source, m.auditors, m.cfg.AuditorKeys)
	if err != nil {
		return 0, err
	}
	// Each key that is known here is kept as well, where readers look for it.
	for _, vkeys := range keys {
		for _, k := range vkeys {
			if err := tiles.WriteFile(m.cfg.Dir, fsck.BlobName(proof.AuditorKey(k)), []byte(k)); err != nil {
				return 0, err
			}
		}
	}
	var mu sync.Mutex
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(m.cfg.Workers)
	// Auditors come days after an epoch, and sometimes much later: the last epochs are asked about each time, all of them now and then.
	first := max(0, len(m.closed)-recentEpochs)
	if now := time.Now(); now.Sub(m.audited) > allAudits {
		first, m.audited = 0, now
	}
	for i := range m.closed[first:] {
		marker := &m.closed[first+i]
		for auditor, vkeys := range keys {
			if len(vkeys) == 0 {
				continue
			}
			work.Go(func() error {
				name := fsck.AuditName(marker.Epoch-1, auditor)
				if _, err := m.disk.Get(wctx, name, reader.MaxAudit); err == nil {
					return nil
				}
				b, err := m.cfg.Source.Get(wctx, name, reader.MaxAudit)
				if reader.IsMissing(err) || errors.Is(err, reader.ErrRefused) {
					return nil
				}
				if err != nil {
					return err
				}
				if fsck.VerifyAudit(b, m.name, *marker, vkeys) != nil {
					return nil // fsck says so; nothing is kept that isn't verified
				}
				mu.Lock()
				added++
				mu.Unlock()
				return tiles.WriteFile(m.cfg.Dir, name, b)
			})
		}
	}
	return added, work.Wait()
}
