package remote

import (
	"context"
	"syscall"

	"golang.org/x/sys/unix"
)

// userTimeout ends a connection whose other side has acknowledged nothing for that long (tcp(7), TCP_USER_TIMEOUT): a cable that was cut is otherwise noticed after a quarter of an hour.
func userTimeout(_ context.Context, _, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silence.Milliseconds()))
	}); cerr != nil {
		return cerr
	}
	return err
}
