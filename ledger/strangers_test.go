package ledger_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"filippo.io/torchwood"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// checkWithFsck has Tessera's checker read the whole log over HTTP, from its own handler, and from a file server that knows nothing of logs, as any static server or CDN does.
func checkWithFsck(t *testing.T, env *ledgertest.Env) {
	t.Helper()
	for _, h := range []http.Handler{tiles.Handler(env.Dir), http.FileServer(http.Dir(env.Dir))} {
		checkServed(t, env, h)
	}
}

func checkServed(t *testing.T, env *ledgertest.Env, h http.Handler) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	base, err := url.Parse(srv.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	f, err := client.NewHTTPFetcher(base, srv.Client())
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(env.VKey)
	if err != nil {
		t.Fatal(err)
	}
	hashes := func(bundle []byte) ([][]byte, error) {
		var b api.EntryBundle
		if err := b.UnmarshalText(bundle); err != nil {
			return nil, err
		}
		var out [][]byte
		for _, e := range b.Entries {
			out = append(out, rfc6962.DefaultHasher.HashLeaf(e))
		}
		return out, nil
	}
	if err := fsck.New(ledgertest.Origin, v, f, hashes, fsck.Opts{N: 2}).Check(context.Background()); err != nil {
		t.Errorf("tessera's fsck: %v", err)
	}
}

// Clients that others wrote read our log, our tiles and our receipts.
func TestStrangersAgree(t *testing.T) {
	ctx := context.Background()
	env := ledgertest.New(t)
	l := env.Open()
	type one struct {
		index proof.Index
		open  proof.Opening
	}
	var all []one
	for i := range 700 { // publishes several times on the way
		g, o := ledgertest.Disclosure(ledgertest.Person(i % 50))
		a, err := l.Append(ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, one{a.Entries[0].Index, o[0]})
		if i == 400 {
			env.Wait(l)
			checkWithFsck(t, env)
		}
	}
	turnEpoch(t, env, l)
	cp := env.Wait(l)
	checkWithFsck(t, env)

	srv := httptest.NewServer(l.Handler())
	defer srv.Close()
	v, err := note.NewVerifier(env.VKey)
	if err != nil {
		t.Fatal(err)
	}
	policy := torchwood.ThresholdPolicy(2, torchwood.OriginPolicy(ledgertest.Origin), torchwood.SingleVerifierPolicy(v))

	// Receipts, settled ones, with torchwood's reader of tlog-proof.
	for _, x := range all[:100] {
		r, err := l.Receipt(ctx, x.index, x.open)
		if err != nil {
			t.Fatal(err)
		}
		if err := torchwood.VerifyProof(policy, tlog.RecordHash(r.EntryText()), r.TLogProof()); err != nil {
			t.Fatalf("torchwood refuses the proof of entry %d: %v", x.index, err)
		}
		if err := torchwood.VerifyProof(policy, tlog.RecordHash([]byte("another")), r.TLogProof()); err == nil {
			t.Fatal("torchwood accepts the proof for another entry")
		}
	}

	// All entries, with torchwood's client, which checks every tile on the way.
	fetcher, err := torchwood.NewTileFetcher(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	c, err := torchwood.NewClient(fetcher)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := fetcher.ReadEndpoint(ctx, "checkpoint")
	if err != nil || !bytes.Equal(signed, cp.Note()) {
		t.Fatalf("checkpoint over HTTP: %v", err)
	}
	head, _, err := torchwood.VerifyCheckpoint(signed, policy)
	if err != nil {
		t.Fatal(err)
	}
	var texts [][]byte
	for i, e := range c.AllEntries(ctx, head.Tree, 0) {
		if i != int64(len(texts)) {
			t.Fatalf("entry %d after %d", i, len(texts))
		}
		texts = append(texts, bytes.Clone(e))
	}
	if err := c.Err(); err != nil || uint64(len(texts)) != cp.Size() {
		t.Fatalf("torchwood read %d of %d entries: %v", len(texts), cp.Size(), err)
	}

	// The same root, computed by x/mod's reference code from the entries.
	var stored []tlog.Hash
	reader := tlog.HashReaderFunc(func(idx []int64) ([]tlog.Hash, error) {
		var out []tlog.Hash
		for _, i := range idx {
			out = append(out, stored[i])
		}
		return out, nil
	})
	for i, e := range texts {
		h, err := tlog.StoredHashes(int64(i), e, reader)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, h...)
	}
	if root, err := tlog.TreeHash(int64(len(texts)), reader); err != nil || proof.Hash(root) != cp.Root() {
		t.Errorf("x/mod's root differs: %v", err)
	}
	for _, tile := range tlog.NewTiles(8, 0, int64(len(texts))) {
		want, err := tlog.ReadTileData(tile, reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := fetcher.ReadEndpoint(ctx, torchwood.TilePath(tile))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("tile %s differs from x/mod's: %v", torchwood.TilePath(tile), err)
		}
	}

	// The index is a tree of tiles too: its entries give the root in the marker.
	closed, err := env.Store.Epoch(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	indexFetcher, err := torchwood.NewTileFetcher(srv.URL + "/index/0")
	if err != nil {
		t.Fatal(err)
	}
	ic, err := torchwood.NewClient(indexFetcher)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range ic.AllEntries(ctx, tlog.Tree{N: 1 << closed.Bits, Hash: tlog.Hash(closed.Root)}, 0) {
		b, err := proof.ParseBucket(e)
		if err != nil {
			t.Fatal(err)
		}
		n += len(b.Items)
	}
	if err := ic.Err(); err != nil || n != int(closed.Items) {
		t.Errorf("the index has %d of %d items: %v", n, closed.Items, err)
	}
}

func TestBlob(t *testing.T) {
	env := ledgertest.NewInMemory(t)
	l := env.Open()
	data := []byte("package regard\n")
	h, err := l.PutBlob(context.Background(), data)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(l.Handler())
	defer srv.Close()
	res, err := http.Get(srv.URL + "/blob/" + hexOf(h))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil || !bytes.Equal(b.Bytes(), data) || tlogSum(b.Bytes()) != h {
		t.Errorf("blob over HTTP: %q %v", b.Bytes(), err)
	}
}

func hexOf(h proof.Hash) string { return hex.EncodeToString(h[:]) }

func tlogSum(b []byte) proof.Hash { return sha256.Sum256(b) }
