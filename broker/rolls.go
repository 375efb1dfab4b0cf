package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// rollsPage is how many leaves end a page of rolls: about 1 MB of text. A roll isn't cut.
const rollsPage = 16 << 10

// Rolls opens the rolls of a closed epoch for an auditor, by increasing label: log indexes and salts, no identities. It returns a page of regard/rolls@v1, beginning behind a label (nil: with the
// first). Either all rolls can be had or none: with filings missing, what is left would look like the whole.
func (b *Broker) Rolls(ctx context.Context, caller Caller, epoch proof.Epoch, after *proof.Label) ([]byte, error) {
	if !caller.Auditor {
		return nil, errNotAuditor()
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	c, err := b.closedEpoch(ctx, "", epoch)
	if err != nil {
		return nil, err
	}
	if after == nil {
		if err := b.allThere(ctx, c); err != nil {
			return nil, err
		}
	}
	seed, err := b.ring.Labels().RollSeed(ctx, c.LabelKey, epoch)
	if errors.Is(err, keys.ErrNoKey) {
		return nil, &Problem{Status: 410, Code: "rolls.retired", Title: "The retention of this epoch has ended.", Detail: "The secrets of its rolls were destroyed, and the log says so."}
	}
	if err != nil {
		return nil, keysProblem(err)
	}
	page := proof.Rolls{Epoch: epoch, Marker: c.Closer}
	full := errors.New("the page is full")
	leaves := 0
	var label proof.Label
	var indexes []proof.Index
	add := func() error {
		roll, err := proof.NewRoll(seed, label, indexes)
		if err != nil {
			return err
		}
		page.Rolls = append(page.Rolls, proof.OpenRoll{Label: label, Leaves: roll.Open()})
		leaves += len(page.Rolls[len(page.Rolls)-1].Leaves)
		return nil
	}
	err = b.store.FilingsAfter(ctx, epoch, after, func(f ledger.Filing) error {
		if len(indexes) > 0 && f.Label != label {
			if err := add(); err != nil {
				return err
			}
			indexes = indexes[:0]
			if leaves >= rollsPage {
				return full
			}
		}
		label = f.Label
		indexes = append(indexes, f.Index)
		return nil
	})
	if page.More = errors.Is(err, full); page.More {
		err = nil
	} else if err == nil && len(indexes) > 0 {
		err = add()
	}
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its rolls now.", err)
	}
	text, err := page.AppendText(nil)
	if err != nil {
		return nil, fmt.Errorf("writing the rolls of epoch %d: %w", epoch, err)
	}
	return text, nil
}

// allThere refuses an epoch of which filings were lost when the store was restored from a backup.
func (b *Broker) allThere(ctx context.Context, c ledger.ClosedEpoch) error {
	m, err := b.closing(ctx, c)
	if err != nil {
		return err
	}
	n, err := b.store.CountFilings(ctx, c.Number)
	if err != nil {
		return unavailable("store.unavailable", "The broker can't read its rolls now.", err)
	}
	if n != filed(m) {
		return &Problem{Status: 410, Code: "rolls.lost", Title: "Rolls of this epoch are lost.", Detail: "The store was restored from a backup that didn't have them, or is damaged; the log says which entries it lost (restart@v1)."}
	}
	return nil
}

// closing is the marker that closes an epoch.
func (b *Broker) closing(ctx context.Context, c ledger.ClosedEpoch) (proof.Marker, error) {
	row, err := b.store.RowAt(ctx, c.Closer)
	if err != nil {
		return proof.Marker{}, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	e, err := proof.ParseEntry(row.Text)
	m, ok := e.(proof.Marker)
	if err != nil || !ok || m.Closed == nil {
		return m, fmt.Errorf("entry %d isn't the marker that closes epoch %d: %w", c.Closer, c.Number, store.ErrCorrupt)
	}
	return m, nil
}

// filed counts the filed entries of the epoch that a marker closes.
func filed(m proof.Marker) (n uint64) {
	for _, c := range m.Closed.Counts {
		if c.Kind.Filed() {
			n += c.N
		}
	}
	return n
}

// maxStatement bounds a statement, in bytes: it is six short lines and a signature.
const maxStatement = 4 << 10

// PutStatement publishes what an auditor states about the index of a closed epoch, at audit/<epoch>/<auditor>. It is durable when this returns. The same statement again changes nothing; an auditor
// makes one about an epoch.
func (b *Broker) PutStatement(ctx context.Context, caller Caller, epoch proof.Epoch, signed []byte) error {
	if !caller.Auditor {
		return errNotAuditor()
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	c, err := b.closedEpoch(ctx, "", epoch)
	if err != nil {
		return err
	}
	m, err := b.closing(ctx, c)
	if err != nil {
		return err
	}
	var a proof.IndexAudit
	err = errors.New("no key of this auditor is in force")
	for _, k := range b.registry.Load().auditors[caller.ID].Keys {
		if k.State != store.Active || len(signed) > maxStatement {
			continue
		}
		if a, err = proof.VerifyIndexAudit(signed, k.VKey); err == nil {
			break
		}
	}
	if err != nil {
		return &Problem{Status: 400, Code: "statement.invalid", Title: "This isn't a statement about an index, signed by your key.", Detail: "Send a regard/index-audit@v1 note signed by a registered key (docs/formats.md, section 7), as regard-audit audit-index does.", err: err}
	}
	if a.Epoch != epoch || !a.Agrees(b.cfg.Origin, m) || a.Entries != filed(m) {
		return &Problem{Status: 422, Code: "statement.differs", Title: "The statement isn't what the log's marker says of this epoch.", Detail: "If you computed it from the rolls, keep them and tell the supervisory authority: the operator's index is wrong."}
	}
	done, err := b.alone(ctx, b.statements, "statements")
	if err != nil {
		return err
	}
	defer done()
	name := "audit/" + epoch.String() + "/" + caller.ID
	old, err := os.ReadFile(filepath.Join(b.PublicDir(), filepath.FromSlash(name)))
	switch {
	case err == nil && bytes.Equal(old, signed):
		return nil
	case err == nil:
		return conflict("statement.exists", "You made another statement about this epoch.", "It is published and stays.")
	case !errors.Is(err, fs.ErrNotExist):
		return unavailable("store.unavailable", "The statement can't be published now.", err)
	}
	if err := tiles.WriteFile(b.PublicDir(), name, signed); err != nil {
		return unavailable("store.unavailable", "The statement can't be published now.", err)
	}
	return nil
}
