// Command regard-bench measures the broker beside a plain mTLS reverse proxy; see docs/performance.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/regard-broker/regard/broker/bench"
)

func main() {
	// A child ends when the parent closes its pipe, not when the terminal says so.
	if len(os.Args) == 3 && os.Args[1] == bench.RoleArg {
		if err := bench.Role(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintf(os.Stderr, "regard-bench, %s: %v\n", os.Args[2], err)
			os.Exit(1)
		}
		return
	}
	o, err := options(os.Args[1:])
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		err = bench.Run(ctx, o, os.Stdout, os.Stderr)
	}
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "regard-bench:", err)
		os.Exit(1)
	}
}

func options(args []string) (bench.Options, error) {
	o := bench.Defaults()
	f := flag.NewFlagSet("regard-bench", flag.ContinueOnError)
	quick := f.Bool("quick", false, "a run of less than a minute with small numbers; other flags still count")
	f.DurationVar(&o.Duration, "duration", o.Duration, "load of the broker at each number of connections")
	f.IntVar(&o.Turns, "turns", o.Turns, "stretches that the duration is divided into, the proxy's between them")
	f.IntVar(&o.Persons, "persons", o.Persons, "people in the population")
	f.IntVar(&o.Agreements, "agreements", o.Agreements, "agreements in force: agencies × services")
	f.IntVar(&o.Services, "services", o.Services, "services in force")
	f.IntVar(&o.Preload, "preload", o.Preload, "earlier records of the broker in the last part; 0 leaves it out")
	f.IntVar(&o.Close, "close", o.Close, "persons of an epoch that is closed under load; 0 leaves it out")
	f.StringVar(&o.Tests, "tests", o.Tests, "directory with the tests of ledger and ledger/fsck (go test -c), whose benchmarks are run; none leaves them out")
	f.StringVar(&o.Dir, "dir", o.Dir, "directory for the databases, on a disk (default: the system's temporary one)")
	f.BoolVar(&o.Keep, "keep", o.Keep, "leave databases and logs there")
	f.StringVar(&o.CPUProfile, "cpuprofile", o.CPUProfile, "directory for profiles of the broker")
	f.StringVar(&o.Statements, "statements", o.Statements, "file for what PostgreSQL counts of the cluster's statements, with -cluster; slows it down a little")
	f.BoolVar(&o.JSON, "json", o.JSON, "print JSON instead of the table")
	cluster := f.Bool("cluster", false, "measure two brokers on PostgreSQL, Trillian and Vault beside one that is alone")
	var engines bench.Engines
	f.StringVar(&engines.Vault, "vault", "bin/devvault", "devvault program, for -cluster")
	f.StringVar(&engines.Trillian, "trillian", "", "Trillian's stock log server, for -cluster; empty: the signer's own")
	f.Func("broker-env", "add NAME=VALUE to the broker's environment alone, to try settings of the Go runtime (repeatable)", func(s string) error {
		if !strings.Contains(s, "=") {
			return errors.New("want NAME=VALUE")
		}
		o.BrokerEnv = append(o.BrokerEnv, s)
		return nil
	})
	f.Func("connections", "numbers of connections, separated by commas (default 64,256)", func(s string) error {
		o.Connections = nil
		for part := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(part)
			if err != nil {
				return err
			}
			o.Connections = append(o.Connections, n)
		}
		return nil
	})
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *quick {
		// What was given by a flag goes first.
		o = bench.Defaults().Quick()
		if err := f.Parse(args); err != nil {
			return o, err
		}
	}
	if *cluster {
		o.Cluster = &engines
	}
	o.Agencies = o.Agreements / max(o.Services, 1)
	return o, nil
}
