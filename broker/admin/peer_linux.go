package admin

import (
	"errors"
	"net"
	"syscall"
)

// peerOf asks the kernel who opened the connection (unix(7), SO_PEERCRED).
func peerOf(c net.Conn) (Peer, error) {
	none := Peer{UID: -1, PID: -1}
	u, ok := c.(*net.UnixConn)
	if !ok {
		return none, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return none, err
	}
	var cred *syscall.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) {
		cred, cerr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED) // #nosec G115 -- a descriptor
	})
	if err = errors.Join(err, cerr); err != nil {
		return none, err
	}
	return Peer{UID: int(cred.Uid), PID: int(cred.Pid)}, nil
}
