// Command devoidc runs an OpenID Connect provider that others wrote (github.com/zitadel/oidc, with its own example of a login page and a user store) for Regard's tests: what signs in with it speaks the
// standard, and not only the dialect of Regard's own simulator.
//
// It is not for production: it listens on the loopback interface alone, its one user's password is in its source, and it forgets everything when it ends.
//
// What it adds to the example: acr (eidas2), the claims of a pivot identity for the scope profile, and a userinfo that is signed with the provider's key, which zitadel/oidc doesn't offer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "devoidc:", err)
		os.Exit(1)
	}
}

// run serves until standard input closes, so that a killed parent leaves no server behind. It writes the issuer to out once requests are served.
func run(args []string, stdin io.Reader, out io.Writer) error {
	fs := flag.NewFlagSet("devoidc", flag.ContinueOnError)
	listen := fs.String("listen", "127.0.0.1:0", "loopback `address`; port 0 takes a free one")
	client := fs.String("client", "regard", "`id` of the relying party")
	secret := fs.String("secret", "s3cret", "its `secret`")
	redirect := fs.String("redirect", "", "the `URL` to which it has people sent back")
	logout := fs.String("logout", "", "the `URL` to which people come back after signing out")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 || *redirect == "" || *logout == "" {
		return errors.New("-redirect and -logout are needed, and no arguments (see devoidc -help)")
	}
	host, _, err := net.SplitHostPort(*listen)
	if err != nil {
		return err
	}
	if a, err := netip.ParseAddr(host); err != nil || !a.IsLoopback() {
		return errors.New("it listens on the loopback interface alone")
	}
	ln, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.DiscardHandler)) // the example logs each request
	s := &http.Server{Handler: provider("http://"+ln.Addr().String(), *client, *secret, *redirect, *logout), ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(ln) }()
	fmt.Fprintf(out, "http://%s\n", ln.Addr())
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, stdin) // an error is an end like EOF
		close(ended)
	}()
	select {
	case err := <-failed:
		return err
	case <-ended:
		return s.Shutdown(context.Background())
	}
}
