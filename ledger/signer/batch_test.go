package signer_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/regard-broker/regard/ledger/engine"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/signer"
)

// addTo adds leaves through a server, and returns the root that came with the answer, if one did.
func addTo(t testing.TB, addr string, tree int64, batch []*trillian.LogLeaf) (*trillian.AddSequencedLeavesResponse, *types.LogRootV1) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var trailer metadata.MD
	res, err := trillian.NewTrillianLogClient(conn).AddSequencedLeaves(t.Context(), &trillian.AddSequencedLeavesRequest{LogId: tree, Leaves: batch}, grpc.Trailer(&trailer))
	if err != nil {
		t.Fatal(err)
	}
	v := trailer.Get(engine.RootKey)
	if len(v) == 0 {
		return res, nil
	}
	var root types.LogRootV1
	if err := root.UnmarshalBinary([]byte(v[0])); err != nil {
		t.Fatal(err)
	}
	return res, &root
}

// led waits until a signer integrates.
func led(t testing.TB, s *signer.Signer) {
	t.Helper()
	ledgertest.Await(t, "the signer to lead", func() bool { return signer.Leads(s) })
}

// stored is the size of the newest root in the database.
func stored(t testing.TB, dsn string) (size int64) {
	t.Helper()
	if err := connect(t, dsn).QueryRow(t.Context(), "SELECT TreeSize FROM TreeHead ORDER BY TreeHeadTimestamp DESC LIMIT 1").Scan(&size); err != nil {
		t.Fatal(err)
	}
	return size
}

// TestBatch: leaves that follow the tree are in it, durably, when the server of the signer that leads has answered, and its answer says the root. Another server only adds them; both end at the same tree.
func TestBatch(t *testing.T) {
	t.Parallel()
	dsn, tree := database(t)
	a, b := socket(t), socket(t)
	led(t, start(t, signer.Config{DSN: dsn, Listen: a}))
	start(t, signer.Config{DSN: dsn, Listen: b})
	size := int64(0)
	for _, n := range []int64{1, 2, 300, 1024} {
		res, root := addTo(t, a, tree, leaves(size, n))
		for i, c := range statuses(t, res) {
			if c != codes.OK {
				t.Errorf("leaf %d was answered %v", size+int64(i), c)
			}
		}
		size += n
		if root == nil || int64(root.TreeSize) != size || !bytes.Equal(root.RootHash, wantRoot(t, size)) {
			t.Fatalf("after %d leaves the answer says %+v", size, root)
		}
		if got := stored(t, dsn); got != size {
			t.Errorf("the database has a root of %d, the answer said %d", got, size)
		}
	}
	// More than the master takes at once, and leaves that come through the other server.
	if _, root := addTo(t, a, tree, leaves(size, 1025)); root != nil {
		t.Errorf("more than a batch: %+v", root)
	}
	l := dial(t, b)
	awaitSize(t, l, size+1025)
	size += 1025
	if _, root := addTo(t, b, tree, leaves(size, 10)); root != nil {
		t.Errorf("from a server that only adds: %+v", root)
	}
	awaitSize(t, l, size+10)
	size += 10
	// And the master's goes on from there.
	if _, root := addTo(t, a, tree, leaves(size, 10)); root == nil || !bytes.Equal(root.RootHash, wantRoot(t, size+10)) {
		t.Errorf("after leaves of the other server: %+v", root)
	}
	res, err := l.Client().GetLeavesByRange(t.Context(), &trillian.GetLeavesByRangeRequest{LogId: tree, StartIndex: size, Count: 10})
	if err != nil || len(res.Leaves) != 10 {
		t.Fatalf("reading leaves: %d, %v", len(res.GetLeaves()), err)
	}
	for i, want := range leaves(size, 10) {
		if got := res.Leaves[i]; !bytes.Equal(got.LeafValue, want.LeafValue) || !bytes.Equal(got.LeafIdentityHash, want.LeafIdentityHash) || len(got.MerkleLeafHash) != 32 {
			t.Errorf("leaf %d is %v", size+int64(i), got)
		}
	}
}

// TestBatchBesideOthers: leaves that are there, and aren't in the tree, are said to be there; all of them come into it.
func TestBatchBesideOthers(t *testing.T) {
	t.Parallel()
	dsn, tree := database(t)
	addr := socket(t)
	led(t, start(t, signer.Config{DSN: dsn, Listen: addr}))
	l := dial(t, addr)
	grow(t, l, 0, 5)
	// Beyond the end of the tree: nothing to be integrated.
	if res, root := addTo(t, addr, tree, leaves(7, 2)); root != nil || fmt.Sprint(statuses(t, res)) != "[OK OK]" {
		t.Fatalf("beyond the end: %v, %+v", res, root)
	}
	res, root := addTo(t, addr, tree, leaves(5, 3))
	if got := fmt.Sprint(statuses(t, res)); root != nil || got != "[OK OK FailedPrecondition]" {
		t.Fatalf("answered %s, %+v", got, root)
	}
	awaitSize(t, l, 9)
	// One that can't be there keeps the others from coming at once, not from coming.
	other := leaves(9, 3)
	other[2].LeafIdentityHash = leaves(3, 1)[0].LeafIdentityHash
	res, root = addTo(t, addr, tree, other)
	if got := fmt.Sprint(statuses(t, res)); root != nil || got != "[OK OK FailedPrecondition]" {
		t.Fatalf("answered %s, %+v", got, root)
	}
	awaitSize(t, l, 11)
	if _, root := addTo(t, addr, tree, leaves(11, 2)); root == nil || root.TreeSize != 13 {
		t.Errorf("the next batch: %+v", root)
	}
}

// TestBatchOfAStranger: a tree that somebody else has grown is refused to a batch as well, and found again afterwards.
func TestBatchOfAStranger(t *testing.T) {
	t.Parallel()
	dsn, tree := database(t)
	addr := socket(t)
	led(t, start(t, signer.Config{DSN: dsn, Listen: addr}))
	if _, root := addTo(t, addr, tree, leaves(0, 5)); root == nil {
		t.Fatal("no batch")
	}
	conn := connect(t, dsn)
	if _, err := conn.Exec(t.Context(), `INSERT INTO TreeHead (TreeId, TreeHeadTimestamp, TreeSize, RootHash, RootSignature)
		SELECT TreeId, TreeHeadTimestamp + 1, TreeSize, RootHash, '' FROM TreeHead ORDER BY TreeHeadTimestamp DESC LIMIT 1`); err != nil {
		t.Fatal(err)
	}
	if _, root := addTo(t, addr, tree, leaves(5, 5)); root != nil {
		t.Errorf("a batch on another root: %+v", root)
	}
	awaitSize(t, dial(t, addr), 10)
}

// TestRootThatNobodyTold: who lost the answer to a batch, and asks another server for the root, gets it from the database.
func TestRootThatNobodyTold(t *testing.T) {
	t.Parallel()
	dsn, tree := database(t)
	a := socket(t)
	led(t, start(t, signer.Config{DSN: dsn, Listen: a}))
	other := start(t, signer.Config{DSN: dsn, Listen: socket(t)})
	ledgertest.Await(t, "the other signer to listen", func() bool { return signer.Listening(other) })
	if _, root := addTo(t, a, tree, leaves(0, 5)); root == nil {
		t.Fatal("no batch")
	}
	ledgertest.Await(t, "the root to be heard of", func() bool { root, ok := signer.AwaitRoot(t.Context(), other, 5); return ok && root.TreeSize == 5 })
}

// TestBatchesUnknown: a database that an earlier version prepared has leaves added one way only.
func TestBatchesUnknown(t *testing.T) {
	t.Parallel()
	dsn, tree := database(t)
	if _, err := connect(t, dsn).Exec(t.Context(), "DROP FUNCTION regard_grow"); err != nil {
		t.Fatal(err)
	}
	addr := socket(t)
	led(t, start(t, signer.Config{DSN: dsn, Listen: addr}))
	l := dial(t, addr)
	for i := range int64(3) {
		if res, root := addTo(t, addr, tree, leaves(5*i, 5)); root != nil || statuses(t, res)[0] != codes.OK {
			t.Errorf("answered %v, %+v", res, root)
		}
		awaitSize(t, l, 5*i+5)
	}
}

// TestRootComesAlong: a broker that has added leaves knows the root without asking, once.
func TestRootComesAlong(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	s := start(t, signer.Config{DSN: dsn, Listen: addr})
	led(t, s)
	l := dial(t, addr)
	if err := add(t.Context(), l, 0, 20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	r, err := root(t.Context(), l)
	if err != nil || r.TreeSize != 20 || !bytes.Equal(r.RootHash, wantRoot(t, 20)) {
		t.Fatalf("the root is %+v, %v", r, err)
	}
	away, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if r, err := root(away, l); err == nil {
		t.Errorf("a root of a server that is away: %+v", r)
	}
}

// TestBatchesAndStock: Trillian's own server has what came in batches, and the other way round.
func TestBatchesAndStock(t *testing.T) {
	t.Parallel()
	dsn, tree := database(t)
	addr := socket(t)
	led(t, start(t, signer.Config{DSN: dsn, Listen: addr}))
	l := dial(t, startStock(t, dsn).addr)
	for size := int64(0); size < 300; size += 100 {
		if _, root := addTo(t, addr, tree, leaves(size, 60)); root == nil {
			t.Fatal("no batch")
		}
		awaitSize(t, l, size+60)
		grow(t, l, size+60, size+100)
	}
	res, err := l.Client().GetInclusionProof(t.Context(), &trillian.GetInclusionProofRequest{LogId: tree, LeafIndex: 230, TreeSize: 300})
	if err != nil || len(res.GetProof().GetHashes()) == 0 {
		t.Errorf("a proof by Trillian: %v, %v", res, err)
	}
}
