package signer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/extension"
	"github.com/google/trillian/quota"
	"github.com/google/trillian/server"
	"github.com/google/trillian/storage/postgresql"
	"github.com/google/trillian/util/clock"
	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/regard-broker/regard/ledger/engine"
)

const (
	// maxMessage: gRPC's own limit of 4 MiB is less than a range of large leaves.
	maxMessage = 16 << 20
	// awaitLimit bounds the wait for a root; then the one that is there is returned, and the caller asks again.
	awaitLimit = 2 * time.Second
	// maxRange bounds the leaves of an answer; who asks for more gets the first ones, as Trillian's interface allows.
	maxRange = 4096
	// maxConnections at once: a few brokers, each with one.
	maxConnections = 256
)

// ServerTLS is who the log server says it is, and whom it lets in.
type ServerTLS struct {
	// Cert and Key are PEM files.
	Cert, Key string
	// ClientCA is a PEM file: whose certificates clients have to show.
	ClientCA string
	// Clients are DNS names of which a client's certificate has to have one; empty: whoever the CA named.
	Clients []string

	current atomic.Pointer[tls.Config]
}

// Reload reads the files again. On an error what was in force stays in force.
func (t *ServerTLS) Reload() error {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return fmt.Errorf("loading the log server's certificate: %w", err)
	}
	pem, err := os.ReadFile(t.ClientCA)
	if err != nil {
		return fmt.Errorf("loading the CA of the log server's clients: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return fmt.Errorf("loading the CA of the log server's clients: %s holds no certificate in PEM", t.ClientCA)
	}
	t.current.Store(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair}, NextProtos: []string{"h2"},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, SessionTicketsDisabled: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			names := s.PeerCertificates[0].DNSNames
			if len(t.Clients) > 0 && !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(t.Clients, n) }) {
				return fmt.Errorf("the client's certificate has none of the names that may come: %q", names)
			}
			return nil
		},
	})
	return nil
}

func (t *ServerTLS) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return t.current.Load(), nil }}
}

// rpcServer is Trillian's log server over the same storage, for whoever can prove that they may use it. Of the administration it has what reads alone.
type rpcServer struct {
	trillian.TrillianLogServer
	trillian.UnimplementedTrillianAdminServer
	s        *Signer
	listener net.Listener
	server   *grpc.Server
	ended    chan error // why serving ended; nil after stop
}

func (s *Signer) newRPC() (*rpcServer, error) {
	creds := insecure.NewCredentials()
	ln, err := listen(s.cfg.Listen)
	if err != nil {
		return nil, err
	}
	if ln.Addr().Network() != "unix" {
		if s.cfg.TLS == nil {
			_ = ln.Close()
			return nil, errors.New("a log server on the network needs cert, key and client_ca: whoever reaches it can write to the log. Or let it listen on unix:/path")
		}
		if err := s.cfg.TLS.Reload(); err != nil {
			_ = ln.Close()
			return nil, err
		}
		creds = credentials.NewTLS(s.cfg.TLS.config())
	}
	r := &rpcServer{
		TrillianLogServer: server.NewTrillianLogRPCServer(extension.Registry{
			AdminStorage: engine.OneTree(s.tree, postgresql.NewAdminStorage(s.db)), LogStorage: newLeafStorage(s.db, s.watch.wake, s.growBy), QuotaManager: quota.Noop(),
		}, clock.System),
		s: s, listener: netutil.LimitListener(ln, maxConnections), ended: make(chan error, 1),
	}
	r.server = grpc.NewServer(
		grpc.Creds(creds), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxConcurrentStreams(100), grpc.ConnectionTimeout(10*time.Second), grpc.UnaryInterceptor(r.observe),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
	trillian.RegisterTrillianLogServer(r.server, r)
	trillian.RegisterTrillianAdminServer(r.server, r)
	return r, nil
}

// listen opens a TCP port or a Unix socket, which the user and the group of this process can reach.
func listen(addr string) (net.Listener, error) {
	file, ok := strings.CutPrefix(addr, "unix:")
	if !ok {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("opening the log server's port: %w", err)
		}
		return ln, nil
	}
	// A process that was killed leaves its socket behind; one that lives answers.
	if c, err := net.Dial("unix", file); err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("opening the log server's socket: another process listens on %s", file)
	}
	if fi, err := os.Lstat(file); err == nil && fi.Mode().Type() == os.ModeSocket {
		_ = os.Remove(file)
	}
	ln, err := net.Listen("unix", file)
	if err != nil {
		return nil, fmt.Errorf("opening the log server's socket: %w", err)
	}
	if err := os.Chmod(file, 0o660); err != nil { // #nosec G302 -- brokers of the same group
		return nil, errors.Join(fmt.Errorf("opening the log server's socket: %w", err), ln.Close())
	}
	return ln, nil
}

func (r *rpcServer) serve() { r.ended <- r.server.Serve(r.listener) }

func (r *rpcServer) stop(ctx context.Context) error {
	done := make(chan struct{})
	go func() { defer close(done); r.server.GracefulStop() }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		r.server.Stop()
		<-done
		return fmt.Errorf("requests to the log server were still in flight: %w", ctx.Err())
	}
}

// observe measures calls, and turns the storage's errors into ones that say whether to try again.
func (r *rpcServer) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	res, err := handler(ctx, req)
	if _, ok := status.FromError(err); !ok {
		if ctx.Err() != nil {
			err = status.FromContextError(ctx.Err()).Err()
		} else { // of PostgreSQL, or of the way to it
			r.s.log.Warn("a call to the log failed", "method", path.Base(info.FullMethod), "error", err)
			err = status.Error(codes.Unavailable, "Trillian's storage can't be reached or refuses: "+err.Error())
		}
	}
	r.s.metrics.calls.WithLabelValues(path.Base(info.FullMethod), status.Code(err).String()).Observe(time.Since(start).Seconds())
	return res, err
}

// GetLatestSignedLogRoot implements trillian.TrillianLogServer. A caller who says which size it waits for (engine.AwaitKey) gets the root when the tree has reached it, or after 2 seconds.
func (r *rpcServer) GetLatestSignedLogRoot(ctx context.Context, req *trillian.GetLatestSignedLogRootRequest) (*trillian.GetLatestSignedLogRootResponse, error) {
	if v := metadata.ValueFromIncomingContext(ctx, engine.AwaitKey); len(v) == 1 {
		size, err := strconv.ParseUint(v[0], 10, 63)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "%s is not a size", engine.AwaitKey)
		}
		root, ok := r.s.watch.await(ctx, size)
		if ok && req.GetLogId() == r.s.tree.TreeId && req.GetFirstTreeSize() == 0 {
			b, err := root.MarshalBinary()
			if err != nil {
				return nil, status.Errorf(codes.Internal, "writing the root: %v", err)
			}
			return &trillian.GetLatestSignedLogRootResponse{SignedLogRoot: &trillian.SignedLogRoot{LogRoot: b}}, nil
		}
	}
	return r.TrillianLogServer.GetLatestSignedLogRoot(ctx, req)
}

// GetLeavesByRange implements trillian.TrillianLogServer, for so many leaves at once: Trillian reserves the memory for as many as the caller says.
func (r *rpcServer) GetLeavesByRange(ctx context.Context, req *trillian.GetLeavesByRangeRequest) (*trillian.GetLeavesByRangeResponse, error) {
	if req.GetCount() > maxRange {
		req = &trillian.GetLeavesByRangeRequest{LogId: req.LogId, StartIndex: req.StartIndex, Count: maxRange, ChargeTo: req.ChargeTo}
	}
	return r.TrillianLogServer.GetLeavesByRange(ctx, req)
}

// ListTrees implements trillian.TrillianAdminServer.
func (r *rpcServer) ListTrees(context.Context, *trillian.ListTreesRequest) (*trillian.ListTreesResponse, error) {
	return &trillian.ListTreesResponse{Tree: []*trillian.Tree{proto.Clone(r.s.tree).(*trillian.Tree)}}, nil
}

// GetTree implements trillian.TrillianAdminServer.
func (r *rpcServer) GetTree(_ context.Context, req *trillian.GetTreeRequest) (*trillian.Tree, error) {
	if req.GetTreeId() != r.s.tree.TreeId {
		return nil, status.Errorf(codes.NotFound, "tree %d not found", req.GetTreeId())
	}
	return proto.Clone(r.s.tree).(*trillian.Tree), nil
}
