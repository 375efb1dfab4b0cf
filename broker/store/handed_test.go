package store

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

func someOutcome() *Outcome {
	at := time.Date(2026, 11, 26, 7, 0, 0, 5e6, time.UTC)
	return &Outcome{
		Disclosure: 1 << 40,
		Records: []Record{
			{Owner: keys.Owner{1}, Person: []byte("person"), Admin: []byte("admin")},
			{Owner: keys.Owner{2}, Person: bytes.Repeat([]byte{7}, 70_000), Admin: []byte{0}},
		},
		Fresh:   []*keys.StoredKey{{ID: keys.KeyID{3}, Kind: keys.KindSubject, Owner: keys.Owner{2}, Period: "2026-11", Wrapped: []byte("wrapped"), Created: at}},
		Payload: []byte("sealed"), Until: at.Add(time.Minute),
	}
}

// TestHandedGroups: whatever a broker that follows has to append comes to the leader as it is.
func TestHandedGroups(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 26, 7, 0, 0, 0, time.UTC)
	entries := []proof.Entry{proof.Disclosure{Commitment: proof.Commitment{1}}, proof.Disclosure{Commitment: proof.Commitment{2}}}
	for _, a := range []Attachment{
		nil, someOutcome(), &Outcome{Until: time.UnixMilli(0).UTC()},
		&AccessLogged{Records: []Record{{Owner: keys.Owner{1}, Person: []byte("p"), Admin: []byte("a")}}, Targets: []proof.Index{7}, Keys: []keys.KeyID{{9}}, Audit: &Audit{}},
		&ErasedAudit{Auditor: "a", From: 1, To: 2, At: at},
		&AgencyChange{Agency: Agency{ID: "mairie", Name: "Mairie", SIRET: "1", State: Active, Keys: []AgencyKey{{SPKI: [32]byte{1}, NotAfter: at, State: Active}}}},
		&AuditorChange{Auditor: Auditor{ID: "cour", Name: "Cour", State: Active}},
		&AgreementChange{Agreement: Agreement{ID: "a", Version: 2, JSON: []byte("{}")}},
		&ServiceChange{Service: Service{ID: "s", Version: 2, YAML: []byte("id: s")}},
		&BundleActivation{Bundle: Bundle{Revision: "r", Bytes: []byte("b")}},
		&Note{Name: "key checkpoint.1"},
	} {
		t.Run(fmt.Sprintf("%T", a), func(t *testing.T) {
			g := ledger.Group{Entries: entries}
			if a != nil {
				g.Attach = a
			}
			body, err := EncodeGroup(g)
			if err != nil {
				t.Fatal(err)
			}
			got, err := DecodeGroup([16]byte{5}, body)
			if err != nil {
				t.Fatal(err)
			}
			h, ok := got.Attach.(*handed)
			if !ok || h.id != [16]byte{5} || !reflect.DeepEqual(h.inner, a) {
				t.Errorf("%+v came as %+v", a, got.Attach)
			}
			if !reflect.DeepEqual(got.Entries, entries) {
				t.Errorf("the entries came as %v", got.Entries)
			}
			if _, err := DecodeGroup([16]byte{}, append(body[:len(body):len(body)], 0)); err == nil {
				t.Error("what follows a group is taken for a part of it")
			}
			for n := range min(len(body), 300) {
				if _, err := DecodeGroup([16]byte{}, body[:n]); err == nil {
					t.Fatalf("the first %d bytes of %d are taken for all", n, len(body))
				}
			}
		})
	}
}

// TestHandedWithoutNil: keys that aren't there are left out on the way.
func TestHandedWithoutNil(t *testing.T) {
	t.Parallel()
	k := &keys.StoredKey{ID: keys.KeyID{1}, Kind: keys.KindSubject, Wrapped: []byte("w"), Created: time.UnixMilli(5).UTC()}
	for _, a := range []Attachment{&Outcome{Fresh: []*keys.StoredKey{nil, k, nil}}, &AccessLogged{Fresh: []*keys.StoredKey{nil, k, nil}}, &DeferralsOpened{Fresh: []*keys.StoredKey{nil, k, nil}}} {
		body, err := EncodeGroup(ledger.Group{Attach: a})
		if err != nil {
			t.Fatal(err)
		}
		g, err := DecodeGroup([16]byte{}, body)
		if err != nil {
			t.Fatal(err)
		}
		var fresh []*keys.StoredKey
		switch x := g.Attach.(*handed).inner.(type) {
		case *Outcome:
			fresh = x.Fresh
		case *AccessLogged:
			fresh = x.Fresh
		case *DeferralsOpened:
			fresh = x.Fresh
		}
		if len(fresh) != 1 || !reflect.DeepEqual(fresh[0], k) {
			t.Errorf("%T: %v", a, fresh)
		}
	}
}

// TestNotHanded: what only the leader does can't be handed over, nor what is no attachment.
func TestNotHanded(t *testing.T) {
	t.Parallel()
	for _, a := range []any{&ErasureLogged{}, &Retirement{}, &SkipDeclared{}, "text"} {
		if _, err := EncodeGroup(ledger.Group{Attach: a}); err == nil {
			t.Errorf("a %T is handed over", a)
		}
	}
}

// TestRefusals: callers decide by the same errors, whichever broker refused.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, is := range refusals {
		err := DecodeRefusal(EncodeRefusal(fmt.Errorf("%w: because: %w", ledger.ErrRefused, is)))
		if !errors.Is(err, is) || !errors.Is(err, ledger.ErrRefused) {
			t.Errorf("%s came as %v", name, err)
		}
	}
	err := DecodeRefusal(EncodeRefusal(errors.New("something else")))
	if !errors.Is(err, ledger.ErrRefused) || errors.Is(err, ErrExists) {
		t.Errorf("%v", err)
	}
}

// TestOwnersOf: an erasure waits for what is recorded about its person, and for nothing that is deferred.
func TestOwnersOf(t *testing.T) {
	t.Parallel()
	open, deferred := proof.Disclosure{Commitment: proof.Commitment{1}}, proof.Deferred{}
	two := []Record{{Owner: keys.Owner{1}}, {Owner: keys.Owner{2}}}
	for name, c := range map[string]struct {
		entries []proof.Entry
		attach  Attachment
		want    []keys.Owner
	}{
		"an outcome":       {[]proof.Entry{open, open}, &Outcome{Records: two}, []keys.Owner{{1}, {2}}},
		"deferred":         {[]proof.Entry{deferred, deferred}, &Outcome{Records: two}, nil},
		"accesses of both": {[]proof.Entry{deferred, proof.Access{}}, &AccessLogged{Records: two}, []keys.Owner{{2}}},
		"an opening":       {[]proof.Entry{proof.Opened{}}, &DeferralsOpened{Records: []OpenedRecord{{Record: two[0]}}}, []keys.Owner{{1}}},
		"an agency":        {[]proof.Entry{proof.KeyChanged{}}, &AgencyChange{}, nil},
	} {
		for _, attach := range []any{c.attach, &handed{inner: c.attach}} {
			if got := OwnersOf(ledger.Group{Entries: c.entries, Attach: attach}); !slices.Equal(got, c.want) {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

func FuzzDecodeGroup(f *testing.F) {
	body, err := EncodeGroup(ledger.Group{Entries: []proof.Entry{proof.Disclosure{Commitment: proof.Commitment{1}}}, Attach: someOutcome()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body[:200])
	f.Add([]byte{handedVersion, 0, 0, attachNothing})
	f.Add([]byte{handedVersion, 0, 0, attachGob, 1, 2, 3})
	f.Fuzz(func(t *testing.T, body []byte) {
		g, err := DecodeGroup([16]byte{}, body)
		if err != nil {
			return
		}
		if o, ok := g.Attach.(*handed).inner.(*Outcome); ok {
			again, err := EncodeGroup(ledger.Group{Entries: g.Entries, Attach: o})
			if err != nil || !bytes.Equal(again, body) {
				t.Errorf("%x was read as %x, %v", body, again, err)
			}
		}
	})
}

func BenchmarkHandedOutcome(b *testing.B) {
	o := &Outcome{Disclosure: 5, Records: []Record{{Person: make([]byte, 400), Admin: make([]byte, 900)}}, Payload: make([]byte, 300), Until: time.UnixMilli(1)}
	g := ledger.Group{Entries: []proof.Entry{proof.Disclosure{Commitment: proof.Commitment{1}}}, Attach: o}
	for b.Loop() {
		body, err := EncodeGroup(g)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := DecodeGroup([16]byte{}, body); err != nil {
			b.Fatal(err)
		}
	}
}
