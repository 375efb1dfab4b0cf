package broker

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// DelegationKind says why somebody may read another's history.
type DelegationKind string

// The kinds.
const (
	Guardian       DelegationKind = "guardian"       // of a child, or of an adult under protection
	Representative DelegationKind = "representative" // of a business, by its SIREN
)

const delegationsListed = 200

// A Grant makes a delegation. Whoever makes one has seen the evidence, or had it checked where it is kept.
type Grant struct {
	Kind     DelegationKind
	Delegate proof.Subject   // the complete pivot identity with which they sign in
	Subjects []proof.Subject // whose histories: the ward's identifiers, or SIRENs
	Evidence string          // what shows it, on one line; both sides read it
	Since    time.Time       // zero: at once
	Until    time.Time       // zero: until it is revoked
}

// A Delegation lets somebody read the histories of another person or of a business, and nothing else. Each record that they open is an access that the person sees.
type Delegation struct {
	ID       store.ID
	Kind     DelegationKind
	Evidence string
	Granted  time.Time
	Since    time.Time
	Until    time.Time // zero: until it is revoked
	Ended    time.Time // zero: not revoked
	EndedBy  string    // delegate, person, operator, restored
	InForce  bool
	// Mine: the account is the delegate. Otherwise it is the other side.
	Mine bool
	// Delegate is who may read; it is zero for the operator's list.
	Delegate proof.Subject
	// Subjects are the identifiers that may be read: all of them for the delegate while it isn't over, the account's own for the other side, none for the operator's list.
	Subjects []proof.Subject
	// Identifiers is how many they are.
	Identifiers int
}

// sealedDelegated is what stands under the key of the person whose history it is about.
type sealedDelegated struct {
	Type     string `json:"type"`
	Value    string `json:"value"`
	Evidence string `json:"evidence"`
	Delegate string `json:"delegate"` // canonical pivot
}

// GrantDelegation lets somebody read another's histories, and tells both.
func (b *Broker) GrantDelegation(ctx context.Context, g Grant) (store.ID, error) {
	if p, ok := g.Delegate.Pivot(); !ok || !p.Complete() {
		return store.ID{}, invalid("/delegate", "The delegate isn't a complete pivot identity.", "Give birth name, given names, birth date, sex, birth place and country: people sign in by these.")
	}
	if err := oneLine("/evidence", g.Evidence); err != nil {
		return store.ID{}, err
	}
	if g.Kind != Guardian && g.Kind != Representative {
		return store.ID{}, invalid("/kind", "There is no such kind of delegation.", "Use guardian or representative.")
	}
	now := b.now()
	if g.Since.IsZero() {
		g.Since = now
	}
	if !g.Until.IsZero() && (!g.Until.After(g.Since) || !g.Until.After(now)) {
		return store.ID{}, invalid("/until", "The delegation would never be in force.", "Give a later end, or none.")
	}
	owners, err := b.ownersOf(g.Subjects)
	if err != nil {
		return store.ID{}, err
	}
	for _, s := range g.Subjects {
		switch {
		case (s.Type() == proof.TypeSIREN) != (g.Kind == Representative):
			return store.ID{}, invalid("/subjects", "An identifier doesn't fit the kind of delegation.", "A representative has SIRENs, a guardian identifiers of a person.")
		case s.Type() == proof.TypePerson:
			return store.ID{}, invalid("/subjects", "Under names without a birth place the records of namesakes are filed, too.", "Leave it out: the delegate would read about them, and they would read who the delegate is.")
		case s.Equal(g.Delegate):
			return store.ID{}, invalid("/subjects", "Nobody is their own delegate.", "Give the other person's identifiers.")
		}
	}
	d := store.Delegation{ID: newID(), Kind: string(g.Kind), Granted: now, Since: g.Since.UTC(), Until: g.Until.UTC()}
	if d.Delegate, err = b.ring.Owner(g.Delegate); err != nil {
		return store.ID{}, keysProblem(err)
	}
	var items []beside
	for i, s := range g.Subjects {
		plain, err := json.Marshal(sealedDelegated{string(s.Type()), s.Value(), g.Evidence, g.Delegate.Value()})
		if err != nil {
			return store.ID{}, err
		}
		d.Subjects = append(d.Subjects, store.Delegated{Owner: owners[i]})
		items = append(items, beside{owners[i], "delegation", d.ID, plain})
	}
	return d.ID, storeProblem(b.keepBeside(ctx, items, func(sealed []*store.Sealed) error { return b.store.AddDelegation(ctx, &d, sealed) }, d.Delegate))
}

// inForce says whether a delegation counts now.
func (b *Broker) inForce(d *store.Delegation) bool { return !b.over(d) && !b.now().Before(d.Since) }

// over says whether a delegation counts no more, however it ended.
func (b *Broker) over(d *store.Delegation) bool {
	return !d.Ended.IsZero() || !d.Until.IsZero() && !b.now().Before(d.Until)
}

func (b *Broker) showDelegation(d *store.Delegation) Delegation {
	return Delegation{
		ID: d.ID, Kind: DelegationKind(d.Kind), Granted: d.Granted, Since: d.Since, Until: d.Until, Ended: d.Ended, EndedBy: d.EndedBy, InForce: b.inForce(d), Identifiers: len(d.Subjects),
	}
}

// openDelegation fills in what is sealed; may says of which owners.
func (b *Broker) openDelegation(ctx context.Context, d *store.Delegation, out *Delegation, may func(keys.Owner) bool) error {
	for _, x := range d.Subjects {
		if !may(x.Owner) {
			continue
		}
		plain, err := b.openBeside(ctx, x.Owner, "delegation", d.ID, x.Sealed)
		if errors.Is(err, keys.ErrNoKey) {
			continue // erased in this instant
		}
		if err != nil {
			return keysProblem(err)
		}
		var s sealedDelegated
		if err := json.Unmarshal(plain, &s); err != nil {
			return err
		}
		subject, err := proof.ParseSubject(s.Type, s.Value)
		if err != nil {
			return err
		}
		if out.Delegate, err = proof.ParseSubject(string(proof.TypePivot), s.Delegate); err != nil {
			return err
		}
		out.Evidence, out.Subjects = s.Evidence, append(out.Subjects, subject)
	}
	return nil
}

// DelegationsOf lists what an account's person may read of others, and who may read theirs; newest first. Of those that are over the delegate is told the kind and the times and nothing of the other person, who still learns who could read:
// for as long as records are kept, for what was read stands in them. See remind.
func (b *Broker) DelegationsOf(ctx context.Context, a Account) ([]Delegation, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	rows, err := b.store.Delegations(ctx, p.owner, keys.Owner{}, store.ID{}, delegationsListed)
	if err != nil {
		return nil, storeProblem(err)
	}
	out := []Delegation{}
	seen := map[store.ID]bool{}
	for i := range rows {
		d := b.showDelegation(&rows[i])
		d.Mine = true
		seen[d.ID] = true
		if err := b.openDelegation(ctx, &rows[i], &d, func(keys.Owner) bool { return !b.over(&rows[i]) }); err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	for _, o := range p.owners() {
		rows, err := b.store.Delegations(ctx, keys.Owner{}, o, store.ID{}, delegationsListed)
		if err != nil {
			return nil, storeProblem(err)
		}
		for i := range rows {
			if seen[rows[i].ID] {
				continue
			}
			seen[rows[i].ID] = true
			d := b.showDelegation(&rows[i])
			if err := b.openDelegation(ctx, &rows[i], &d, func(o keys.Owner) bool { _, mine := p.subjects[o]; return mine }); err != nil {
				return nil, err
			}
			out = append(out, d)
		}
	}
	return out, nil
}

// Delegations lists all for the operator, newest first, those with an id below before: neither side is named.
func (b *Broker) Delegations(ctx context.Context, before store.ID) ([]Delegation, error) {
	rows, err := b.store.Delegations(ctx, keys.Owner{}, keys.Owner{}, before, delegationsListed)
	if err != nil {
		return nil, storeProblem(err)
	}
	out := []Delegation{}
	for i := range rows {
		out = append(out, b.showDelegation(&rows[i]))
	}
	return out, nil
}

func errNoDelegation() *Problem {
	return &Problem{Status: 404, Code: "delegation.unknown", Title: "There is no such delegation.", Detail: "Check the id."}
}

// Delegated is what a delegation allows its delegate now: to read these identifiers' histories, with History and HistoryFileBy, as the reader that it returns. One that is somebody else's, has
// ended or was never granted is unknown.
func (b *Broker) Delegated(ctx context.Context, a Account, id store.ID) ([]proof.Subject, AccessBy, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, AccessBy{}, err
	}
	d, err := b.store.Delegation(ctx, id)
	if errors.Is(err, store.ErrNotFound) || err == nil && (d.Delegate != p.owner || !b.inForce(&d)) {
		return nil, AccessBy{}, errNoDelegation()
	}
	if err != nil {
		return nil, AccessBy{}, storeProblem(err)
	}
	out := b.showDelegation(&d)
	if err := b.openDelegation(ctx, &d, &out, func(keys.Owner) bool { return true }); err != nil {
		return nil, AccessBy{}, err
	}
	if len(out.Subjects) == 0 {
		return nil, AccessBy{}, errNoDelegation()
	}
	return out.Subjects, AccessBy{Reader: "delegation." + uuid.UUID(id).String(), Role: proof.RoleDelegate, Reason: string(d.Kind)}, nil
}

// DelegatedHistory is History of one of the identifiers that a delegation covers. The delegation is looked at each time: it may have ended since the last page.
func (b *Broker) DelegatedHistory(ctx context.Context, a Account, id store.ID, subject proof.Subject, page HistoryPage) (*History, error) {
	subjects, by, err := b.Delegated(ctx, a, id)
	if err != nil {
		return nil, err
	}
	for _, s := range subjects {
		if s.Equal(subject) {
			return b.History(ctx, subject, by, page)
		}
	}
	return nil, errNoDelegation()
}

// DelegatedFile is HistoryFileBy of all identifiers that a delegation covers: each record in it is an access of its own.
func (b *Broker) DelegatedFile(ctx context.Context, a Account, id store.ID, epochs proof.EpochRange) (*HistoryFile, error) {
	subjects, by, err := b.Delegated(ctx, a, id)
	if err != nil {
		return nil, err
	}
	return b.HistoryFileBy(ctx, subjects, epochs, by)
}

// RevokeDelegation ends one, by either side: its delegate, or somebody who has one of the identifiers.
func (b *Broker) RevokeDelegation(ctx context.Context, a Account, id store.ID) error {
	p, err := b.person(&a)
	if err != nil {
		return err
	}
	d, err := b.store.Delegation(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return errNoDelegation()
	}
	if err != nil {
		return storeProblem(err)
	}
	by := ""
	for _, x := range d.Subjects {
		if _, mine := p.subjects[x.Owner]; mine {
			by = "person"
		}
	}
	if d.Delegate == p.owner {
		by = "delegate"
	}
	if by == "" {
		return errNoDelegation()
	}
	return b.endDelegation(ctx, id, by)
}

// EndDelegation ends one for the operator.
func (b *Broker) EndDelegation(ctx context.Context, id store.ID) error {
	return b.endDelegation(ctx, id, "operator")
}

func (b *Broker) endDelegation(ctx context.Context, id store.ID, by string) error {
	switch err := b.store.EndDelegation(ctx, id, by, b.now()); {
	case errors.Is(err, store.ErrNotFound):
		return errNoDelegation()
	case errors.Is(err, store.ErrEnded):
		return nil
	default:
		return storeProblem(err)
	}
}
