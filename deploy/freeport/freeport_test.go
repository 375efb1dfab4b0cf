package freeport_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/regard-broker/regard/deploy/freeport"
)

// anyOf asks for any port, of which the kernel may choose this one alone; ok is false if the kernel can't be told so (Linux before 6.3).
func anyOf(port uint16) (control func(_, _ string, c syscall.RawConn) error, ok bool) {
	set := func(fd uintptr) error {
		return unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, int(port)|int(port)<<16)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	defer unix.Close(fd)
	return func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = set(fd) }); e != nil {
			return e
		}
		return err
	}, set(uintptr(fd)) == nil
}

func TestHold(t *testing.T) {
	hold, err := freeport.New("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := netip.ParseAddrPort(hold.Addr())
	if err != nil || addr.Addr().String() != "127.0.0.1" || addr.Port() == 0 {
		t.Fatalf("%s %v", hold.Addr(), err)
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()

	// Whoever asks for any port doesn't get this one, neither to listen on nor to connect from.
	control, ok := anyOf(addr.Port())
	if !ok {
		t.Log("this kernel's choice of ports can't be narrowed, so that it spares a held one isn't shown here")
	}
	listen := func() error {
		ln, err := (&net.ListenConfig{Control: control}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err == nil {
			err = ln.Close()
		}
		return err
	}
	dial := func() error {
		c, err := (&net.Dialer{Control: control}).Dial("tcp", other.Addr().String())
		if err == nil {
			err = c.Close()
		}
		return err
	}
	if ok {
		if err := listen(); !errors.Is(err, unix.EADDRINUSE) {
			t.Errorf("somebody who asked for any port: %v", err)
		}
		if err := dial(); !errors.Is(err, unix.EADDRNOTAVAIL) {
			t.Errorf("an outgoing connection: %v", err)
		}
	}

	// Whoever asks for this port gets it, again and again, and is reached.
	for range 2 {
		ln, err := net.Listen("tcp", hold.Addr())
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", hold.Addr())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		_ = ln.Close()
	}

	// It is free again then.
	hold.Close()
	if ok {
		if err := listen(); err != nil {
			t.Errorf("after it was given back: %v", err)
		}
	}
}

func TestNoAddress(t *testing.T) {
	for _, host := range []string{"", "localhost", "::1", "192.0.2.1"} {
		if h, err := freeport.New(host); err == nil {
			h.Close()
			t.Errorf("%q: %s", host, h.Addr())
		}
	}
}
