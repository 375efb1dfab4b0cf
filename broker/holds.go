package broker

import (
	"context"
	"encoding/json"
	"errors"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	maxSubjects = 16 // of one order
	holdsListed = 1000
)

// A Hold keeps identifiers of somebody from being erased. It is nowhere in the log, where it would be a trace of an inquiry.
type Hold struct {
	ID          store.ID
	Basis       string // the legal basis; the person who asks for an erasure reads it
	Reference   string // the operator's; nobody else reads it
	Identifiers int    // how many it keeps
	Since       time.Time
	Until       time.Time // zero: until it is removed
	Over        bool
}

type sealedHold struct {
	Basis     string `json:"basis"`
	Reference string `json:"reference"`
}

// oneLine checks a short text of the operator's.
func oneLine(parameter, s string) error {
	if !readable(s) || utf8.RuneCountInString(s) > maxReason || !utf8.ValidString(s) || containsControl(s) {
		return invalid(parameter, "The text is missing or not usable.", "Write 1 to 200 characters on one line.")
	}
	return nil
}

func containsControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return true
		}
	}
	return false
}

// AddHold keeps identifiers from being erased, until a time or (zero) until it is removed. An erasure that was begun is carried through.
func (b *Broker) AddHold(ctx context.Context, subjects []proof.Subject, basis, reference string, until time.Time) (store.ID, error) {
	if err := oneLine("/basis", basis); err != nil {
		return store.ID{}, err
	}
	if err := oneLine("/reference", reference); err != nil {
		return store.ID{}, err
	}
	now := b.now()
	if !until.IsZero() && !until.After(now) {
		return store.ID{}, invalid("/until", "The hold would be over already.", "Give a later time, or none.")
	}
	id := newID()
	plain, err := json.Marshal(sealedHold{basis, reference})
	if err != nil {
		return id, err
	}
	owners, err := b.ownersOf(subjects)
	if err != nil {
		return id, err
	}
	var holds []store.Hold
	var items []beside
	for _, o := range owners {
		holds = append(holds, store.Hold{ID: id, Owner: o, Since: now, Until: until.UTC()})
		items = append(items, beside{o, "hold", id, plain})
	}
	err = b.keepBeside(ctx, items, func(sealed []*store.Sealed) error { return b.store.AddHold(ctx, holds, sealed) })
	if errors.Is(err, store.ErrEnded) {
		return id, errErasureBegun()
	}
	return id, storeProblem(err)
}

func errErasureBegun() *Problem {
	return conflict("erasure.in_progress", "This person is being erased already.", "It can't be held back any more.")
}

// ownersOf finds the pseudonyms of 1 to 16 identifiers, each once.
func (b *Broker) ownersOf(subjects []proof.Subject) ([]keys.Owner, error) {
	if len(subjects) == 0 || len(subjects) > maxSubjects {
		return nil, invalid("/subjects", "There is no identifier, or there are more than 16.", "Give the person's identifiers.")
	}
	var out []keys.Owner
	seen := map[keys.Owner]bool{}
	for _, s := range subjects {
		o, err := b.ring.Owner(s)
		if err != nil {
			return nil, keysProblem(err)
		}
		if seen[o] {
			return nil, invalid("/subjects", "An identifier stands there twice.", "Give each once.")
		}
		seen[o] = true
		out = append(out, o)
	}
	return out, nil
}

// Holds lists them, the oldest first; never whom they are about.
func (b *Broker) Holds(ctx context.Context) ([]Hold, error) {
	rows, err := b.store.Holds(ctx, keys.Owner{}, store.ID{}, holdsListed)
	if err != nil {
		return nil, storeProblem(err)
	}
	out := []Hold{}
	for i := range rows {
		if n := len(out); n > 0 && out[n-1].ID == rows[i].ID {
			out[n-1].Identifiers++
			continue
		}
		h, err := b.openHold(ctx, &rows[i])
		if err != nil {
			return nil, err
		}
		out = append(out, h)
	}
	return out, nil
}

func (b *Broker) openHold(ctx context.Context, row *store.Hold) (Hold, error) {
	h := Hold{ID: row.ID, Identifiers: 1, Since: row.Since, Until: row.Until, Over: !row.Until.IsZero() && !row.Until.After(b.now())}
	plain, err := b.openBeside(ctx, row.Owner, "hold", row.ID, row.Sealed)
	if err != nil {
		return h, keysProblem(err)
	}
	var s sealedHold
	err = json.Unmarshal(plain, &s)
	h.Basis, h.Reference = s.Basis, s.Reference
	return h, err
}

// holdBasis is the legal basis of the first hold in force that keeps an identifier; empty if there is none.
func (b *Broker) holdBasis(ctx context.Context, owner keys.Owner) (string, error) {
	rows, err := b.store.Holds(ctx, owner, store.ID{}, holdsListed)
	if err != nil {
		return "", storeProblem(err)
	}
	for i := range rows {
		if h, err := b.openHold(ctx, &rows[i]); err != nil || !h.Over {
			return h.Basis, err
		}
	}
	return "", nil
}

// RemoveHold ends a hold.
func (b *Broker) RemoveHold(ctx context.Context, id store.ID) error {
	err := b.store.RemoveHold(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return &Problem{Status: 404, Code: "hold.unknown", Title: "There is no such hold.", Detail: "regard hold list shows them."}
	}
	return storeProblem(err)
}
