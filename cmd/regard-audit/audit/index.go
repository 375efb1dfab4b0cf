package audit

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// Faults that an index can have, by their codes.
var indexFaults = map[string]string{
	"entry.epoch":     "An entry says that it is of another epoch than the one it stands in.",
	"entry.malformed": "An entry is not in canonical form.",
	"entry.unfiled":   "A filed entry is in no roll: its person isn't shown it.",
	"index.counts":    "The marker counts other entries than the epoch has.",
	"index.form":      "The rolls make no index.",
	"index.items":     "The marker states another number of rolls.",
	"index.root":      "The index of these rolls has another root than the marker states: others may be shown other rolls.",
	"roll.foreign":    "A roll holds what is no filed entry of the epoch.",
	"roll.lost":       "An entry that is nobody's, since its details were lost, stands in a roll with others.",
	"roll.malformed":  "A roll has another form than it must have.",
	"roll.order":      "Labels don't increase from page to page.",
	"roll.twice":      "An entry is in two rolls.",
	"rolls.form":      "What the broker sends is no page of rolls of this epoch.",
	"rolls.withheld":  "The broker doesn't open the rolls, for a reason that the log doesn't know of.",
}

// Why there may be no rolls any more, by the codes with which the broker refuses them: the log has to say so as well.
var goneBecause = map[string]string{
	"rolls.lost":    "restart@v1 says that details of its entries were lost",
	"rolls.retired": "key@v1 says that the key of its labels was destroyed",
}

// fault is what is wrong with an index.
type fault struct {
	Code  string `json:"code"`
	Place string `json:"place"`
	Text  string `json:"text,omitempty"`
}

// maxFaults bounds the list; all are counted.
const maxFaults = 100

// indexReport is what was found about the index of an epoch.
type indexReport struct {
	Epoch   uint64  `json:"epoch"`
	Entries uint64  `json:"entries"` // filed
	Rolls   uint64  `json:"rolls"`
	Lost    uint64  `json:"lost"` // filed entries whose details are lost: nobody can tell whose they are
	Count   int     `json:"faults"`
	Faults  []fault `json:"list"`
	// Gone is why there are no rolls any more, a code that the log explains: nobody can check the epoch.
	Gone string `json:"gone,omitempty"`
	// Auditor and Path: where the statement is published; empty if there is none.
	Auditor string `json:"auditor,omitempty"`
	Path    string `json:"path,omitempty"`
	Signed  bool   `json:"signed"`
}

func (r *indexReport) fault(code, place, format string, args ...any) {
	if r.Count++; r.Count <= maxFaults {
		r.Faults = append(r.Faults, fault{code, place, fmt.Sprintf(format, args...)})
	}
}

// indexCheck checks the index of a closed epoch against its rolls and the public log.
type indexCheck struct {
	origin string
	tree   *reader.Tree
	gov    *governance
	broker *broker
	epoch  proof.Epoch
	opener markerAt
	closer markerAt

	report  indexReport
	filed   bitmap // by place in the epoch
	seen    bitmap
	restart bool                 // one that is in order says that details of its entries were lost
	alone   map[proof.Index]bool // lost in a way that puts them into rolls of their own
}

// bitmap has one bit for each entry of an epoch.
type bitmap []uint64

func newBitmap(n uint64) bitmap      { return make(bitmap, n/64+1) }
func (b bitmap) has(i uint64) bool   { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitmap) set(i uint64)        { b[i/64] |= 1 << (i % 64) }
func atEntry(i proof.Index) string   { return "entry " + i.String() }
func atRoll(z proof.Label) string    { return "roll " + base64.RawURLEncoding.EncodeToString(z[:]) }
func (c *indexCheck) first() uint64  { return uint64(c.opener.index) }
func (c *indexCheck) behind() uint64 { return uint64(c.closer.index) }

// checkIndex returns an error if the index can't be checked; faults are in the report.
func checkIndex(ctx context.Context, l *openLog, b *broker, epoch proof.Epoch) (*indexCheck, error) {
	g := l.gov
	if epoch >= g.closed() {
		return nil, fmt.Errorf("epoch %d isn't closed: the log stands in epoch %d", epoch, g.closed())
	}
	c := &indexCheck{origin: l.cp.Origin(), tree: l.tree, gov: g, broker: b, epoch: epoch, opener: g.markers[epoch], closer: g.markers[epoch+1], alone: map[proof.Index]bool{}}
	c.report.Epoch, c.report.Faults = uint64(epoch), []fault{}
	c.filed, c.seen = newBitmap(c.closer.Closed.Size), newBitmap(c.closer.Closed.Size)
	if err := c.lost(ctx); err != nil {
		return nil, err
	}
	if err := c.entries(ctx); err != nil {
		return nil, err
	}
	if err := c.rolls(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// lost finds out which filed entries are nobody's (docs/formats.md, section 3).
func (c *indexCheck) lost(ctx context.Context) error {
	for _, r := range c.gov.restarts {
		if r.Lost.From == 0 || uint64(r.Lost.To) < c.first() || uint64(r.Lost.From) >= c.behind() {
			continue
		}
		// One that isn't in order explains nothing.
		if uint64(r.index) < r.Size || uint64(r.Lost.To) >= r.Size {
			continue
		}
		root, err := c.tree.RootAt(ctx, r.Size)
		if err != nil {
			return err
		}
		if root != r.Root {
			continue
		}
		c.restart = true
		unreadable := r.Reason == "unreadable" || strings.HasPrefix(r.Reason, "unreadable.")
		open := r.Size > c.first() && r.Size <= c.behind() && uint64(r.index) < c.behind() // the epoch that was open at size
		if !unreadable && (r.Reason != "restored" || !open) {
			continue
		}
		for i := max(uint64(r.Lost.From), c.first()); i <= uint64(r.Lost.To) && i < c.behind(); i++ {
			c.alone[proof.Index(i)] = true
		}
	}
	return nil
}

// entries reads the epoch and notes which of its entries are filed.
func (c *indexCheck) entries(ctx context.Context) error {
	counts := map[proof.Kind]uint64{}
	for b, err := range c.tree.Bundles(ctx, c.first(), readers) {
		if err != nil {
			return err
		}
		for n, text := range b.Entries {
			i := b.First + uint64(n) // #nosec G115 -- n < 256
			if i >= c.behind() {
				return c.count(counts)
			}
			kind, epoch, err := proof.ParseHead(text)
			if err != nil {
				c.report.fault("entry.malformed", atEntry(proof.Index(i)), "%v", err)
				continue
			}
			counts[kind]++
			if epoch != c.epoch {
				c.report.fault("entry.epoch", atEntry(proof.Index(i)), "it says %d", epoch)
			}
			switch _, err := proof.ParseEntry(text); {
			case errors.Is(err, proof.ErrUnknown):
				return fmt.Errorf("entry %d is of type %s, which this version doesn't know: a newer regard-audit is needed to tell whether it has to be in a roll", i, kind)
			case err != nil:
				c.report.fault("entry.malformed", atEntry(proof.Index(i)), "%v", err)
			case kind.Filed():
				c.filed.set(i - c.first())
				c.report.Entries++
				if c.alone[proof.Index(i)] {
					c.report.Lost++
				}
			}
		}
	}
	return c.count(counts)
}

func (c *indexCheck) count(counts map[proof.Kind]uint64) error {
	for _, n := range c.closer.Closed.Counts {
		if counts[n.Kind] != n.N {
			c.report.fault("index.counts", atEntry(c.closer.index), "%s: %d, the epoch has %d", n.Kind, n.N, counts[n.Kind])
		}
		delete(counts, n.Kind)
	}
	for kind, n := range counts {
		c.report.fault("index.counts", atEntry(c.closer.index), "%s: none, the epoch has %d", kind, n)
	}
	return nil
}

// rolls has the broker open the rolls, and computes the index. Of a page that is no page the rest isn't asked for.
func (c *indexCheck) rolls(ctx context.Context) error {
	want := c.closer.Closed
	var fetching error
	sum, err := proof.BuildIndex(c.epoch, want.Items, func(yield func(proof.Label, proof.Hash) bool) {
		more := true
		fetching = c.pages(ctx, func(z proof.Label, root proof.Hash) {
			more = more && yield(z, root) // all rolls are looked at, also when the index has failed
		})
	}, nil)
	switch broken := (*brokenPage)(nil); {
	case errors.As(fetching, &broken):
		c.report.fault("rolls.form", fmt.Sprintf("epoch %d", c.epoch), "%v", broken.error)
		return nil
	case fetching != nil:
		return c.withheld(fetching)
	}
	for i := range want.Size {
		if c.filed.has(i) && !c.seen.has(i) {
			c.report.fault("entry.unfiled", atEntry(c.opener.index+proof.Index(i)), "")
		}
	}
	switch {
	case c.report.Rolls != want.Items:
		c.report.fault("index.items", atEntry(c.closer.index), "it says %d, there are %d", want.Items, c.report.Rolls)
	case err != nil:
		c.report.fault("index.form", fmt.Sprintf("epoch %d", c.epoch), "%v", err)
	case sum.Root != want.Index || sum.Bits != want.Bits:
		c.report.fault("index.root", atEntry(c.closer.index), "it says %s, the rolls give %s", want.Index, sum.Root)
	}
	return nil
}

// withheld judges why there are no rolls: if the log gives the reason they are gone, otherwise that is a fault.
func (c *indexCheck) withheld(err error) error {
	code := refusalCode(err)
	switch {
	case goneBecause[code] == "":
		return fmt.Errorf("epoch %d: %w", c.epoch, err)
	case code == "rolls.lost" && c.restart, code == "rolls.retired" && c.gov.labelsEnded(c.opener.Marker):
		c.report.Gone = code
	default:
		c.report.fault("rolls.withheld", fmt.Sprintf("epoch %d", c.epoch), "%v", err)
	}
	return nil
}

// brokenPage is what isn't a page of the rolls that were asked for.
type brokenPage struct{ error }

func (b *brokenPage) Unwrap() error { return b.error }

// pages asks for page after page and looks at each roll.
func (c *indexCheck) pages(ctx context.Context, item func(proof.Label, proof.Hash)) error {
	path := fmt.Sprintf("/v1/audit/epochs/%d/rolls", c.epoch)
	var last *proof.Label
	for {
		query, more := "", false
		if last != nil {
			query = "?after=" + base64.RawURLEncoding.EncodeToString(last[:])
		}
		err := c.broker.call(ctx, http.MethodGet, path+query, "", nil, func(body io.Reader) error {
			page, err := proof.ReadRolls(body, func(r proof.OpenRoll) error {
				if last != nil && bytes.Compare(last[:], r.Label[:]) >= 0 {
					c.report.fault("roll.order", atRoll(r.Label), "")
					return &brokenPage{errors.New("the page begins before the last one ended")}
				}
				last = &r.Label
				c.report.Rolls++
				if root, ok := c.roll(r); ok {
					item(r.Label, root)
				}
				return nil
			})
			if errors.Is(err, proof.ErrFormat) {
				return &brokenPage{err}
			}
			if err == nil && (page.Epoch != c.epoch || page.Marker != c.closer.index) {
				err = &brokenPage{fmt.Errorf("it is of epoch %d, closed by entry %d", page.Epoch, page.Marker)}
			}
			more = page.More
			return err
		})
		if err != nil || !more {
			return err
		}
	}
}

// roll checks one roll and returns its root.
func (c *indexCheck) roll(r proof.OpenRoll) (proof.Hash, bool) {
	root, indexes, err := proof.CheckRoll(r.Leaves)
	if err != nil {
		c.report.fault("roll.malformed", atRoll(r.Label), "%v", err)
		return root, false
	}
	for _, i := range indexes {
		n := uint64(i) - c.first()
		switch {
		case uint64(i) <= c.first() || uint64(i) >= c.behind() || !c.filed.has(n):
			c.report.fault("roll.foreign", atRoll(r.Label), "%s", atEntry(i))
			continue
		case c.seen.has(n):
			c.report.fault("roll.twice", atEntry(i), "the second is %s", atRoll(r.Label))
		case c.alone[i] && len(indexes) > 1:
			c.report.fault("roll.lost", atEntry(i), "%s has %d entries", atRoll(r.Label), len(indexes))
		}
		c.seen.set(n)
	}
	return root, true
}

// statement is what an auditor may sign of an index that was checked, and has no fault.
func (c *indexCheck) statement() ([]byte, error) {
	if c.report.Count > 0 || c.report.Gone != "" {
		return nil, errors.New("an index that isn't sound is not signed")
	}
	m := c.closer.Closed
	return proof.IndexAudit{
		Origin: c.origin, Epoch: c.epoch, Marker: c.closer.index, Root: m.Index, Items: m.Items, Entries: c.report.Entries,
	}.AppendText(nil)
}
