package broker_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/keys/keystore"
	"github.com/regard-broker/regard/ledger/proof"
)

// stolen is a copy of the whole disk, the keystore included, as a thief has it.
type stolen struct {
	t     *testing.T
	dir   string
	store *store.Store
	ring  *keys.Ring
	raw   map[keys.KeyID][32]byte // every data key that can still be unwrapped
	rows  []keys.StoredKey
}

func steal(t *testing.T, from string) *stolen {
	t.Helper()
	s := &stolen{t: t, dir: filepath.Join(t.TempDir(), "stolen"), raw: map[keys.KeyID][32]byte{}}
	copyTree(t, from, s.dir)
	return s
}

// open comes after what has to be searched for in the files as they were found: opening changes them.
func (s *stolen) open() {
	s.t.Helper()
	ctx := s.t.Context()
	custodian, err := keystore.Open(killKeystore(s.dir))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { custodian.Close() })
	if s.store, err = store.Open(ctx, store.Config{Dir: filepath.Join(s.dir, "store")}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.store.Close() })
	if s.ring, err = keys.New(ctx, keys.Config{Custodian: custodian, Store: s.store}); err != nil {
		s.t.Fatal(err)
	}
	if s.rows, err = s.store.ListKeys(ctx, "", keys.KeyID{}, 10_000); err != nil {
		s.t.Fatal(err)
	}
	for _, k := range s.rows {
		ad := fmt.Appendf(nil, "regard/key/v1\x00%s\x00", k.Kind)
		ad = append(append(append(ad, k.Owner[:]...), k.ID[:]...), k.Period...)
		out, err := custodian.Unwrap(ctx, []keys.WrappedAD{{Wrapped: k.Wrapped, AD: ad}})
		if err != nil {
			s.t.Fatalf("the key %s of kind %s can't be unwrapped, and so not be tried: %v", k.ID, k.Kind, err)
		}
		s.raw[k.ID] = out[0]
	}
}

// blobs reads everything sealed that belongs to an owner, or to nobody in particular, straight from the tables.
func (s *stolen) blobs(owner keys.Owner) (persons, payloads [][]byte) {
	s.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "store", "store.db")+"?_pragma=query_only(1)")
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	read := func(query string, args ...any) (out [][]byte) {
		rows, err := db.QueryContext(s.t.Context(), query, args...)
		if err != nil {
			s.t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var b []byte
			if err := rows.Scan(&b); err != nil {
				s.t.Fatal(err)
			}
			out = append(out, b)
		}
		if err := rows.Err(); err != nil {
			s.t.Fatal(err)
		}
		return out
	}
	persons = read("SELECT person FROM records WHERE owner = ?1 UNION SELECT i.person FROM intents i JOIN disclosures d ON d.seq = i.disclosure WHERE d.owner = ?1 UNION SELECT person FROM erasures WHERE owner = ?1", owner[:])
	return persons, read("SELECT sealed FROM payloads WHERE disclosure IN (SELECT disclosure FROM records WHERE owner = ?)", owner[:])
}

// opens says whether a blob can be opened, by the ring or by any key that is left, whatever it is for.
func (s *stolen) opens(owner keys.Owner, blob []byte) bool {
	s.t.Helper()
	if _, err := s.ring.OpenPerson(s.t.Context(), owner, owner[:], blob); err == nil {
		return true
	} else if !errors.Is(err, keys.ErrNoKey) {
		s.t.Errorf("opening a blob: %v", err)
	}
	return s.unseals(blob, owner[:]) || s.unseals(blob, nil)
}

// unseals says whether any key that is left opens a blob.
func (s *stolen) unseals(blob, ad []byte) bool {
	s.t.Helper()
	const header = 18
	for _, k := range s.raw {
		aead, err := chacha20poly1305.NewX(k[:])
		if err != nil {
			s.t.Fatal(err)
		}
		whole := append(append([]byte("regard/sealed/v1\x00"), blob[:header]...), ad...)
		nonce := blob[header : header+chacha20poly1305.NonceSizeX]
		if _, err := aead.Open(nil, nonce, blob[header+chacha20poly1305.NonceSizeX:], whole); err == nil {
			return true
		}
	}
	return false
}

// reads returns everything that any key of the copy opens, wherever it lies in the store's tables: as whoever has them all would, not as the broker does.
func (s *stolen) reads() (plain [][]byte) {
	s.t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(s.dir, "store", "store.db")+"?_pragma=query_only(1)")
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(s.t.Context(), `SELECT owner, person, r.disclosure, 0 FROM records r UNION ALL SELECT owner, admin, r.disclosure, 0 FROM records r
		UNION ALL SELECT d.owner, i.person, d.seq, 0 FROM intents i JOIN disclosures d ON d.seq = i.disclosure UNION ALL SELECT d.owner, i.admin, d.seq, 0 FROM intents i JOIN disclosures d ON d.seq = i.disclosure
		UNION ALL SELECT owner, person, 0, 0 FROM erasures UNION ALL SELECT owner, admin, 0, 0 FROM erasures UNION ALL SELECT NULL, sealed, disclosure, 1 FROM payloads`)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var owner, blob []byte
		var disclosure sql.NullInt64
		var payload bool
		if err := rows.Scan(&owner, &blob, &disclosure, &payload); err != nil {
			s.t.Fatal(err)
		}
		const header = 18
		ads := [][]byte{nil, owner}
		if payload {
			set := s.set(db, disclosure.Int64)
			ads = append(ads, set[:])
		}
		for _, k := range s.raw {
			aead, err := chacha20poly1305.NewX(k[:])
			if err != nil {
				s.t.Fatal(err)
			}
			for _, ad := range ads {
				ad = append(append([]byte("regard/sealed/v1\x00"), blob[:header]...), ad...)
				if out, err := aead.Open(nil, blob[header:header+chacha20poly1305.NonceSizeX], blob[header+chacha20poly1305.NonceSizeX:], ad); err == nil {
					plain = append(plain, out)
				}
			}
		}
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return plain
}

// set is the digest of a disclosure's entries, which everybody can compute.
func (s *stolen) set(db *sql.DB, disclosure int64) proof.Hash {
	s.t.Helper()
	rows, err := db.QueryContext(s.t.Context(), "SELECT text FROM leaves WHERE log_index IN (SELECT log_index FROM records WHERE disclosure = ?)", disclosure)
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	var set []proof.Commitment
	for rows.Next() {
		var text []byte
		if err := rows.Scan(&text); err != nil {
			s.t.Fatal(err)
		}
		e, err := proof.ParseEntry(text)
		if err != nil {
			s.t.Fatal(err)
		}
		c, ok := proof.CommitmentOf(e)
		if !ok {
			s.t.Fatal("an entry of a disclosure without a commitment")
		}
		set = append(set, c)
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return proof.SetDigest(set)
}

// files is all that lies on the disk, one after the other.
func (s *stolen) files() []byte {
	s.t.Helper()
	var all []byte
	for _, name := range []string{"store/store.db", "store/store.db-wal", "store/store.db-shm", "log/trillian.db", "log/trillian.db-wal", "signed/signed.db", "signed/signed.db-wal"} {
		b, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// withKeystore makes a data directory that holds all that a thief could want.
func withKeystore(t *testing.T) (data string, custodian keys.Custodian) {
	t.Helper()
	data = t.TempDir()
	cfg := killKeystore(data)
	if err := os.Mkdir(filepath.Dir(cfg.Path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(keystore.CreateKeyFile(cfg.KeyFile), keystore.Create(cfg)); err != nil {
		t.Fatal(err)
	}
	c, err := keystore.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return data, unclosed{c}
}

// TestErasedIsUnreadable: whoever takes the whole disk and the keystore the moment Erase has returned, and kept every sealed blob from before, can't open anything of that person.
func TestErasedIsUnreadable(t *testing.T) {
	t.Parallel()
	data, custodian := withKeystore(t)
	w := newWatched(t, func(c *broker.Config) { c.DataDir, c.Custodian = data, custodian })
	w.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		// Everybody has the same child.
		fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":5},"membres":[{"nom":%q,"prenoms":"ZOE","naissance":"1984-02-29","sexe":"F"},{"nom":"ENFANT","prenoms":"NOE","naissance":"2015-06-30","sexe":"M"}],"adresse":"1 RUE"}}`, r.URL.Query().Get("nomNaissance"))
	}
	var mine, others []*broker.Answer
	for i := range 6 {
		req := asker("TUE PARTIE")
		req.IdempotencyKey, req.Context, req.Scopes = fmt.Sprint("mine", i), "CONTEXTE PARTIE", []string{"quotient", "members"}
		mine = append(mine, w.disclose(req))
		others = append(others, w.disclose(asker("TUE RESTE "+letters(int64(i+1)))))
	}
	subject, err := killPivot("TUE PARTIE").Subject()
	if err != nil {
		t.Fatal(err)
	}
	owner, err := w.b.Ring().Owner(subject)
	if err != nil {
		t.Fatal(err)
	}
	child, err := proof.Pivot{BirthName: "ENFANT", GivenNames: "NOE", BirthDate: "2015-06-30", Sex: "M"}.Person().Subject()
	if err != nil {
		t.Fatal(err)
	}
	childOwner, err := w.b.Ring().Owner(child)
	if err != nil {
		t.Fatal(err)
	}
	before := steal(t, data)
	erasure, err := w.b.Erase(t.Context(), subject, "rgpd-17")
	if err != nil {
		t.Fatal(err)
	}
	after := steal(t, data)
	afterFiles := after.files()
	before.open()
	after.open()

	persons, payloads := before.blobs(owner)
	if len(persons) != len(mine) || len(payloads) != len(mine) {
		t.Fatalf("before: %d parts and %d answers", len(persons), len(payloads))
	}
	for _, b := range persons {
		if !before.opens(owner, b) {
			t.Fatal("before the erasure the thief's way doesn't open anything either: it shows nothing")
		}
	}
	late, latePayloads := after.blobs(owner)
	if len(late) <= len(persons) || len(latePayloads) != 0 {
		t.Errorf("afterwards: %d parts and %d answers", len(late), len(latePayloads))
	}
	for _, b := range append(persons, late...) {
		if after.opens(owner, b) {
			t.Error("a part of the erased person can be opened")
		}
	}
	// Whatever any key opens anywhere, answers about others included, says nothing about the erased person.
	speak := func(plain [][]byte) (of, whole int) {
		for _, p := range plain {
			if whole += len(p); bytes.Contains(p, []byte("PARTIE")) {
				of++
			}
		}
		return of, whole
	}
	if of, _ := speak(before.reads()); of < 2*len(mine) {
		t.Fatalf("before the erasure the thief finds the person in %d places only: it shows nothing", of)
	}
	if of, whole := speak(after.reads()); of != 0 || whole == 0 {
		t.Errorf("the erased person is spoken of in %d places, of %d bytes that can be read", of, whole)
	}
	destroyed := 0
	for _, k := range before.rows {
		if k.Owner != owner {
			continue
		}
		destroyed++
		if _, ok := after.raw[k.ID]; ok {
			t.Errorf("the key %s is still there", k.ID)
		}
		if bytes.Contains(afterFiles, k.Wrapped) || bytes.Contains(afterFiles, k.Wrapped[:24]) || bytes.Contains(afterFiles, k.Wrapped[len(k.Wrapped)-24:]) {
			t.Errorf("the wrapped key %s lingers in a file", k.ID)
		}
	}
	if destroyed == 0 {
		t.Error("the person had no keys")
	}
	for _, p := range payloads {
		if bytes.Contains(afterFiles, p) || bytes.Contains(afterFiles, p[len(p)-24:]) {
			t.Error("a sealed answer of the person lingers in a file")
		}
	}
	kept, _ := after.blobs(childOwner)
	if len(kept) != len(mine)+len(others) {
		t.Errorf("the child has %d parts", len(kept))
	}
	for _, b := range kept {
		if !after.opens(childOwner, b) {
			t.Error("a part of somebody else can't be opened any more")
		}
	}
	for _, a := range append(mine, others...) {
		w.verify(a.Receipt) // as handed out before
	}
	for _, a := range others {
		got, err := w.b.Disclosure(t.Context(), w.caller, a.ID)
		if err != nil {
			t.Fatal(err)
		}
		r, err := proof.ParseReceipt(got.Receipt)
		if err != nil {
			t.Fatal(err)
		}
		if _, p := r.Opening().Value(proof.FieldSubject); p != proof.Present {
			t.Error("the receipt of somebody else can't be opened any more")
		}
	}
	if n := strings.Count(string(w.published()), "regard/erasure@v1\n"); n != 1 {
		t.Errorf("the log has %d erasures", n)
	}
	if erasure.Index <= erasure.Reach {
		t.Errorf("the erasure at %d reaches to %d", erasure.Index, erasure.Reach)
	}
}

// TestErasureThatMeetsAFailure: the log goes down in the middle of an erasure. When it is back, the erasure is carried through, by itself or when it is asked for again, and
// what is recorded about the person after the erasure's reach can be read, after a restart too: nothing beyond the reach may be destroyed.
func TestErasureThatMeetsAFailure(t *testing.T) {
	t.Parallel()
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart=%v", restart), func(t *testing.T) {
			f := newFaulty(t)
			w := newWatched(t, func(c *broker.Config) { c.Custodian, c.SweepEvery = f, 50*time.Millisecond })
			w.provider.answer = couple
			before := w.disclose(asker("TUE PARTIE"))
			subject, err := killPivot("TUE PARTIE").Subject()
			if err != nil {
				t.Fatal(err)
			}
			f.down("Sign", keys.ErrSealed)
			if _, err := w.b.Erase(t.Context(), subject, "rgpd-17"); err == nil {
				t.Fatal("erased while nothing could be signed")
			}
			f.up()
			if restart {
				w.close()
				w.open()
			}
			req := asker("TUE PARTIE")
			req.IdempotencyKey = "after"
			after := w.finally(req)
			if after.Outcome != broker.Released {
				t.Fatalf("%+v", after)
			}
			for deadline := time.Now().Add(patience); w.hidden(before) != true; time.Sleep(20 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatal("the erasure that failed was never carried through")
				}
			}
			w.close()
			w.open()
			if w.hidden(after) {
				t.Error("what was recorded after the erasure can't be read")
			}
			e, err := w.b.Erase(t.Context(), subject, "rgpd-17")
			if err != nil {
				t.Fatal(err)
			}
			if !w.hidden(after) || e.Index <= e.Reach {
				t.Errorf("erased again: %+v", e)
			}
		})
	}
}

// hidden says whether a disclosure's person part can't be opened any more.
func (w *world) hidden(a *broker.Answer) bool {
	w.t.Helper()
	got, err := w.b.Disclosure(w.t.Context(), w.caller, a.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.verify(got.Receipt)
	r, err := proof.ParseReceipt(got.Receipt)
	if err != nil {
		w.t.Fatal(err)
	}
	_, p := r.Opening().Value(proof.FieldSubject)
	return p == proof.Hidden
}

// TestErasureAndRequestMeet: an erasure that is asked for while a provider is being asked about the person waits for that request, and the request doesn't wait for the erasure.
func TestErasureAndRequestMeet(t *testing.T) {
	t.Parallel()
	w := newWatched(t, nil)
	asked, answer := make(chan struct{}), make(chan struct{})
	w.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		couple(rw, r)
	}
	subject, err := killPivot("TUE PARTIE").Subject()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var a *broker.Answer
	var wg sync.WaitGroup
	wg.Go(func() {
		var err error
		if a, err = w.b.Disclose(ctx, w.caller, asker("TUE PARTIE")); err != nil || a.Outcome != broker.Released {
			t.Errorf("%+v, %v", a, err)
		}
	})
	<-asked
	var e broker.Erasure
	wg.Go(func() {
		if e, err = w.b.Erase(ctx, subject, "rgpd-17"); err != nil {
			t.Errorf("erasing: %v", err)
		}
	})
	late := asker("TUE PARTIE")
	late.IdempotencyKey, late.Scopes = "", []string{"address"} // refused, so that the provider isn't asked
	for {
		// As soon as the erasure has been asked for, nothing about the person begins.
		if _, err := w.b.Disclose(ctx, w.caller, late); err != nil {
			if p := broker.AsProblem(err); p.Code != "subject.erasing" || p.Status != 503 {
				t.Errorf("%v", err)
			}
			break
		}
	}
	close(answer)
	wg.Wait()
	if a == nil || t.Failed() {
		return
	}
	r, err := proof.ParseReceipt(a.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	if r.Index() > e.Reach || !w.hidden(a) {
		t.Errorf("the request at %d isn't within the erasure's reach %d", r.Index(), e.Reach)
	}
}

// TestErasuresThatCross: two people who stand in the answers about each other are erased again and again while both are asked about. Nobody waits for ever.
func TestErasuresThatCross(t *testing.T) {
	t.Parallel()
	w := newWatched(t, func(c *broker.Config) { c.SweepEvery = 50 * time.Millisecond })
	names := []string{"TUE UN", "TUE AUTRE"}
	people := make([]proof.Subject, 2)
	for i, name := range names {
		var err error
		if people[i], err = killPivot(name).Person().Subject(); err != nil {
			t.Fatal(err)
		}
	}
	w.provider.answer = func(rw http.ResponseWriter, r *http.Request) {
		other := names[0]
		if r.URL.Query().Get("nomNaissance") == other {
			other = names[1]
		}
		time.Sleep(5 * time.Millisecond)
		fmt.Fprintf(rw, `{"data":{"quotient":{"valeur":5},"membres":[{"nom":%q,"prenoms":"ZOE","naissance":"1984-02-29","sexe":"F"}],"adresse":"1 RUE"}}`, other)
	}
	// Asked as person too, so that a request waits for one of them and is waited for by the other.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	done := make(chan struct{})
	for c := range 6 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				req := request()
				req.Subject.Pivot = proof.Pivot{BirthName: names[(c+i)%2], GivenNames: "ZOE", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"}
				if a, err := w.b.Disclose(ctx, w.caller, req); err != nil && broker.AsProblem(err).Code != "subject.erasing" || err == nil && a.Outcome != broker.Released {
					t.Errorf("%+v, %v", a, err)
					return
				}
			}
		})
	}
	var erasing sync.WaitGroup
	for i := range 2 {
		pivot, err := killPivot(names[i]).Subject()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []proof.Subject{pivot, people[i]} {
			erasing.Go(func() {
				for range 3 {
					if _, err := w.b.Erase(ctx, s, "rgpd-17"); err != nil {
						t.Errorf("erasing: %v", err)
					}
				}
			})
		}
	}
	erasing.Wait()
	close(done)
	wg.Wait()
}
