package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"
)

// Peer is who is at the other end of the socket, by the kernel's word.
type Peer struct{ UID, PID int }

type peerKey struct{}

// A Server listens on the socket.
type Server struct {
	http *http.Server
	ln   net.Listener
}

// Listen makes the socket, mode 0600. A socket that a dead broker left is replaced; one that answers is not.
func Listen(path string, h http.Handler, log *slog.Logger) (*Server, error) {
	return listen(path, os.Geteuid(), h, log)
}

// listen is Listen for the processes of one user.
func listen(path string, uid int, h http.Handler, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("%s exists and is not a socket: move it away", path)
		}
		c, err := net.DialTimeout("unix", path, time.Second)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("another broker answers on %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("removing the socket of a dead broker: %w", err)
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("making the administration socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("protecting the administration socket: %w", err)
	}
	s := &Server{ln: guarded{ln, uid, log}, http: &http.Server{
		Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 2 * time.Minute, IdleTimeout: time.Minute,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if g, ok := c.(guardedConn); ok {
				return context.WithValue(ctx, peerKey{}, g.peer)
			}
			return ctx
		},
	}}
	return s, nil
}

// Serve answers until Shutdown; then it returns nil.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown waits for the calls in hand and removes the socket.
func (s *Server) Shutdown(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		_ = s.http.Close()
		return err
	}
	return nil
}

// guarded hangs up on everybody but the own user and root.
type guarded struct {
	net.Listener
	uid int // the own user
	log *slog.Logger
}

type guardedConn struct {
	net.Conn
	peer Peer
}

func (g guarded) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		peer, err := peerOf(c)
		if err == nil && (peer.UID == 0 || peer.UID == g.uid) {
			return guardedConn{c, peer}, nil
		}
		g.log.Warn("administration refused", "uid", peer.UID, "pid", peer.PID, "error", err)
		c.Close()
	}
}
