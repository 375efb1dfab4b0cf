package signer_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/trillian"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/regard-broker/regard/ledger/engine"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/remote"
	"github.com/regard-broker/regard/ledger/signer"
)

// ca signs certificates into files of dir.
type ca struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newCA(t *testing.T, name string) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{dir: t.TempDir(), key: key}
	if c.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	c.file = c.write(t, "ca.pem", "CERTIFICATE", der)
	return c
}

func (c *ca) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// issue makes a certificate for client and server alike.
func (c *ca) issue(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, c.cert, k.Public(), c.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return c.write(t, name+".pem", "CERTIFICATE", der), c.write(t, name+".key", "PRIVATE KEY", raw)
}

// TestMutualTLS: only who has a certificate of the right CA, with the right name, is let in.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	servers, clients, others := newCA(t, "servers"), newCA(t, "clients"), newCA(t, "others")
	cert, key := servers.issue(t, "log.test")
	addr := ledgertest.FreeAddress(t)
	for _, bad := range []*signer.ServerTLS{nil, {Cert: cert, Key: key, ClientCA: key}, {Cert: cert, Key: key, ClientCA: "missing"}, {Cert: cert, Key: "missing", ClientCA: clients.file}} {
		if _, err := signer.Start(t.Context(), signer.Config{DSN: dsn, Listen: addr, TLS: bad}); err == nil {
			t.Fatalf("started with %+v", bad)
		}
	}
	conf := &signer.ServerTLS{Cert: cert, Key: key, ClientCA: clients.file, Clients: []string{"broker.test"}}
	start(t, signer.Config{DSN: dsn, Listen: addr, TLS: conf})

	open := func(caFile, cert, key string) (*remote.Log, error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cfg := remote.Config{Addresses: []string{addr}, CAFile: caFile, Cert: cert, Key: key, Timeout: time.Minute}
		if caFile != servers.file || key == "" || !strings.HasPrefix(key, clients.dir) || !strings.Contains(key, "broker.test") {
			cfg.Timeout = 2 * time.Second // what is refused is tried until then
		}
		l, err := remote.Open(ctx, cfg)
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return l, err
	}
	goodCert, goodKey := clients.issue(t, "broker.test")
	l, err := open(servers.file, goodCert, goodKey)
	if err != nil {
		t.Fatal(err)
	}
	grow(t, l, 0, 100)
	wrongCert, wrongKey := clients.issue(t, "somebody.test")
	strangerCert, strangerKey := others.issue(t, "broker.test")
	for name, c := range map[string][3]string{
		"no certificate":              {servers.file, "", ""},
		"a certificate of another CA": {servers.file, strangerCert, strangerKey},
		"a name that may not come":    {servers.file, wrongCert, wrongKey},
		"a server of another CA":      {others.file, goodCert, goodKey},
		"in clear":                    {"", "", ""},
	} {
		if _, err := open(c[0], c[1], c[2]); err == nil {
			t.Errorf("%s: let in", name)
		}
	}

	// New files, read again: another CA is trusted from now on.
	conf.ClientCA = others.file
	if err := conf.Reload(); err != nil {
		t.Fatal(err)
	}
	if l, err = open(servers.file, strangerCert, strangerKey); err == nil {
		_, err = root(t.Context(), l)
	}
	if err != nil {
		t.Fatalf("after reloading: %v", err)
	}
	conf.ClientCA = "missing"
	if err := conf.Reload(); err == nil {
		t.Error("a missing file was loaded")
	}
	if _, err := open(servers.file, strangerCert, strangerKey); err != nil {
		t.Fatalf("after a failure to reload: %v", err)
	}
}

// TestServer: trees can be read, not made; a root can be awaited; nobody else's tree can be asked for.
func TestServer(t *testing.T) {
	t.Parallel()
	dsn, tree := database(t)
	addr := socket(t)
	start(t, signer.Config{DSN: dsn, Listen: addr})
	if _, err := signer.Start(t.Context(), signer.Config{DSN: dsn, Listen: addr}); err == nil {
		t.Error("two processes on one socket")
	}
	if fi, err := os.Stat(strings.TrimPrefix(addr, "unix:")); err != nil || fi.Mode().Perm() != 0o660 {
		t.Errorf("the socket: %v, %v", fi.Mode(), err)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	admin, log := trillian.NewTrillianAdminClient(conn), trillian.NewTrillianLogClient(conn)
	if res, err := admin.ListTrees(t.Context(), &trillian.ListTreesRequest{}); err != nil || len(res.Tree) != 1 || res.Tree[0].TreeId != tree {
		t.Errorf("trees: %v, %v", res, err)
	}
	if got, err := admin.GetTree(t.Context(), &trillian.GetTreeRequest{TreeId: tree}); err != nil || got.TreeType != trillian.TreeType_PREORDERED_LOG {
		t.Errorf("the tree: %v, %v", got, err)
	}
	want := func(what string, want codes.Code, err error) {
		t.Helper()
		if status.Code(err) != want {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	_, err = admin.GetTree(t.Context(), &trillian.GetTreeRequest{TreeId: tree + 1})
	want("another tree", codes.NotFound, err)
	_, err = admin.CreateTree(t.Context(), &trillian.CreateTreeRequest{})
	want("creating a tree", codes.Unimplemented, err)
	_, err = admin.DeleteTree(t.Context(), &trillian.DeleteTreeRequest{TreeId: tree})
	want("deleting the tree", codes.Unimplemented, err)
	_, err = admin.UpdateTree(t.Context(), &trillian.UpdateTreeRequest{Tree: &trillian.Tree{TreeId: tree}})
	want("changing the tree", codes.Unimplemented, err)
	_, err = log.GetLatestSignedLogRoot(t.Context(), &trillian.GetLatestSignedLogRootRequest{LogId: tree + 1})
	want("the root of another tree", codes.NotFound, err)

	await := func(size string) (*trillian.GetLatestSignedLogRootResponse, error) {
		return log.GetLatestSignedLogRoot(metadata.AppendToOutgoingContext(t.Context(), engine.AwaitKey, size), &trillian.GetLatestSignedLogRootRequest{LogId: tree})
	}
	for _, bad := range []string{"", "-1", "x", "9223372036854775808"} {
		_, err := await(bad)
		want("waiting for "+bad, codes.InvalidArgument, err)
	}
	if _, err := await("1"); err != nil { // in vain, for 2 seconds
		t.Error(err)
	}
	l := dial(t, addr)
	if err := add(t.Context(), l, 0, 300); err != nil {
		t.Fatal(err)
	}
	awaitSize(t, l, 300)
	if res, err := await("300"); err != nil || len(res.GetSignedLogRoot().GetLogRoot()) == 0 {
		t.Errorf("a root that is there: %v, %v", res, err)
	}
}

// TestServerThatHangs: another one of the list is asked when the first stands still with its connection open, and when it is killed.
func TestServerThatHangs(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	a, b := socket(t), socket(t)
	first, second := startProcess(t, childConfig{DSN: dsn, Listen: a}), startProcess(t, childConfig{DSN: dsn, Listen: b})
	l := dial(t, a, b)
	grow(t, l, 0, 10)
	stop(t, first.cmd)
	grow(t, l, 10, 20)
	cont(t, first.cmd)
	second.kill(t)
	grow(t, l, 20, 30)
}

// TestLargeMessages: a batch and a range of more than gRPC's usual 4 MiB pass, one beyond the limit is refused, and nobody can have the server reserve memory for leaves that aren't there.
func TestLargeMessages(t *testing.T) {
	t.Parallel()
	dsn, _ := database(t)
	addr := socket(t)
	start(t, signer.Config{DSN: dsn, Listen: addr})
	l := dial(t, addr)
	large := func(from, n int64, size int) []*trillian.LogLeaf {
		out := leaves(from, n)
		for _, leaf := range out {
			leaf.LeafValue = bytes.Repeat(leaf.LeafValue[:1], size)
		}
		return out
	}
	send := func(leaves []*trillian.LogLeaf) error {
		_, err := l.Client().AddSequencedLeaves(t.Context(), &trillian.AddSequencedLeavesRequest{LogId: l.TreeID(), Leaves: leaves})
		return err
	}
	if err := send(large(0, 1000, 6000)); err != nil {
		t.Fatal(err)
	}
	ledgertest.Await(t, "the leaves to be integrated", func() bool { r, err := root(t.Context(), l); return err == nil && r.TreeSize == 1000 })
	for _, count := range []int64{1000, 5000, math.MaxInt64} {
		res, err := l.Client().GetLeavesByRange(t.Context(), &trillian.GetLeavesByRangeRequest{LogId: l.TreeID(), Count: count})
		if err != nil || len(res.Leaves) != 1000 {
			t.Errorf("a range of %d: %d leaves, %v", count, len(res.GetLeaves()), err)
		}
	}
	if err := send(large(1000, 300, 60_000)); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a batch of 18 MB: %v", err)
	}
}
