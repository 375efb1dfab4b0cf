// Package bench measures the broker beside a plain reverse proxy, in one run and on one machine.
//
// What it guarantees. Broker, provider, proxy and load are processes of their own with mutual TLS between them; the broker is the real one, with its API, in embedded mode on a
// disk. Broker and proxy take turns of a few seconds before the same provider, so that their ratio doesn't depend on what else the machine does in the long run. The load is a closed loop: a connection
// asks again when it has its answer. Every receipt of the run is verified afterwards with the log's public key alone, and a bad one is an error.
//
// What it doesn't. It never fails because something was slow: it says what was aimed at and what was measured. All processes share the processors, so a rate is that of the whole
// machine, the client's work included; and a closed loop says nothing about the latency under a given rate.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

// Options of a run.
type Options struct {
	Duration    time.Duration // of the broker's load at each number of connections
	Turns       int           // stretches that Duration is divided into
	Connections []int
	Persons     int
	Agreements  int
	Agencies    int // that have agreements; as many as connections ask
	Services    int
	Preload     int           // earlier records of the broker of the last part; 0: leave it out
	Close       int           // persons of an epoch that is closed under load; 0: leave it out
	Single      time.Duration // of the load of one connection
	Tests       string        // directory with the packages' tests, whose benchmarks measure proofs and fsck; empty: leave them out
	Short       bool          // with small sizes
	Dir         string        // where the databases go, which should be a disk; a directory is made in it
	Keep        bool          // leave it there
	CPUProfile  string        // directory for profiles of the broker, taken while nothing else is measured; empty: none
	Statements  string        // file for what PostgreSQL counts of the cluster's statements; empty: it doesn't count
	BrokerEnv   []string      // added to the broker's environment alone, to try settings of the Go runtime: "GOGC=400"
	Cluster     *Engines      // measure several brokers on them beside one that is alone, and nothing else; nil: measure one
	JSON        bool
}

// Defaults are what docs/performance.md is made with.
func Defaults() Options {
	return Options{Duration: time.Minute, Turns: 4, Connections: []int{64, 256}, Persons: 100_000, Agreements: 10_000, Agencies: 1000, Services: 10, Preload: 1_000_000, Close: 100_000, Single: 5 * time.Second}
}

// Quick is a run of less than a minute: it shows that all works, and roughly how fast.
func (o Options) Quick() Options {
	o.Duration, o.Turns, o.Single = 4*time.Second, 2, time.Second
	o.Persons, o.Agreements, o.Agencies, o.Preload = 10_000, 1000, 100, 20_000
	o.Close, o.Short = 25_000, true
	return o
}

func (o *Options) check() error {
	switch {
	case o.Duration <= 0 || o.Turns < 1 || o.Single <= 0:
		return errors.New("bench: durations and turns must be positive")
	case len(o.Connections) == 0:
		return errors.New("bench: no number of connections given")
	case o.Persons < 1 || o.Persons > maxPersons:
		return fmt.Errorf("bench: from 1 to %d persons", maxPersons)
	case o.Agencies < 1 || o.Services < 1 || o.Services > 1000 || o.Agencies > 10_000:
		return errors.New("bench: from 1 to 10,000 agencies and from 1 to 1,000 services")
	case o.Agreements < o.Agencies*o.Services:
		return fmt.Errorf("bench: %d agreements are too few: each of the %d agencies needs one on each of the %d services", o.Agreements, o.Agencies, o.Services)
	case o.Agreements > o.Agencies*o.Services:
		return fmt.Errorf("bench: %d agreements are too many for %d agencies and %d services", o.Agreements, o.Agencies, o.Services)
	case o.Close < 0 || o.Close > maxPersons/4:
		return fmt.Errorf("bench: an epoch of 0 to %d persons", maxPersons/4)
	case o.Preload < 0:
		return errors.New("bench: a negative number of records")
	}
	for _, n := range o.Connections {
		if n < 1 || n > 1024 {
			return errors.New("bench: from 1 to 1024 connections")
		}
	}
	return nil
}

// runner is a run that is under way.
type runner struct {
	o        Options
	dir      string
	progress io.Writer
	ca       *authority
	api, out tlsFiles // the broker's certificates
	endpoint string
	certs    []tlsFiles // of the agencies that ask

	provider, proxy, load *child
	proxyAddr             string
	next                  int64 // in the walk through the population
	report                *Report
}

// Run measures and writes the table, or JSON, to out; what it is doing goes to progress. The error is about the run itself, a bad receipt included, never about a speed.
func Run(ctx context.Context, o Options, out, progress io.Writer) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.Dir, "regard-bench-")
	if err != nil {
		return fmt.Errorf("making a directory for the run: %w", err)
	}
	r := &runner{o: o, dir: dir, progress: progress, report: &Report{Machine: machine(), Started: time.Now().UTC().Truncate(time.Second), Options: o}}
	if o.Keep {
		r.say("the run's files stay in %s", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	defer func() { err = errors.Join(err, r.proxy.stop(), r.load.stop(), r.provider.stop()) }()
	if err := r.prepare(ctx); err != nil {
		return err
	}
	for _, part := range r.parts() {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if o.Cluster != nil {
		r.report.judgeCluster()
	} else {
		r.report.judge()
	}
	if o.JSON {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		err = enc.Encode(r.report)
	} else {
		err = r.report.write(out)
	}
	if r.report.Verified.Bad > 0 {
		err = errors.Join(err, fmt.Errorf("bench: %d receipts are bad, the first: %s", r.report.Verified.Bad, r.report.Verified.First))
	}
	return err
}

// parts of the run that the options ask for.
func (r *runner) parts() []func(context.Context) error {
	if r.o.Cluster != nil {
		return []func(context.Context) error{r.fifth}
	}
	out := []func(context.Context) error{r.first}
	if r.o.Preload > 0 {
		out = append(out, r.second)
	}
	if r.o.Close > 0 {
		out = append(out, r.third)
	}
	if r.o.Tests != "" {
		out = append(out, r.fourth)
	}
	return out
}

func (r *runner) say(format string, args ...any) {
	fmt.Fprintf(r.progress, "%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (r *runner) path(name ...string) string {
	return filepath.Join(append([]string{r.dir}, name...)...)
}

// prepare makes certificates, starts everything but the broker, and fills the registry that all brokers of the run begin with.
func (r *runner) prepare(ctx context.Context) (err error) {
	if r.report.Yardstick[0], err = yardstick(); err != nil {
		return err
	}
	if r.ca, err = newAuthority(r.path("tls")); err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	issue := func(name string) tlsFiles {
		f, _, ierr := r.ca.issue(name)
		err = errors.Join(err, ierr)
		return f
	}
	r.api, r.out = issue("broker"), issue("broker-client")
	provider, proxy := issue("provider"), issue("proxy")
	most := 1
	for _, n := range r.o.Connections {
		most = max(most, n)
	}
	var certs []string
	for i := range min(most, r.o.Agencies) {
		f := issue(agencyID(i))
		r.certs, certs = append(r.certs, f), append(certs, f.Cert)
	}
	if err != nil {
		return fmt.Errorf("making certificates: %w", err)
	}
	var up, px address
	if r.provider, err = spawn(ctx, "provider", providerConfig{provider, r.o.Persons}, &up); err != nil {
		return err
	}
	r.endpoint = "https://" + up.Addr + answerPath
	if r.proxy, err = spawn(ctx, "proxy", proxyConfig{proxy, "https://" + up.Addr}, &px); err != nil {
		return err
	}
	r.proxyAddr = px.Addr
	if r.load, err = spawn(ctx, "load", loadConfig{r.certs, r.o.Persons, r.o.Services}, nil); err != nil {
		return err
	}
	r.say("putting %d agreements of %d agencies on %d services in force", r.o.Agreements, r.o.Agencies, r.o.Services)
	start := time.Now()
	err = r.fill(ctx, "seed", "seed", seed{Certs: certs, Agencies: r.o.Agencies, Services: r.o.Services, Agreements: r.o.Agreements, Endpoint: r.endpoint}, nil)
	r.report.Seeding = time.Since(start)
	return err
}

func (r *runner) config(name string) brokerConfig {
	return brokerConfig{Dir: r.path(name), Client: r.out, API: r.api, Log: r.path(name + ".log")}
}

// fill has a preloader work on the named broker's directory.
func (r *runner) fill(ctx context.Context, name, command string, arg, result any) error {
	// Nobody measures its memory, and collecting garbage less often makes it faster.
	c, err := spawn(ctx, "preload", r.config(name), nil, "GOGC=400")
	if err != nil {
		return err
	}
	return errors.Join(c.ask(ctx, command, arg, result), c.stop())
}

// broker starts a broker on a copy of the registry that was prepared, unless it has its directory already.
func (r *runner) broker(ctx context.Context, name string) (*running, error) {
	if _, err := os.Stat(r.path(name)); errors.Is(err, os.ErrNotExist) {
		if err := r.copyRegistry(name); err != nil {
			return nil, err
		}
	}
	b := &running{name: name, receipts: r.path(name + ".receipts"), samples: r.path(name + ".samples")}
	start := time.Now()
	var err error
	if b.child, err = spawn(ctx, "broker", r.config(name), &b.ready, r.o.BrokerEnv...); err != nil {
		return nil, fmt.Errorf("%w (its log: %s)", err, r.config(name).Log)
	}
	b.opened = time.Since(start)
	return b, nil
}

// copyRegistry gives a broker the directory that was prepared, its keys included.
func (r *runner) copyRegistry(name string) error {
	from, to := r.path("seed"), r.path(name)
	err := filepath.WalkDir(from, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rest, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, rest), 0o700)
		}
		text, err := os.ReadFile(path) // #nosec G122 -- the benchmark's own temporary directory
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rest), text, 0o600) // #nosec G703 -- the benchmark's own temporary directory
	})
	if err != nil {
		return fmt.Errorf("copying the registry: %w", err)
	}
	return nil
}

// running is a broker with what the load stored of it.
type running struct {
	*child
	name              string
	ready             brokerReady
	receipts, samples string
	opened            time.Duration
}

// machine says what the numbers were measured on, in general terms.
func machine() string {
	cpu := "processor not known"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		cpu = cpuModel(string(text))
	}
	return fmt.Sprintf("%d processors (%s), %s/%s, %s", runtime.NumCPU(), cpu, runtime.GOOS, runtime.GOARCH, runtime.Version())
}
