package fsck

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/ledger/tiles"
)

// Check looks at what an entry says about something else. An error means that it could not look. What can't be decided because the tree is damaged (t may be nil then) is no finding: the damage is one.
func (c Claim) Check(ctx context.Context, s reader.Source, t *reader.Tree, found func(Finding)) error {
	place := "entry " + c.At.String()
	switch {
	case t == nil && (c.Restart != nil || c.Audit != nil):
	case c.Restart != nil:
		root, err := t.RootAt(ctx, c.Restart.Size)
		if err != nil {
			return unlessDamaged(err)
		}
		if root != c.Restart.Root {
			found(finding(RestartRoot, place, "the tree of size %d has another root", c.Restart.Size))
		}
	case c.Audit != nil:
		for _, end := range []struct {
			what string
			at   proof.Index
		}{{"from", c.Audit.From}, {"the entry after to", c.Audit.To + 1}} {
			text, err := t.Entry(ctx, uint64(end.at))
			if err != nil {
				return unlessDamaged(err)
			}
			if kind, _, err := proof.ParseHead(text); err != nil || kind != proof.KindEpoch {
				found(finding(AuditRange, place, "%s (%d) is not a marker", end.what, end.at))
			}
		}
	case c.Closed != nil:
		return checkIndex(ctx, s, *c.Closed, found)
	default:
		return checkBlob(ctx, s, place, c.Blob, found)
	}
	return nil
}

func unlessDamaged(err error) error {
	if errors.Is(err, reader.ErrDamaged) || reader.IsMissing(err) || errors.Is(err, reader.ErrRefused) {
		return nil
	}
	return err
}

func checkBlob(ctx context.Context, s reader.Source, place string, digest proof.Hash, found func(Finding)) error {
	name := BlobName(digest)
	b, err := s.Get(ctx, name, reader.MaxBlob)
	switch {
	case reader.IsMissing(err):
		found(finding(GovernanceBlob, name, "%s names it, and it is not there", place))
	case errors.Is(err, reader.ErrRefused):
		found(finding(GovernanceBlob, name, "%s names it: %v", place, err))
	case err != nil:
		return err
	case sha256.Sum256(b) != digest:
		found(finding(GovernanceBlob, name, "%s names it, and it has another digest", place))
	}
	return nil
}

// BlobName returns the name under which the bytes of a digest are served.
func BlobName(digest proof.Hash) string { return "blob/" + hex.EncodeToString(digest[:]) }

// indexWorkers is how many files of an index are read at the same time.
const indexWorkers = 2

// checkIndex reads the whole index of the epoch that a marker closes.
func checkIndex(ctx context.Context, s reader.Source, m proof.Marker, found func(Finding)) error {
	c, epoch := m.Closed, m.Epoch-1
	var edge tiles.Edge
	var items uint64
	gap := false
	w := indexWalker(s, epoch, 1<<c.Bits, c.Index, indexWorkers, found)
	type bucket struct { // without the items, of which only the number is needed
		number, items uint64
		right         bool
		err           error
	}
	err := walk(ctx, w, &edge, func(leaf []byte) bucket {
		b, err := proof.ParseBucket(leaf)
		return bucket{b.Number, uint64(len(b.Items)), b.Epoch == epoch && b.Bits == c.Bits, err}
	}, func(first uint64, _ []proof.Hash, _ int, entries []bucket) error {
		gap = gap || entries == nil
		for i, b := range entries {
			n := first + uint64(i)
			place := fmt.Sprintf("%s bucket %d", w.prefix, n)
			switch {
			case b.err != nil:
				found(finding(IndexBucket, place, "%v", b.err))
				gap = true
			case !b.right || b.number != n:
				found(finding(IndexBucket, place, "it says that it is another one, or of another epoch"))
			}
			items += b.items
		}
		return nil
	})
	if errors.Is(err, errLost) {
		return nil // found already
	}
	if err != nil {
		return err
	}
	if !gap && items != c.Items {
		found(finding(IndexItems, w.prefix, "it has %d rolls, the marker of epoch %d says %d", items, m.Epoch, c.Items))
	}
	if edge.Root() != c.Index {
		found(finding(IndexRoot, w.prefix, "it has another root than the marker of epoch %d says", m.Epoch))
	}
	return nil
}
