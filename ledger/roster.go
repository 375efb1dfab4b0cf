package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"sort"

	"golang.org/x/sync/errgroup"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// roster is all rolls of an epoch and the tree of its index, in memory: about 90 bytes a roll. Rolls may be changed after it was made, each at the cost of its bucket's path.
type roster struct {
	epoch   proof.Epoch
	seed    [32]byte
	blocks  [][]item // by label: those that were read when it was made. Blocks, so that no growing copies them
	count   int      // items in blocks
	fresh   map[proof.Label]item
	filings uint64

	bits  uint8
	tree  []proof.Hash // of 2^bits buckets: tree[i] has the children tree[2i] and tree[2i+1], the root is tree[1]; nil: to be made
	dirty map[uint64]struct{}
}

type item struct {
	proof.Item
	n uint32 // entries in the roll
}

const blockItems = 1 << 12

// readRoster reads the filings of an epoch and makes their rolls, as many at the same time as workers says.
func (l *Log) readRoster(ctx context.Context, epoch proof.Epoch, seed [32]byte, workers int) (*roster, error) {
	r := &roster{epoch: epoch, seed: seed, fresh: map[proof.Label]item{}, dirty: map[uint64]struct{}{}}
	// First all is read, then computed: a long read keeps the store from folding its log.
	var indexes [][]proof.Index // of the items of a block, one behind the other
	err := l.cfg.Store.Filings(ctx, epoch, func(f Filing) error {
		if r.count == 0 || r.at(r.count-1).Label != f.Label {
			if r.count%blockItems == 0 {
				r.blocks = append(r.blocks, make([]item, 0, blockItems))
				indexes = append(indexes, make([]proof.Index, 0, blockItems))
			}
			b := &r.blocks[len(r.blocks)-1]
			*b = append(*b, item{Item: proof.Item{Label: f.Label}})
			r.count++
		}
		r.at(r.count-1).n++
		r.filings++
		x := &indexes[len(indexes)-1]
		*x = append(*x, f.Index)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading filings: %w", err)
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(workers)
	for b := range r.blocks {
		work.Go(func() error {
			rest := indexes[b]
			for i := range r.blocks[b] {
				it := &r.blocks[b][i]
				var err error
				if it.Root, err = proof.RollRoot(seed, it.Label, rest[:it.n]); err != nil {
					return err
				}
				if rest = rest[it.n:]; i%64 == 0 {
					if err := ctx.Err(); err != nil {
						return err
					}
					runtime.Gosched() // whoever releases something comes first
				}
			}
			indexes[b] = nil
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, fmt.Errorf("making rolls: %w", err)
	}
	return r, nil
}

func (r *roster) at(i int) *item { return &r.blocks[i/blockItems][i%blockItems] }

// find returns the place of the first item of blocks whose label isn't below z.
func (r *roster) find(z proof.Label) int {
	return sort.Search(r.count, func(i int) bool { return compare(r.at(i).Label, z) >= 0 })
}

func compare(a, b proof.Label) int { return slices.Compare(a[:], b[:]) }

// set replaces the roll of a label by that of these entries.
func (r *roster) set(z proof.Label, indexes []proof.Index) error {
	root, err := proof.RollRoot(r.seed, z, indexes)
	if err != nil {
		return err
	}
	it := item{proof.Item{Label: z, Root: root}, uint32(len(indexes))}
	r.filings += uint64(it.n)
	if i := r.find(z); i < r.count && r.at(i).Label == z {
		r.filings -= uint64(r.at(i).n)
		*r.at(i) = it
	} else {
		r.filings -= uint64(r.fresh[z].n)
		r.fresh[z] = it
	}
	if r.tree != nil {
		r.dirty[z.BucketNumber(r.bits)] = struct{}{}
	}
	return nil
}

func (r *roster) items() uint64 { return uint64(r.count + len(r.fresh)) }

// all gives every item by increasing label.
func (r *roster) all() iter.Seq2[proof.Label, proof.Hash] {
	fresh := slices.SortedFunc(maps.Keys(r.fresh), compare)
	return func(yield func(proof.Label, proof.Hash) bool) {
		k := 0
		for i := range r.count {
			it := r.at(i)
			for ; k < len(fresh) && compare(fresh[k], it.Label) < 0; k++ {
				if !yield(fresh[k], r.fresh[fresh[k]].Root) {
					return
				}
			}
			if !yield(it.Label, it.Root) {
				return
			}
		}
		for ; k < len(fresh); k++ {
			if !yield(fresh[k], r.fresh[fresh[k]].Root) {
				return
			}
		}
	}
}

// summary returns what the marker says about the index. What didn't change since it was asked last isn't computed again.
func (r *roster) summary() (proof.IndexSummary, error) {
	k := proof.BucketBits(r.items())
	if r.tree == nil || k != r.bits {
		if err := r.grow(k); err != nil {
			return proof.IndexSummary{}, err
		}
	}
	if err := r.update(); err != nil {
		return proof.IndexSummary{}, err
	}
	return proof.IndexSummary{Items: r.items(), Bits: k, Root: r.tree[1]}, nil
}

// grow makes the tree for a number of bits from all items.
func (r *roster) grow(k uint8) error {
	r.bits, r.tree = k, nil
	tree := make([]proof.Hash, 2<<k)
	n := 0
	_, err := proof.BuildIndex(r.epoch, r.items(), r.all(), func(_ uint64, leaf []byte) error {
		tree[1<<k+n] = proof.LeafHash(leaf)
		n++
		if n%64 == 0 {
			runtime.Gosched()
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i := 1<<k - 1; i >= 1; i-- {
		tree[i] = nodeHash(&tree[2*i], &tree[2*i+1])
	}
	r.tree = tree
	clear(r.dirty)
	return nil
}

// update brings the buckets that changed into the tree, level by level.
func (r *roster) update() error {
	if len(r.dirty) == 0 {
		return nil
	}
	fresh := map[uint64][]proof.Item{}
	for z, it := range r.fresh {
		if b := z.BucketNumber(r.bits); has(r.dirty, b) {
			fresh[b] = append(fresh[b], it.Item)
		}
	}
	row := make([]uint64, 0, len(r.dirty)) // nodes that changed
	for b := range r.dirty {
		bucket := proof.Bucket{Epoch: r.epoch, Bits: r.bits, Number: b, Items: fresh[b]}
		var first proof.Label
		if r.bits > 0 {
			for i := range 8 {
				first[i] = byte(b << (64 - r.bits) >> (56 - 8*i))
			}
		}
		for i := r.find(first); i < r.count && r.at(i).Label.BucketNumber(r.bits) == b; i++ {
			bucket.Items = append(bucket.Items, r.at(i).Item)
		}
		slices.SortFunc(bucket.Items, func(x, y proof.Item) int { return compare(x.Label, y.Label) })
		leaf, err := bucket.Leaf()
		if err != nil {
			return err
		}
		node := uint64(1)<<r.bits + b
		r.tree[node] = proof.LeafHash(leaf)
		row = append(row, node)
	}
	for range r.bits {
		slices.Sort(row)
		up := row[:0]
		for _, node := range row {
			if p := node / 2; len(up) == 0 || up[len(up)-1] != p {
				r.tree[p] = nodeHash(&r.tree[2*p], &r.tree[2*p+1])
				up = append(up, p)
			}
		}
		row = up
	}
	clear(r.dirty)
	return nil
}

func has[K comparable](m map[K]struct{}, k K) bool {
	_, ok := m[k]
	return ok
}

// write makes the index's tiles in a directory, durably; progress is called now and then.
func (r *roster) write(dir string, root proof.Hash, progress func(), watch tiles.Watch) error {
	w := tiles.Create(dir)
	w.Watched(watch)
	w.SyncEvery(16) // about a megabyte: the release path syncs to the same disk
	_, err := proof.BuildIndex(r.epoch, r.items(), r.all(), func(b uint64, leaf []byte) error {
		if b%4096 == 0 {
			progress()
		}
		return w.Append(leaf)
	})
	if err == nil {
		err = w.Flush()
	}
	if err == nil && w.Root() != root {
		err = errors.New("the tiles have another root than the marker states")
	}
	if err != nil {
		return fmt.Errorf("writing the index: %w", err)
	}
	return nil
}
