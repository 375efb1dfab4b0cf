package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// readers is how many files of a log are read at the same time.
const readers = 8

// governance is what a log says in clear, read from its beginning to a checkpoint: markers, bundles, agreements, keys, restarts.
type governance struct {
	markers    []markerAt // by the epoch that they open
	bundles    []change   // digest of the bundle
	agreements map[string][]agreementAt
	keys       []keyAt
	restarts   []restartAt
	deferred   map[proof.Index]proof.Deferred
	opened     map[proof.Index]proof.Index // the first entries that ended these
}

type markerAt struct {
	proof.Marker
	index proof.Index
	leaf  proof.Hash
}

type change struct {
	index  proof.Index
	digest proof.Hash
}

type agreementAt struct {
	proof.AgreementChanged
	index proof.Index
}

type keyAt struct {
	proof.KeyChanged
	index proof.Index
}

type restartAt struct {
	proof.Restart
	index proof.Index
}

// errMarkers: epochs can't be told apart. fsck lists all that is wrong with them.
var errMarkers = errors.New("the log's markers don't follow each other (regard-audit fsck says more)")

// govern reads the whole log, and tells show, if there is one, how far it came. Entries of later versions are passed over: whoever counts entries looks at them again.
func govern(ctx context.Context, tree *reader.Tree, show func(done, total uint64)) (*governance, error) {
	g := &governance{agreements: map[string][]agreementAt{}, deferred: map[proof.Index]proof.Deferred{}, opened: map[proof.Index]proof.Index{}}
	for b, err := range tree.Bundles(ctx, 0, readers) {
		if err != nil {
			return nil, err
		}
		for n, text := range b.Entries {
			i := proof.Index(b.First + uint64(n)) // #nosec G115 -- n < 256
			kind, _, err := proof.ParseHead(text)
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
			if kind.Filed() && kind != proof.KindOpened {
				continue // they are the most, and say nothing here
			}
			e, err := proof.ParseEntry(text)
			if errors.Is(err, proof.ErrUnknown) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
			if err := g.take(i, e, b.Leaves[n]); err != nil {
				return nil, err
			}
		}
		if show != nil {
			show(b.First+uint64(len(b.Entries)), tree.Size())
		}
	}
	if len(g.markers) == 0 {
		return nil, errMarkers
	}
	return g, nil
}

func (g *governance) take(i proof.Index, e proof.Entry, leaf proof.Hash) error {
	switch e := e.(type) {
	case proof.Marker:
		n := len(g.markers)
		if e.Epoch != proof.Epoch(n) || e.At() != i || n > 0 && (e.Closed.Previous != g.markers[n-1].leaf || e.Closed.First != g.markers[n-1].index) {
			return fmt.Errorf("entry %d: %w", i, errMarkers)
		}
		g.markers = append(g.markers, markerAt{e, i, leaf})
	case proof.PolicyActivated:
		g.bundles = append(g.bundles, change{i, e.Bundle})
	case proof.AgreementChanged:
		g.agreements[e.Agreement] = append(g.agreements[e.Agreement], agreementAt{e, i})
	case proof.KeyChanged:
		g.keys = append(g.keys, keyAt{e, i})
	case proof.Restart:
		g.restarts = append(g.restarts, restartAt{e, i})
	case proof.Deferred:
		g.deferred[i] = e
	case proof.Opened:
		if _, twice := g.opened[e.Deferred]; !twice {
			g.opened[e.Deferred] = i
		}
	}
	return nil
}

// epochOf is the number of the epoch in which an entry stands.
func (g *governance) epochOf(i proof.Index) proof.Epoch {
	n, _ := slices.BinarySearchFunc(g.markers, i+1, func(m markerAt, i proof.Index) int { return cmp.Compare(m.index, i) })
	return proof.Epoch(max(n, 1) - 1) // #nosec G115 -- the first entry is a marker
}

// lost says whether the log tells that an entry's details were lost.
func (g *governance) lost(i proof.Index) bool {
	return slices.ContainsFunc(g.restarts, func(r restartAt) bool { return r.Lost.Explains(i, proof.KindDeferred) })
}

// closed is the number of closed epochs.
func (g *governance) closed() proof.Epoch {
	return proof.Epoch(len(g.markers) - 1) // #nosec G115 -- never empty
}

// closedAt is when the epoch of an entry was closed; false while it is open.
func (g *governance) closedAt(i proof.Index) (time.Time, bool) {
	for n := range g.markers {
		if g.markers[n].index > i {
			return g.markers[n].Opened.Time(), true
		}
	}
	return time.Time{}, false
}

// auditor is whose key it is that the log knows by a digest, if it is in force.
func (g *governance) auditor(digest proof.Hash) (id string, ok bool) {
	for _, k := range g.keys {
		if k.Use == proof.UseAuditor && k.Public == digest {
			id, ok = strings.TrimPrefix(k.Key, string(proof.UseAuditor)+"."), k.State == proof.Active
		}
	}
	return id, ok
}

// labelsEnded says whether the log tells the destruction of the key that made the labels of an epoch.
func (g *governance) labelsEnded(m proof.Marker) bool {
	for _, k := range g.keys {
		if k.Use == proof.UseLabel && k.State == proof.Destroyed && k.Public == proof.Hash(m.VRF) {
			return true
		}
	}
	return false
}
