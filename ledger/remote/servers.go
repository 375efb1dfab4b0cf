package remote

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// turn is how long one server has for a call while there is another one to ask: longer than the 2 seconds for which GetLatestSignedLogRoot may wait.
	turn = 4 * time.Second
	// Between two rounds of all servers.
	roundMin, roundMax = 50 * time.Millisecond, time.Second
)

// servers are connections to log servers over the same database, of which one is used until it fails. Each call of Trillian's log may be made again, by the same server or another one: they read, or add leaves at given
// places.
type servers struct {
	conns []*grpc.ClientConn
	limit time.Duration // of a call without a deadline
	at    atomic.Int64  // which is used
}

var _ grpc.ClientConnInterface = (*servers)(nil)

// Invoke implements grpc.ClientConnInterface. It asks one server after the other until the call's deadline, as long as they are away, or hang.
func (s *servers) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.limit)
		defer cancel()
	}
	wait := roundMin
	for try := 1; ; try++ {
		i := s.at.Load()
		err := s.ask(ctx, s.conns[i], method, args, reply, opts...)
		switch code := status.Code(err); {
		case err == nil, ctx.Err() != nil:
			return err
		case code != codes.Unavailable && code != codes.DeadlineExceeded:
			return err
		}
		s.at.CompareAndSwap(i, (i+1)%int64(len(s.conns)))
		if try%len(s.conns) != 0 {
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
		wait = min(2*wait, roundMax)
	}
}

func (s *servers) ask(ctx context.Context, conn *grpc.ClientConn, method string, args, reply any, opts ...grpc.CallOption) error {
	if len(s.conns) > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, turn)
		defer cancel()
	}
	return conn.Invoke(ctx, method, args, reply, opts...)
}

// NewStream implements grpc.ClientConnInterface. Trillian's log has no streams.
func (s *servers) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "Trillian's log has no streams")
}

// Close ends all connections; calls under way fail.
func (s *servers) Close() (err error) {
	for _, c := range s.conns {
		if e := c.Close(); err == nil {
			err = e
		}
	}
	return err
}
