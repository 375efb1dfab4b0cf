// Command devvault runs a real Vault server for Regard's tests and demonstration: Vault's own core, HTTP API, transit
// engine and approle login, in one process, initialised and unsealed by itself.
//
// It is not for production: it keeps its unseal key and root token in a file, listens on the loopback interface alone,
// and does not lock its memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/regard-broker/regard/deploy/devvault/server"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "devvault:", err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stderr io.Writer) error {
	var (
		cfg   server.Config
		stdio bool
	)
	fs := flag.NewFlagSet("devvault", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&cfg.Listen, "listen", "127.0.0.1:0", "loopback `address`; port 0 takes a free one")
	fs.StringVar(&cfg.Storage, "storage", "", "`directory` to keep data and unseal key in; empty keeps everything in memory")
	fs.StringVar(&cfg.TLSCert, "tls-cert", "", "certificate `file` (PEM); with -tls-key, serves https")
	fs.StringVar(&cfg.TLSKey, "tls-key", "", "private key `file` (PEM)")
	fs.StringVar(&cfg.ReadyFile, "ready-file", "", "`file` to write {address, root_token, unseal_keys} into once ready (mode 0600)")
	unseal := fs.Bool("unseal", true, "unseal at start; -unseal=false leaves it sealed")
	fs.StringVar(&cfg.LogLevel, "log-level", "error", "Vault's own log `level`: trace, debug, info, warn, error, off")
	fs.BoolVar(&stdio, "exit-on-stdin-eof", false, "stop when standard input closes, so that a killed parent leaves no server behind")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q (see devvault -help)", fs.Arg(0))
	}
	cfg.Sealed = !*unseal
	cfg.Stderr = stderr

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if stdio {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() {
			_, _ = io.Copy(io.Discard, stdin) // an error is an end like EOF
			cancel()
		}()
	}

	fmt.Fprint(stderr, server.Warning)
	s, err := server.New(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "devvault: listening on %s\n", s.Ready().Address)
	return s.Wait(ctx)
}
