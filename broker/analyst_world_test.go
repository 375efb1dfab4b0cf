package broker_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/analyst"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// season is what a population of invented households goes through, drawn from a fixed seed.
type season struct {
	households, epochs, requests int // requests and the rest are of one epoch
	accesses, erasures           int
	delays                       int // requests under a lawful delay, which ends in the next epoch
	atOnce                       int
	hold                         time.Duration // for which a batch is held while the next one gathers
}

// agencies of the season; the first is the analyst's.
var analystAgencies = []string{"mairie", "departement", "hopital", "ecole"}

// families answers about invented households: everybody of a household has its birth name.
type families struct{ of [][]proof.Pivot }

func newFamilies(n int, rng *rand.Rand) *families {
	f := &families{}
	given := []string{"Camille", "Loïc", "Zoé", "Noé", "Amina", "Sami", "Lina", "Jean", "Maëlle", "Côme", "Léa", "Adam"}
	for h := range n {
		var all []proof.Pivot
		for m := range 1 + rng.IntN(4) {
			all = append(all, proof.Pivot{
				BirthName: fmt.Sprintf("Foyer %c%c", 'A'+h/26, 'A'+h%26), GivenNames: given[(h+m)%len(given)], BirthDate: fmt.Sprintf("%d-%02d-%02d", 1950+rng.IntN(60), 1+rng.IntN(12), 1+rng.IntN(28)),
				Sex: [...]string{"F", "M"}[rng.IntN(2)], BirthPlace: "75056", BirthCountry: "99100",
			})
		}
		f.of = append(f.of, all)
	}
	return f
}

func (f *families) answer(rw http.ResponseWriter, r *http.Request) {
	var h int
	name := r.URL.Query().Get("nomNaissance")
	if len(name) < 2 {
		rw.WriteHeader(http.StatusBadRequest)
		return
	}
	h = int(name[len(name)-2]-'A')*26 + int(name[len(name)-1]-'A')
	var members []map[string]string
	for _, p := range f.of[h] {
		members = append(members, map[string]string{"nom": p.BirthName, "prenoms": p.GivenNames, "naissance": p.BirthDate, "sexe": p.Sex})
	}
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(map[string]any{"data": map[string]any{"quotient": map[string]int{"valeur": 100 + h}, "membres": members, "adresse": "1 RUE DE L'EXEMPLE"}})
}

// scene is the world of a season with what it takes to know the truth.
type scene struct {
	*world
	families *families
	callers  []broker.Caller
	late     atomic.Int64 // by which the clock is ahead
	mu       sync.Mutex
	ends     []proof.Index // of batches
	mine     []store.ID    // disclosures of the first agency
	delayed  []store.ID    // whose delay isn't over
	told     map[proof.Index]fact
	ids      map[string]int // of disclosures
}

// fact is the truth about an entry.
type fact struct {
	subject    proof.Subject
	disclosure int // -1: none
	asked      bool
}

func newScene(t *testing.T, c season) *scene {
	s := &scene{told: map[proof.Index]fact{}, ids: map[string]int{}}
	var db *sql.DB
	t.Cleanup(func() {
		if db != nil {
			db.Close()
		}
	})
	s.world = newWorld(t, func(cfg *broker.Config) {
		cfg.Epoch, cfg.SweepEvery = time.Hour, 100*time.Millisecond
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
		cfg.Clock = func() time.Time { return time.Now().Add(time.Duration(s.late.Load())) }
		dir := cfg.DataDir
		cfg.SetAt(func(stage string) {
			if stage != "outcome" {
				return
			}
			// The one goroutine that orders is here, right behind its commit: what the store ends with is the end of a batch.
			s.mu.Lock()
			defer s.mu.Unlock()
			if db == nil {
				db, _ = sql.Open("sqlite", "file:"+store.FileIn(filepath.Join(dir, "store"))+"?_pragma=query_only(1)&_pragma=busy_timeout(5000)")
			}
			var end int64
			if err := db.QueryRow("SELECT max(log_index) + 1 FROM leaves").Scan(&end); err != nil {
				t.Errorf("looking for the end of a batch: %v", err)
			}
			if n := len(s.ends); n == 0 || s.ends[n-1] < proof.Index(end) {
				s.ends = append(s.ends, proof.Index(end))
			}
			time.Sleep(c.hold)
		})
	})
	s.provider.mu.Lock()
	s.provider.quiet = true
	s.families = newFamilies(c.households, rand.New(rand.NewPCG(1, 1)))
	s.provider.answer = s.families.answer
	s.provider.mu.Unlock()
	s.callers = []broker.Caller{s.caller}
	for _, id := range analystAgencies[1:] {
		cert := newCert(t, time.Hour)
		if err := s.b.AddAgency(t.Context(), id, "Agence d'Exemple", mairie, cert); err != nil {
			t.Fatal(err)
		}
		caller, err := s.b.Authenticate(cert)
		if err != nil {
			t.Fatal(err)
		}
		s.callers = append(s.callers, caller)
		s.investigates(id)
		if _, err := s.b.PutAgreement(t.Context(), policy.Agreement{
			ID: policy.AgreementID("cantine-" + id), Agency: policy.AgencyID(id), Service: "household", Scopes: []policy.Scope{"members", "quotient"},
			Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
		}); err != nil {
			t.Fatal(err)
		}
	}
	s.investigates(analystAgencies[0])
	if _, err := s.b.PutAgreement(t.Context(), policy.Agreement{
		ID: "cantine-mairie", Agency: "mairie", Service: "household", Scopes: []policy.Scope{"members", "quotient"}, Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(1000 * time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// investigates gives an agency an agreement with a lawful delay. All have the same authority and article: these are public.
func (s *scene) investigates(agency string) {
	s.t.Helper()
	a := enquete()
	a.ID, a.Agency = policy.AgreementID("enquete-"+agency), policy.AgencyID(agency)
	if _, err := s.b.PutAgreement(s.t.Context(), a); err != nil {
		s.t.Fatal(err)
	}
}

// ask has an agency ask about somebody.
func (s *scene) ask(agency int, who proof.Pivot, scopes ...string) error {
	req := request()
	req.Agreement, req.Subject.Pivot, req.Scopes = "cantine-"+analystAgencies[agency], who, scopes
	return s.send(agency, req)
}

// investigate has an agency ask about somebody who learns of it later.
func (s *scene) investigate(agency int, who proof.Pivot) error {
	req := secretly()
	req.Agreement, req.Subject.Pivot = "enquete-"+analystAgencies[agency], who
	return s.send(agency, req)
}

func (s *scene) send(agency int, req *broker.Request) error {
	a, err := s.b.Disclose(s.t.Context(), s.callers[agency], req)
	if err != nil {
		return fmt.Errorf("a request of %s: %w", analystAgencies[agency], err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if agency == 0 {
		s.mine = append(s.mine, a.ID)
	}
	if strings.HasPrefix(req.Agreement, "enquete-") {
		s.delayed = append(s.delayed, a.ID)
	}
	return nil
}

// somebody draws a person: some are asked about often, most seldom.
func (f *families) somebody(rng *rand.Rand) proof.Pivot {
	x := rng.Float64()
	home := f.of[int(x*x*float64(len(f.of)))]
	return home[rng.IntN(len(home))]
}

// play carries out a season, with all its epochs closed.
func (s *scene) play(c season) {
	s.t.Helper()
	rng := rand.New(rand.NewPCG(2, 2))
	var over []store.ID // delays of the epoch before
	for range c.epochs {
		work, ctx := errgroup.WithContext(s.t.Context())
		work.SetLimit(c.atOnce)
		for n := range c.requests {
			if n*c.accesses/c.requests != (n+1)*c.accesses/c.requests { // the looks are spread among the requests
				who := s.families.somebody(rng)
				work.Go(func() error {
					_, err := s.b.History(ctx, subjectOf(s.t, who), helpDesk, broker.HistoryPage{Limit: 3})
					return err
				})
			}
			if n*c.delays/c.requests != (n+1)*c.delays/c.requests {
				agency, who := rng.IntN(len(s.callers)), s.families.somebody(rng)
				work.Go(func() error { return s.investigate(agency, who) })
				if k := n * c.delays / c.requests; k < len(over) {
					id := over[k]
					work.Go(func() error {
						_, err := s.b.EndDeferral(ctx, id, "mainlevée")
						return err
					})
				}
			}
			agency, who := rng.IntN(len(s.callers)), s.families.somebody(rng)
			scopes := []string{"quotient"}
			switch rng.IntN(10) {
			case 0:
				scopes = []string{"address"} // refused
			case 1, 2, 3:
				scopes = []string{"quotient", "members"}
			}
			work.Go(func() error { return s.ask(agency, who, scopes...) })
		}
		if err := work.Wait(); err != nil {
			s.t.Fatal(err)
		}
		over, s.delayed = s.delayed, nil
		s.hear()
		erased := map[proof.Pivot]bool{}
		for range c.erasures {
			who := s.families.somebody(rng)
			if erased[who] {
				continue
			}
			erased[who] = true
			work.Go(func() error {
				e, err := s.b.Erase(context.WithoutCancel(ctx), subjectOf(s.t, who), "rgpd-17")
				if err == nil {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.told[e.Index] = fact{subject: subjectOf(s.t, who), disclosure: -1}
				}
				return err
			})
		}
		if err := work.Wait(); err != nil {
			s.t.Fatal(err)
		}
		s.turn()
	}
	for _, id := range over {
		if _, err := s.b.EndDeferral(s.t.Context(), id, "mainlevée"); err != nil {
			s.t.Fatal(err)
		}
	}
	if len(over) > 0 {
		s.turn()
	}
}

// turn ends the epoch.
func (s *scene) turn() {
	s.t.Helper()
	open := s.b.Log().OpenEpoch()
	s.late.Add(int64(time.Until(open.Until)) - s.late.Load())
	for try := 0; s.b.Log().OpenEpoch().Number == open.Number; try++ {
		if try == 100 {
			s.t.Fatal("the epoch doesn't close")
		}
		if err := s.ask(1, s.families.of[0][0], "quotient"); err != nil {
			s.t.Fatal(err)
		}
	}
}

// hear learns the truth about all records that can be opened.
func (s *scene) hear() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.b.Told(s.t.Context(), func(i proof.Index, o proof.Opening) {
		n := fact{disclosure: -1}
		var err error
		if n.subject, err = o.Subject(); err != nil {
			s.t.Error(err)
		}
		if o.Schema() == proof.SchemaDisclosure {
			id := o.Text(proof.DisclosureID)
			if _, ok := s.ids[id]; !ok {
				s.ids[id] = len(s.ids)
			}
			n.disclosure, n.asked = s.ids[id], o.Text(proof.DisclosureRole) == proof.RoleAsked
		}
		s.told[i] = n
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// copies gives the analyst what it has, and the test the truth.
func (s *scene) copies() (*analyst.View, *analyst.Truth) {
	s.t.Helper()
	s.hear()
	ctx := s.t.Context()
	cp, err := s.b.Log().AwaitPublished(ctx, proof.Index(s.b.Log().Checkpoint().Size()-1))
	if err != nil {
		s.t.Fatal(err)
	}
	v, err := analyst.Read(s.b.PublicDir(), cp)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	ends := slices.Clone(s.ends)
	s.mu.Unlock()
	if err := v.SetBatches(ends); err != nil {
		s.t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+store.FileIn(filepath.Join(s.cfg.DataDir, "store"))+"?_pragma=query_only(1)&_pragma=busy_timeout(5000)")
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	each := func(query string, f func(scan func(...any) error) error) {
		rows, err := db.QueryContext(ctx, query)
		for err == nil && rows.Next() {
			err = f(rows.Scan)
		}
		if err != nil || rows.Err() != nil {
			s.t.Fatal(err, rows.Err())
		}
		rows.Close()
	}
	each("SELECT log_index, identity FROM leaves", func(scan func(...any) error) error {
		var i int
		var id []byte
		err := scan(&i, &id)
		if i < len(v.Entries) {
			copy(v.Entries[i].Identity[:], id)
		}
		return err
	})
	for _, id := range s.mine {
		a, err := s.b.Disclosure(ctx, s.callers[0], id)
		if err != nil {
			s.t.Fatal(err)
		}
		r, err := proof.ParseReceipt(a.Receipt)
		if err == nil {
			err = v.Hold(r)
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return v, s.truth(v)
}

func (s *scene) truth(v *analyst.View) *analyst.Truth {
	n := len(v.Entries)
	for i := range v.Entries {
		if d := v.Entries[i].Ends; d >= 0 {
			s.told[proof.Index(d)] = s.told[proof.Index(i)] // one record
		}
	}
	t := &analyst.Truth{Person: make([]int, n), Disclosure: make([]int, n), Asked: make([]bool, n), Item: make([]int, n), ItemPerson: make([]int, len(v.Items))}
	type name struct {
		typ   proof.SubjectType
		value string
	}
	people, homes := map[name]int{}, map[string]int{}
	for i := range v.Entries {
		t.Person[i], t.Disclosure[i], t.Item[i] = -1, -1, -1
		told, ok := s.told[proof.Index(i)]
		if !ok {
			if v.Entries[i].Kind.Filed() || v.Entries[i].Kind == proof.KindDeferred {
				s.t.Errorf("nobody knows whom entry %d is about", i)
			}
			continue
		}
		who := name{told.subject.Type(), told.subject.Value()}
		if _, ok := people[who]; !ok {
			people[who] = len(people)
			home, _, _ := strings.Cut(told.subject.Value(), "|")
			if _, ok := homes[home]; !ok {
				homes[home] = len(homes)
			}
			t.Household = append(t.Household, homes[home])
		}
		t.Person[i], t.Disclosure[i], t.Asked[i] = people[who], told.disclosure, told.asked
	}
	at := map[string]int{}
	for i, it := range v.Items {
		at[it.Epoch.String()+it.Label.String()] = i
		t.ItemPerson[i] = -1
	}
	for epoch := range s.b.Log().OpenEpoch().Number {
		err := s.b.Store().FilingsAfter(s.t.Context(), epoch, nil, func(f ledger.Filing) error {
			it, ok := at[epoch.String()+f.Label.String()]
			if !ok {
				return fmt.Errorf("a label that isn't in the index of epoch %d", epoch)
			}
			if p := t.ItemPerson[it]; p >= 0 && p != t.Person[f.Index] {
				return errors.New("a roll of two people")
			}
			t.Item[f.Index], t.ItemPerson[it] = it, t.Person[f.Index]
			return nil
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return t
}
