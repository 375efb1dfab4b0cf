package embedded

import (
	"context"
	"sync"

	"github.com/google/trillian"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// calls is a gRPC connection to a server in the same process: each call is one of
// the server's handler, on copies of the messages, so that neither side sees what
// the other one changes afterwards. HTTP/2 in memory cost more than the server's
// work for a small batch.
type calls struct {
	server  trillian.TrillianLogServer
	methods map[string]grpc.MethodDesc

	mu     sync.RWMutex // held for reading during calls
	closed bool
}

func newCalls(server trillian.TrillianLogServer) *calls {
	d := &trillian.TrillianLog_ServiceDesc
	c := &calls{server: server, methods: make(map[string]grpc.MethodDesc)}
	for _, m := range d.Methods {
		c.methods["/"+d.ServiceName+"/"+m.MethodName] = m
	}
	return c
}

// Invoke implements grpc.ClientConnInterface. Options of calls have no meaning here.
func (c *calls) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return status.Error(codes.Unavailable, "the log is closed")
	}
	if err := ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	m, ok := c.methods[method]
	if !ok {
		return status.Errorf(codes.Unimplemented, "unknown method %s", method)
	}
	res, err := m.Handler(c.server, ctx, func(in any) error {
		proto.Merge(in.(proto.Message), args.(proto.Message))
		return nil
	}, nil)
	if err != nil {
		s, ok := status.FromError(err)
		if !ok { // as a gRPC server has it
			s = status.FromContextError(err)
		}
		return s.Err()
	}
	proto.Merge(reply.(proto.Message), res.(proto.Message))
	return nil
}

// NewStream implements grpc.ClientConnInterface. Trillian has no streams.
func (c *calls) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, status.Error(codes.Unimplemented, "no streams")
}

// close waits for calls that are under way.
func (c *calls) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}
