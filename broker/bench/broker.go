package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/command"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/policy"
)

// brokerReady is what the parent has to know of a broker.
type brokerReady struct {
	Addr string
	PID  int
	Keys []string // of the log, as an agency knows them
}

// counts are what a broker counts of itself.
type counts struct {
	Ledger  ledger.Metrics
	Commits int64 // of the store: intents, outcomes and labels; a sync each
	Jobs    int64 // writes that they carried
	Trips   int64 // to a database server
	Keys    keys.Stats
	Mallocs uint64
	Alloc   uint64 // bytes allocated since the start
	GCs     uint32
}

// brokerRole is `regard serve` with somebody who asks it how it is.
type brokerRole struct {
	instance *command.Instance
	b        *broker.Broker
	profile  *os.File
	dir      string
}

func startBroker(ctx context.Context, raw json.RawMessage) (role, any, error) {
	var cfg brokerConfig
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, nil, err
	}
	settings, err := cfg.settings()
	if err != nil {
		return nil, nil, err
	}
	logger, err := cfg.logger()
	if err != nil {
		return nil, nil, err
	}
	i, err := command.Start(ctx, settings, logger)
	if err != nil {
		return nil, nil, err
	}
	r := &brokerRole{instance: i, b: i.Broker}
	vkeys, err := r.b.LogKeys(ctx)
	if err != nil {
		return nil, nil, errors.Join(err, r.close())
	}
	return r, &brokerReady{i.Addresses["api"], os.Getpid(), vkeys}, nil
}

func (r *brokerRole) close() error { return r.instance.Stop(context.Background()) }

func (r *brokerRole) do(ctx context.Context, command string, arg json.RawMessage) (any, error) {
	switch command {
	case "counts":
		return r.counts(), nil
	case "settle":
		if !r.b.Leads() {
			return time.Duration(0), nil
		}
		return settle(ctx, r.b)
	case "seed":
		var s seed
		if err := json.Unmarshal(arg, &s); err != nil {
			return nil, err
		}
		return struct{}{}, (&preloader{b: r.b}).seed(ctx, &s)
	case "policy":
		var p policyRun
		if err := json.Unmarshal(arg, &p); err != nil {
			return nil, err
		}
		return r.policy(ctx, &p)
	case "profile":
		var dir string
		if err := json.Unmarshal(arg, &dir); err != nil {
			return nil, err
		}
		return struct{}{}, r.startProfile(dir)
	case "profiled":
		return struct{}{}, r.stopProfile()
	}
	return nil, fmt.Errorf("the broker has no command %q", command)
}

func (r *brokerRole) counts() counts {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := r.b.Store().Stats()
	return counts{Ledger: r.b.Log().Metrics(), Commits: s.Commits.Load(), Jobs: s.Jobs.Load(), Trips: s.Trips.Load(), Keys: r.b.Ring().Stats(), Mallocs: m.Mallocs, Alloc: m.TotalAlloc, GCs: m.NumGC}
}

// settle waits until the broker has nothing left to do in the background, so that it doesn't weigh on what is measured next, and returns how long that took.
func settle(ctx context.Context, b *broker.Broker) (time.Duration, error) {
	start := time.Now()
	for {
		m := b.Log().Metrics()
		if m.Waiting == 0 && m.Unsigned == 0 && m.Unfiled == 0 && m.Published == m.Size {
			return time.Since(start), nil
		}
		if m.Halted {
			return 0, fmt.Errorf("the log halted: %w", b.Log().Err())
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// policyRun asks the policy alone, about agreements of the registry in random order.
type policyRun struct{ Decisions int }

type policyResult struct {
	Agreements int
	P50, P99   time.Duration
}

// policy measures an engine of its own, of the same bundle: the broker's own is not to be had without a request. Agreements are parsed once and kept, as the registry does.
func (r *brokerRole) policy(ctx context.Context, p *policyRun) (*policyResult, error) {
	reg, err := r.b.Store().Registry(ctx)
	if err != nil {
		return nil, err
	}
	defs := map[string]*service.Definition{}
	for i := range reg.Services {
		if defs[reg.Services[i].ID], err = service.Parse(reg.Services[i].YAML); err != nil {
			return nil, err
		}
	}
	var inputs []policy.Input
	for i := range reg.Agreements {
		row := &reg.Agreements[i]
		a, err := policy.ParseAgreement(row.JSON)
		if err != nil {
			return nil, err
		}
		in, err := decisionInput(defs[row.Service], 0, 0, time.Now())
		if err != nil {
			return nil, err
		}
		in.Agency.ID, in.Service.ID, in.Agreement, in.AgreementDigest = a.Agency, a.Service, a, row.Digest
		inputs = append(inputs, in)
	}
	if len(inputs) == 0 {
		return nil, errors.New("the registry holds no agreement")
	}
	engine, err := policy.New(ctx, policy.Config{Activate: func(context.Context, policy.Activation) error { return nil }})
	if err != nil {
		return nil, err
	}
	var h histogram
	for i := range p.Decisions + p.Decisions/10 {
		in := &inputs[rand.IntN(len(inputs))] // #nosec G404 -- which agreement is decided on, no secret
		in.Time = time.Now()
		begin := time.Now()
		d, err := engine.Decide(ctx, *in)
		took := time.Since(begin)
		if err != nil {
			return nil, err
		}
		if _, ok := d.Granted(); !ok {
			return nil, fmt.Errorf("the policy refuses the benchmark's request: %v", d.Codes())
		}
		if i >= p.Decisions/10 { // the first warm it up
			h.add(took)
		}
	}
	return &policyResult{len(inputs), h.quantile(0.5), h.quantile(0.99)}, nil
}

func (r *brokerRole) startProfile(dir string) (err error) {
	if r.profile != nil {
		return errors.New("a profile is being taken already")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	runtime.SetMutexProfileFraction(100)
	r.dir = dir
	if r.profile, err = os.Create(filepath.Join(dir, "cpu.prof")); err != nil {
		return err
	}
	return pprof.StartCPUProfile(r.profile)
}

func (r *brokerRole) stopProfile() error {
	if r.profile == nil {
		return errors.New("no profile is being taken")
	}
	pprof.StopCPUProfile()
	errs := []error{r.profile.Close()}
	r.profile = nil
	runtime.GC() // allocations are accounted at collections
	for _, name := range []string{"allocs", "heap", "mutex"} {
		f, err := os.Create(filepath.Join(r.dir, name+".prof"))
		if err != nil {
			return err
		}
		errs = append(errs, pprof.Lookup(name).WriteTo(f, 0), f.Close())
	}
	return errors.Join(errs...)
}
