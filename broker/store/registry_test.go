package store_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// TestRegistryOfOneMoment: who reads the registry while another broker registers somebody sees them with their certificate or not at all. That certificate never counts as somebody else's.
func TestRegistryOfOneMoment(t *testing.T) { store.EachEngine(t, testRegistryOfOneMoment) }

func testRegistryOfOneMoment(t *testing.T, open store.Opener) {
	s := open(t, t.TempDir())
	key := func(i int) []store.AgencyKey {
		return []store.AgencyKey{{SPKI: [32]byte{byte(i)}, NotAfter: at, State: store.Active}}
	}
	ctx, done := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	defer func() { done(); readers.Wait() }()
	for range 4 {
		readers.Go(func() {
			for ctx.Err() == nil {
				reg, err := s.Registry(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				for _, a := range reg.Agencies {
					if len(a.Keys) != 1 || a.ID != fmt.Sprintf("agency-%03d", a.Keys[0].SPKI[0]) {
						t.Errorf("%s has the certificates %v", a.ID, a.Keys)
						return
					}
				}
				for _, a := range reg.Auditors {
					if len(a.Certificates) != 1 || len(a.Keys) != 1 || a.ID != fmt.Sprintf("auditor-%03d", a.Certificates[0].SPKI[0]) || a.Keys[0].VKey != a.ID {
						t.Errorf("%s has %v and %v", a.ID, a.Certificates, a.Keys)
						return
					}
				}
			}
		})
	}
	for i := range 100 {
		id := fmt.Sprintf("auditor-%03d", i)
		attach := []store.Attachment{
			&store.AgencyChange{Agency: store.Agency{ID: fmt.Sprintf("agency-%03d", i), Name: "Mairie", SIRET: "1", State: store.Active, Keys: key(i)}},
			&store.AuditorChange{Auditor: store.Auditor{ID: id, Name: "Cour", State: store.Active, Certificates: key(i), Keys: []store.AuditorKey{{VKey: id, State: store.Active}}}},
		}
		for k, a := range attach {
			next := proof.Index(2*i + k)
			if err := commit(t, s, next, ledger.PlacedGroup{Leaves: []ledger.Leaf{leaf(next, proof.KindKey)}, Attach: a}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
