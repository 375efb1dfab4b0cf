// Package remote reaches Trillian in other processes: its stock log server, or the one that package signer carries, which needs mutual TLS or a Unix socket.
//
// What it guarantees. A server that dies, restarts, hangs or is cut off, be it from its database alone, costs time, not requests: a call is made again, of the next server of the list if there is one, until its deadline;
// no call is without one. Nothing is sent in clear beyond this machine. With the log server of package signer nobody polls for a root: [Log.Client]'s GetLatestSignedLogRoot returns when
// what was added through it is in the tree, or after 2 seconds; without a call, if the answer to the addition said the root.
//
// What it doesn't. A server isn't trusted with the truth: who uses the client compares the root with its own (package ledger does). Trillian's own server answers at once, so with it the log polls;
// and it asks nobody who they are: it belongs on a loopback address or a network of its own.
package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/trillian"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"

	"github.com/regard-broker/regard/ledger/engine"
)

// Config says where the log is.
type Config struct {
	// Addresses of log servers over the same database: "host:port" or "unix:/path". The first is used until it fails, then the next one.
	Addresses []string
	// CAFile says whose certificates servers have to show. Without it all addresses have to be Unix sockets or on this machine.
	CAFile string
	// Cert and Key are PEM files, by which servers know this client. They are read at each connection.
	Cert, Key string
	// Tree is the log's id; 0 means the only one that the server has.
	Tree int64
	// Timeout of a call that has no deadline of its own; 0 means 15 seconds.
	Timeout time.Duration
}

// maxMessage: gRPC's own limit of 4 MiB is less than a range of large leaves.
const maxMessage = 16 << 20

// alive finds servers that hang, by pings after so much silence within a call. It must not be less: Trillian's own server cuts off who pings it three times in one call, which these never do.
var alive = keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}

// Log is a way to a log. It is safe for concurrent use.
type Log struct {
	servers *servers
	client  trillian.TrillianLogClient
	tree    int64
	// awaited is the size that the tree has when all that was added is in it, 0 when the root was asked for since.
	awaited atomic.Uint64
	// root is that of the tree with all that was added last, if the server said so with its answer: who asks next needn't.
	root atomic.Pointer[[]byte]
}

// Open connects, and asks for the tree and its root. Its errors say what to do.
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 15 * time.Second
	}
	l := &Log{tree: cfg.Tree}
	if l.servers, err = dial(cfg); err != nil {
		return nil, fmt.Errorf("connecting to Trillian: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.servers.Close())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if l.tree == 0 {
		if l.tree, err = onlyTree(ctx, trillian.NewTrillianAdminClient(l.servers)); err != nil {
			return nil, fmt.Errorf("asking Trillian for its log: %w", err)
		}
	}
	l.client = client{trillian.NewTrillianLogClient(l.servers), l}
	if _, err := l.client.GetLatestSignedLogRoot(ctx, &trillian.GetLatestSignedLogRootRequest{LogId: l.tree}); err != nil {
		return nil, fmt.Errorf("asking Trillian for the root of log %d (regard signer init prepares a database): %w", l.tree, err)
	}
	return l, nil
}

func onlyTree(ctx context.Context, admin trillian.TrillianAdminClient) (int64, error) {
	res, err := admin.ListTrees(ctx, &trillian.ListTreesRequest{})
	if err != nil {
		return 0, err
	}
	var found int64
	for _, t := range res.GetTree() {
		if t.GetTreeType() != trillian.TreeType_PREORDERED_LOG || t.GetDeleted() {
			continue
		}
		if found != 0 {
			return 0, fmt.Errorf("it has several, %d and %d: say which is this broker's (tree)", found, t.GetTreeId())
		}
		found = t.GetTreeId()
	}
	if found == 0 {
		return 0, errors.New("it has none: prepare its database with regard signer init")
	}
	return found, nil
}

func dial(cfg Config) (*servers, error) {
	if len(cfg.Addresses) == 0 {
		return nil, errors.New("no address is given")
	}
	if (cfg.Cert == "") != (cfg.Key == "") {
		return nil, errors.New("cert and key go together")
	}
	secure := cfg.CAFile != ""
	if cfg.Cert != "" && !secure {
		return nil, errors.New("cert and key need ca_file: who the server is has to be known too")
	}
	for _, a := range cfg.Addresses {
		host, _, err := net.SplitHostPort(a)
		unix := strings.HasPrefix(a, "unix:")
		switch {
		case unix && secure:
			return nil, fmt.Errorf("%s is a socket of this machine, where TLS has no meaning: leave ca_file out, or give host:port", a)
		case unix:
		case err != nil:
			return nil, fmt.Errorf("%q is neither host:port nor unix:/path", a)
		case !secure && !loopback(host):
			return nil, fmt.Errorf("%s is on another machine: give ca_file, cert and key for TLS, or a tunnel's address on this one", a)
		}
	}
	creds := insecure.NewCredentials()
	if secure {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading ca_file: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca_file holds no certificate in PEM")
		}
		c := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}
		if cfg.Cert != "" {
			load := func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
				if err != nil {
					return nil, fmt.Errorf("loading the certificate for Trillian: %w", err)
				}
				return &pair, nil
			}
			if _, err := load(nil); err != nil {
				return nil, err
			}
			c.GetClientCertificate = load
		}
		creds = credentials.NewTLS(c)
	}
	all := &servers{limit: cfg.Timeout}
	for _, a := range cfg.Addresses {
		target := a
		if !strings.HasPrefix(a, "unix:") {
			target = "dns:///" + a
		}
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(creds), grpc.WithKeepaliveParams(alive), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithNoProxy(), grpc.WithIdleTimeout(0),
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 5 * time.Second}),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all.conns = append(all.conns, conn)
	}
	return all, nil
}

// loopback is strict: a name other than localhost could resolve to anything later.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// Client is how to talk to the log. It is closed with it.
func (l *Log) Client() trillian.TrillianLogClient { return l.client }

// TreeID is the log's id.
func (l *Log) TreeID() int64 { return l.tree }

// Close ends the connection; calls under way fail.
func (l *Log) Close() error { return l.servers.Close() }

// client notes what is added, so that the question for the root can wait for it.
type client struct {
	trillian.TrillianLogClient
	l *Log
}

// AddSequencedLeaves implements trillian.TrillianLogClient.
func (c client) AddSequencedLeaves(ctx context.Context, in *trillian.AddSequencedLeavesRequest, opts ...grpc.CallOption) (*trillian.AddSequencedLeavesResponse, error) {
	var trailer metadata.MD
	c.l.root.Store(nil)
	res, err := c.TrillianLogClient.AddSequencedLeaves(ctx, in, append(opts, grpc.Trailer(&trailer))...)
	n := len(in.GetLeaves())
	if err != nil || n == 0 {
		return res, err
	}
	if root := trailer.Get(engine.RootKey); len(root) == 1 {
		b := []byte(root[0])
		c.l.root.Store(&b)
		return res, nil
	}
	raise(&c.l.awaited, uint64(in.Leaves[n-1].LeafIndex+1))
	return res, nil
}

// GetLatestSignedLogRoot implements trillian.TrillianLogClient.
func (c client) GetLatestSignedLogRoot(ctx context.Context, in *trillian.GetLatestSignedLogRootRequest, opts ...grpc.CallOption) (*trillian.GetLatestSignedLogRootResponse, error) {
	if root := c.l.root.Swap(nil); root != nil && in.GetLogId() == c.l.tree && in.GetFirstTreeSize() == 0 {
		return &trillian.GetLatestSignedLogRootResponse{SignedLogRoot: &trillian.SignedLogRoot{LogRoot: *root}}, nil
	}
	size := c.l.awaited.Load()
	if size > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, engine.AwaitKey, strconv.FormatUint(size, 10))
	}
	res, err := c.TrillianLogClient.GetLatestSignedLogRoot(ctx, in, opts...)
	if err == nil && size > 0 {
		// Once only, whatever the answer is: who has waited in vain decides what to do.
		c.l.awaited.CompareAndSwap(size, 0)
	}
	return res, err
}

func raise(v *atomic.Uint64, to uint64) {
	for {
		was := v.Load()
		if was >= to || v.CompareAndSwap(was, to) {
			return
		}
	}
}
