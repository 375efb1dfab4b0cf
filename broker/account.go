package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// An Account is a person who has signed in. Whoever makes one has made sure that all of these identifiers are the person's.
type Account struct {
	Pivot    proof.Subject   // the complete identity of the sign-in; the account is known by its pseudonym
	Subjects []proof.Subject // every identifier, the pivot among them or not
	Lang     string          // fr or en
}

// person is an account as the store knows it.
type person struct {
	owner    keys.Owner
	subjects map[keys.Owner]proof.Subject // the pivot among them
	lang     string
}

func (b *Broker) person(a *Account) (*person, error) {
	if a.Pivot.Type() != proof.TypePivot {
		return nil, errors.New("broker: an account without a pivot identity")
	}
	p := &person{subjects: map[keys.Owner]proof.Subject{}, lang: "fr"}
	if a.Lang == "en" {
		p.lang = "en"
	}
	var err error
	if p.owner, err = b.ring.Owner(a.Pivot); err != nil {
		return nil, keysProblem(err)
	}
	p.subjects[p.owner] = a.Pivot
	for _, s := range a.Subjects {
		o, err := b.ring.Owner(s)
		if err != nil {
			return nil, keysProblem(err)
		}
		p.subjects[o] = s
	}
	return p, nil
}

// enrolled are all identifiers as the store watches them.
func (p *person) enrolled() []store.Enrolled {
	var out []store.Enrolled
	for _, o := range p.owners() {
		out = append(out, store.Enrolled{Owner: o, Type: p.subjects[o].Type()})
	}
	return out
}

// owners of all identifiers, in an order that depends on nothing else.
func (p *person) owners() []keys.Owner {
	out := make([]keys.Owner, 0, len(p.subjects))
	for o := range p.subjects {
		out = append(out, o)
	}
	slices.SortFunc(out, func(x, y keys.Owner) int { return slices.Compare(x[:], y[:]) })
	return out
}

// What stands beside the log about somebody is sealed under a key of theirs and bound to its place: use says what it is, id which one.
func besideAD(use string, id store.ID) []byte {
	return append([]byte("regard/beside/v1\x00"+use+"\x00"), id[:]...)
}

func (b *Broker) sealBeside(ctx context.Context, owner keys.Owner, use string, id store.ID, plain []byte) (*store.Sealed, error) {
	key, fresh, err := b.ring.SubjectKey(ctx, owner)
	if err != nil {
		return nil, err
	}
	defer key.Clear()
	blob, err := b.ring.SealPerson(key, besideAD(use, id), plain)
	return &store.Sealed{Blob: blob, Fresh: fresh}, err
}

func (b *Broker) openBeside(ctx context.Context, owner keys.Owner, use string, id store.ID, blob []byte) ([]byte, error) {
	return b.ring.OpenPerson(ctx, owner, besideAD(use, id), blob)
}

// beside is something to be sealed.
type beside struct {
	owner keys.Owner
	use   string
	id    store.ID
	plain []byte
}

// keepBeside seals and stores in one go, unless one of the people, or of those whom the rows name besides, is being erased: what is stored then would survive the erasure.
func (b *Broker) keepBeside(ctx context.Context, items []beside, put func([]*store.Sealed) error, named ...keys.Owner) error {
	owners := slices.Clone(named)
	for i := range items {
		owners = append(owners, items[i].owner)
	}
	err := b.gate.pass(owners, func() (err error) {
		var sealed []*store.Sealed
		defer func() {
			for _, s := range sealed {
				b.saved(err, sealedRecord{fresh: s.Fresh})
			}
		}()
		for _, x := range items {
			s, err := b.sealBeside(ctx, x.owner, x.use, x.id, x.plain)
			if err != nil {
				return keysProblem(err)
			}
			sealed = append(sealed, s)
		}
		return put(sealed)
	})
	if errors.Is(err, keys.ErrNoKey) { // erased in this instant
		err = errErasing
	}
	return erasingProblem(err)
}

// storeProblem is for errors of the store that aren't the caller's.
func storeProblem(err error) error {
	var p *Problem
	if err == nil || errors.As(err, &p) {
		return err
	}
	return unavailable("store.unavailable", "The broker can't read or write its store now.", err)
}

func tooMany(title string, after time.Duration) *Problem {
	return &Problem{Status: 429, Code: "rate.exceeded", Title: title, Detail: "Wait as long as Retry-After says.", RetryAfter: after}
}

// freshFor is for how long a sign-in that was repeated counts as one that just happened.
const freshFor = 5 * time.Minute

// fresh demands that a person has just shown again who they are.
func (b *Broker) fresh(at time.Time) error {
	if age := b.now().Sub(at); age > freshFor || age < -time.Minute {
		return &Problem{Status: 403, Code: "session.stale", Title: "This needs a new sign-in.", Detail: "Sign in again, then repeat it within five minutes."}
	}
	return nil
}
