package broker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/cluster"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedpg"
	"github.com/regard-broker/regard/ledger/tiles"
)

// sharedPast is a log of several brokers in which much happens after the dump of its store, and whose brokers have ended.
type sharedPast struct {
	*sharing
	dump, signedDump    []byte
	size                uint64 // of the order in the dump, at least
	erased, kept, after *broker.Answer
}

func newSharedPast(t *testing.T) *sharedPast {
	t.Helper()
	p := &sharedPast{sharing: newSharing(t)}
	p.provider.answer = couple
	p.lead("a")
	p.populate()
	p.erased, p.kept = p.disclose(asker("TUE EFFACE")), p.disclose(asker("TUE GARDE"))
	p.size = p.b.Log().Checkpoint().Size()
	p.dump, p.signedDump = p.save(p.main), p.save(p.signed)
	if _, err := p.b.Erase(t.Context(), subjectOf(t, killPivot("TUE EFFACE")), "rgpd-17"); err != nil {
		t.Fatal(err)
	}
	if err := p.b.AddAgency(t.Context(), "prefecture", "Préfecture", mairie, newCert(t, time.Hour)); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		p.after = p.disclose(asker("TUE " + letters(int64(i+1))))
	}
	p.end(p.b) // what was signed is published by then
	return p
}

// lead starts a broker, which leads alone.
func (x *sharing) lead(name string) {
	x.t.Helper()
	x.start(name)
	x.b, _ = x.leader()
}

// save dumps a database, as pg_dump does.
func (x *sharing) save(database string) []byte {
	x.t.Helper()
	dump, err := x.cluster.Dump(x.t.Context(), database)
	if err != nil {
		x.t.Fatal(err)
	}
	return dump
}

// putBack puts a database back, as pg_restore does.
func (x *sharing) putBack(database string, dump []byte) {
	x.t.Helper()
	if err := x.cluster.Load(x.t.Context(), database, dump); err != nil {
		x.t.Fatal(err)
	}
}

// anew gives a database back empty.
func (x *sharing) anew(database string) {
	x.t.Helper()
	if err := x.cluster.SQL(x.t.Context(), "postgres", fmt.Sprintf("DROP DATABASE %[1]s WITH (FORCE)", database)); err != nil {
		x.t.Fatal(err)
	}
	if err := x.cluster.SQL(x.t.Context(), "postgres", "CREATE DATABASE "+database); err != nil {
		x.t.Fatal(err)
	}
}

// newTree gives Trillian a new, empty database.
func (x *sharing) newTree() {
	x.t.Helper()
	x.stopSigner()
	x.anew(x.tree)
	x.startSigner()
}

func (x *sharing) restore() (*broker.Restored, error) {
	return broker.Restore(x.t.Context(), x.config("restore"), "")
}

// row reads one row of the store's database.
func (x *sharing) row(query string, into ...any) {
	x.t.Helper()
	c, err := pgx.Connect(x.t.Context(), x.cluster.Superuser(x.main))
	if err != nil {
		x.t.Fatal(err)
	}
	defer c.Close(x.t.Context())
	if err := c.QueryRow(x.t.Context(), query).Scan(into...); err != nil {
		x.t.Fatal(err)
	}
}

// count asks the store's database for a number.
func (x *sharing) count(query string) (n int64) {
	x.t.Helper()
	x.row(query, &n)
	return n
}

// signatures are the stored and the published checkpoint.
func (x *sharing) signatures() (signed, published string) {
	x.t.Helper()
	s, err := signedpg.Open(x.t.Context(), x.shared.Signed, origin)
	if err != nil {
		x.t.Fatal(err)
	}
	defer s.Close()
	last, err := s.Last(x.t.Context())
	if err != nil {
		x.t.Fatal(err)
	}
	cp, err := os.ReadFile(filepath.Join(x.shared.PublicDir, "checkpoint"))
	if err != nil {
		x.t.Fatal(err)
	}
	return string(last), string(cp)
}

// refused wants a start to end with the log halted, and nothing to be signed.
func (x *sharing) refused(words ...string) {
	x.t.Helper()
	signed, published := x.signatures()
	b, err := x.try("refused")
	if err == nil {
		x.all = append(x.all, b)
		x.end(b)
		x.t.Fatal("a broker started")
	}
	for _, w := range words {
		if !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), w) {
			x.t.Errorf("%v, want a halted log and %q", err, w)
		}
	}
	if s, p := x.signatures(); s != signed || p != published {
		x.t.Error("something was signed or published")
	}
}

// TestRestoreShared: a dump of the store that is put back is refused until it is brought up to the log. Then the log goes on, those who were erased since stay so, and what is lost says so.
func TestRestoreShared(t *testing.T) {
	t.Parallel()
	p := newSharedPast(t)
	p.putBack(p.main, p.dump)
	p.refused("the store is an older copy", "regard restore")

	// A group that was on its way when the backup was made: it may have had its place since.
	body, err := store.EncodeGroup(ledger.Group{Entries: []proof.Entry{proof.KeyChanged{Key: "record.1999-01", Use: proof.UseRecord, State: proof.Active}}, Attach: &store.Note{Name: "key of old"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cluster.SQL(t.Context(), p.main, fmt.Sprintf("INSERT INTO handed (id, body) VALUES ('\\x00112233445566778899aabbccddeeff', '\\x%x')", body)); err != nil {
		t.Fatal(err)
	}
	term := p.count("SELECT term FROM lease")
	signed, published := p.signatures()
	r, err := p.restore()
	if err != nil {
		t.Fatal(err)
	}
	if r.Backup != nil || r.Done || r.Lost == 0 || r.Lost > r.Size-p.size || r.Erased != 1 || r.Unsigned != 0 || len(r.Missing) != 1 || !strings.Contains(r.Missing[0], "prefecture") {
		t.Errorf("restored: %+v", r)
	}
	if s, pub := p.signatures(); s != signed || pub != published {
		t.Error("restoring signed or published something")
	}
	if now := p.count("SELECT term FROM lease"); now < term+1_000_000_000_000 {
		t.Errorf("term %d after %d: it may have been used since the backup", now, term)
	}
	if n := p.count("SELECT (SELECT count(*) FROM handed) + (SELECT count(*) FROM members)"); n != 0 {
		t.Errorf("%d groups and members of then are left", n)
	}
	// It may have been interrupted before it could say that it was done.
	if again, err := p.restore(); err != nil || !again.Done || again.Size != r.Size {
		t.Errorf("again: %+v, %v", again, err)
	}

	p.start("b")
	p.start("c")
	leads, follows := p.leader()
	p.known(follows[0])
	if n := p.count("SELECT count(*) FROM meta WHERE name = 'key of old'"); n != 0 {
		t.Error("a group of before the backup was put into the log")
	}
	p.whole(leads, r)
	p.whole(follows[0], r)
}

// whole wants a broker to show a restored log as it is, and to go on with it.
func (p *sharedPast) whole(b *broker.Broker, r *broker.Restored) {
	t := p.t
	t.Helper()
	p.b = b
	p.verify(p.erased.Receipt)
	p.verify(p.after.Receipt)
	p.extends(p.erased)
	p.extends(p.kept)
	if !p.hidden(p.erased) || p.hidden(p.kept) {
		t.Error("the erased person can be read again, or another one can't")
	}
	want := []store.Range{{From: proof.Index(r.Size - r.Lost), To: proof.Index(r.Size)}}
	if h := p.history(subjectOf(t, killPivot("TUE EFFACE")), broker.HistoryPage{}); len(h.Entries) != 1 || h.Entries[0].State != broker.HistoryErased || !cmp.Equal(h.Lost, want) {
		t.Errorf("history of the erased person: %+v, lost %v, want %v", h.Entries, h.Lost, want)
	}
	if _, err := b.Disclosure(t.Context(), p.caller, p.after.ID); broker.AsProblem(err).Status != 404 {
		t.Errorf("a lost record: %v", err)
	}
	a := p.disclose(asker("TUE APRES " + strings.ToUpper(letters(int64(len(p.logs.String())%17+1)))))
	if v := p.verify(a.Receipt); v.Size <= r.Size {
		t.Errorf("a receipt under %d entries after one under %d", v.Size, r.Size)
	}
	// What a receipt of before shows stands in the log of now, and the entry behind the old checkpoint says what was lost.
	after, err := proof.ParseReceipt(p.after.Receipt)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := b.Log().AwaitPublished(t.Context(), proof.Index(r.Size))
	if err != nil {
		t.Fatal(err)
	}
	tree := tiles.Tree{Dir: p.shared.PublicDir, Size: cp.Size(), Root: cp.Root()}
	path, err := tree.Inclusion(uint64(after.Index()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proof.VerifyEntry(cp, proof.Proven{Index: after.Index(), Text: after.EntryText(), Path: path}); err != nil {
		t.Errorf("an entry of which a receipt is out isn't in the log any more: %v", err)
	}
	text, err := tree.Entry(r.Size)
	if err != nil {
		t.Fatal(err)
	}
	e, err := proof.ParseEntry(text)
	if restart, ok := e.(proof.Restart); err != nil || !ok || restart.Size != r.Size || restart.Reason != "restored" || restart.Lost != (proof.Lost{From: want[0].From, To: want[0].To - 1}) {
		t.Errorf("first entry after the restoration: %+v, %v", e, err)
	}
}

// TestRestoreSharedWithoutTrillian: the store is an older one and Trillian has nothing: the entries come from the tiles, and Trillian's tree from the store.
func TestRestoreSharedWithoutTrillian(t *testing.T) {
	t.Parallel()
	p := newSharedPast(t)
	p.putBack(p.main, p.dump)
	p.newTree()
	p.refused("the store is an older copy")
	r, err := p.restore()
	if err != nil {
		t.Fatal(err)
	}
	if r.Lost == 0 || r.Erased != 1 {
		t.Errorf("restored: %+v", r)
	}
	p.lead("b")
	p.whole(p.b, r)
	if !strings.Contains(p.logs.String(), "Trillian's tree is rebuilt") {
		t.Error("Trillian's tree wasn't rebuilt")
	}
}

// TestRestoreSharedFromTrillian: what isn't in the published files comes from Trillian, and without both nothing is restored.
func TestRestoreSharedFromTrillian(t *testing.T) {
	t.Parallel()
	p := newSharedPast(t)
	p.putBack(p.main, p.dump)
	hidden := filepath.Join(t.TempDir(), "tile")
	if err := os.Rename(filepath.Join(p.shared.PublicDir, "tile"), hidden); err != nil {
		t.Fatal(err)
	}
	p.stopSigner()
	if _, err := p.restore(); !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), "neither in the backup nor in the published files nor in Trillian") {
		t.Errorf("without the files and Trillian: %v", err)
	}
	if n := p.count("SELECT count(*) FROM leaves WHERE kind = 'restart@v1'"); n != 0 {
		t.Error("the store was changed")
	}
	p.startSigner()
	r, err := p.restore()
	if err != nil || r.Lost == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if err := os.Rename(hidden, filepath.Join(p.shared.PublicDir, "tile")); err != nil {
		t.Fatal(err)
	}
	p.lead("b")
	p.whole(p.b, r)
}

// TestRestoreSharedRefuses: with brokers at work, without the journal of erasures, or if a mirror saw more, nothing is restored, and nothing is changed.
func TestRestoreSharedRefuses(t *testing.T) {
	t.Parallel()
	p := newSharedPast(t)
	leaves := func() int64 { return p.count("SELECT count(*) FROM leaves") }
	p.lead("b")
	if _, err := p.restore(); !errors.Is(err, cluster.ErrNotAlone) || !strings.Contains(err.Error(), "b: stop") {
		t.Errorf("beside a broker: %v", err)
	}
	p.disclose(asker("TUE ENCORE")) // which still leads
	newer, err := os.ReadFile(filepath.Join(p.shared.PublicDir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	p.end(p.b)
	p.putBack(p.main, p.dump)
	had := leaves()

	shared := p.shared
	p.shared.Keeper = ""
	if _, err := p.restore(); !errors.Is(err, store.ErrNoKeeper) {
		t.Errorf("without the keeper: %v", err)
	}
	p.shared = shared
	if _, err := broker.Restore(t.Context(), p.config("restore"), t.TempDir()); err == nil || !strings.Contains(err.Error(), "PostgreSQL's own means") {
		t.Errorf("from a directory: %v", err)
	}
	journal := p.save(p.signed)
	if err := p.cluster.SQL(t.Context(), p.signed, "DELETE FROM erasures"); err != nil {
		t.Fatal(err)
	}
	if _, err := p.restore(); err == nil || !strings.Contains(err.Error(), "1 erasures after the backup that the journal of erasures doesn't know") {
		t.Errorf("without the journal: %v", err)
	}
	p.putBack(p.signed, journal)

	// Checkpoint and files of a moment before, and a mirror that knows better.
	mirror := filepath.Join(t.TempDir(), "checkpoint")
	if err := os.WriteFile(mirror, newer, 0o600); err != nil {
		t.Fatal(err)
	}
	p.putBack(p.signed, p.signedDump)
	if err := os.Remove(filepath.Join(p.shared.PublicDir, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	p.cfg.Mirrors = []string{mirror}
	if _, err := p.restore(); !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), "they are older copies") {
		t.Errorf("a mirror knows more: %v", err)
	}
	if n := leaves(); n != had {
		t.Errorf("%d entries, there were %d", n, had)
	}
}

// TestRestoreSharedBesideUnsigned: what Trillian has beyond what was signed isn't restored, and its tree has to be made anew before the log goes on.
func TestRestoreSharedBesideUnsigned(t *testing.T) {
	t.Parallel()
	p := newSharedPast(t)
	// The signed checkpoint, published as well, is of before Trillian's last leaves, as after a crash between the two.
	s, pub := p.signatures()
	if s != pub {
		t.Fatal("the published checkpoint isn't the last one")
	}
	files := filepath.Join(t.TempDir(), "public")
	copyTree(t, p.shared.PublicDir, files)
	signed := p.save(p.signed)
	p.lead("b")
	p.disclose(asker("TUE PERDU"))
	p.end(p.b)
	p.putBack(p.main, p.dump)
	p.putBack(p.signed, signed)
	p.shared.PublicDir = files
	r, err := p.restore()
	if err != nil {
		t.Fatal(err)
	}
	if r.Unsigned == 0 {
		t.Errorf("%+v", r)
	}
	p.refused("Give Trillian a new, empty database")
	p.newTree()
	p.lead("c")
	p.whole(p.b, r)
}

// TestTrillianLost: Trillian's database is lost, or put back to an earlier moment: the first broker that leads rebuilds the tree from the store, with the same root.
func TestTrillianLost(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.lead("a")
	x.populate()
	old := x.save(x.tree)
	a := x.disclose(request())
	x.end(x.b)
	_, published := x.signatures()
	for name, lose := range map[string]func(){
		"lost":  x.newTree,
		"older": func() { x.stopSigner(); x.putBack(x.tree, old); x.startSigner() },
	} {
		lose()
		x.lead(name)
		x.extends(a)
		if !strings.Contains(x.logs.String(), "Trillian's tree is rebuilt") {
			t.Errorf("%s: it wasn't rebuilt", name)
		}
		x.logs.Reset()
		a = x.disclose(request())
		x.verify(a.Receipt)
		x.end(x.b)
	}
	if _, now := x.signatures(); now == published {
		t.Error("nothing was published")
	}
}

// TestSignedCheckpointLost: the database of the signed checkpoint is lost, or put back to an earlier moment: the published checkpoint stands in for it.
func TestSignedCheckpointLost(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.lead("a")
	x.populate()
	old := x.save(x.signed)
	answers := []*broker.Answer{x.disclose(request())}
	x.end(x.b)
	for name, lose := range map[string]func(){
		"older": func() { x.putBack(x.signed, old) },
		"lost": func() {
			x.anew(x.signed)
			if err := signedpg.Prepare(t.Context(), x.cluster.Superuser(x.signed), origin); err != nil {
				t.Fatal(err)
			}
		},
	} {
		lose()
		x.lead(name)
		if !strings.Contains(x.logs.String(), "newer than the stored one") {
			t.Errorf("%s: the published checkpoint didn't stand in", name)
		}
		x.logs.Reset()
		answers = append(answers, x.disclose(request()))
		x.end(x.b)
		if signed, published := x.signatures(); signed != published {
			t.Errorf("%s: the stored checkpoint isn't the published one", name)
		}
	}
	x.lead("b")
	for _, a := range answers {
		x.extends(a)
	}
	// Without both the log doesn't begin anew.
	x.end(x.b)
	x.anew(x.signed)
	if err := signedpg.Prepare(t.Context(), x.cluster.Superuser(x.signed), origin); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"checkpoint", "checkpoint.witnessed"} {
		if err := os.Remove(filepath.Join(x.shared.PublicDir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if _, err := x.try("c"); !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), "no signed checkpoint is there") {
		t.Errorf("without any checkpoint: %v", err)
	}
}

// TestStorePutBackBeneath: a store that is put back while brokers are at work makes them unready, and nothing is released.
func TestStorePutBackBeneath(t *testing.T) {
	t.Parallel()
	x := newSharing(t)
	x.provider.answer = couple
	x.start("a")
	x.start("b")
	x.b, _ = x.leader()
	x.populate()
	old := x.save(x.main)
	x.disclose(asker("TUE AVANT"))
	if err := x.cluster.CutOff(t.Context(), x.main); err != nil {
		t.Fatal(err)
	}
	ordered := x.count("SELECT count(*) FROM leaves")
	x.putBack(x.main, old)
	// Who leads notices with the next entry.
	ledgertest.Await(t, "unready brokers", func() bool {
		for _, b := range x.all {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if a, err := b.Disclose(ctx, x.caller, asker("TUE APRES")); err == nil {
				t.Fatalf("something was released: %+v", a)
			}
			cancel()
		}
		return !slices.ContainsFunc(x.all, func(b *broker.Broker) bool {
			err := b.Ready(t.Context())
			return !errors.Is(err, ledger.ErrHalted) || !strings.Contains(err.Error(), "regard restore")
		})
	})
	for _, b := range x.all {
		if _, err := b.Disclose(t.Context(), x.caller, asker("TUE APRES")); broker.AsProblem(err).Code != "log.unavailable" {
			t.Errorf("a request: %v", err)
		}
	}
	// Entries of the brokers' own may have waited for their signature when the store went.
	if signed, _ := x.signatures(); sizeOf(t, []byte(signed)) > uint64(ordered) {
		t.Errorf("signed beyond the %d entries that the store had: %s", ordered, signed)
	}
}
