package audit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/logkey"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// logFlags say whose signatures count, where the log is, and how patiently it is read. A command has those of them that it needs.
type logFlags struct {
	logKey, policy string
	provisional    bool
	place          string
	timeout        time.Duration
	attempts       int
}

// keys adds the flags that say whose signatures count; provisional is the help of --allow-provisional.
func (f *logFlags) keys(c *cobra.Command, provisional string) {
	c.Flags().StringVar(&f.logKey, "log-key", "", "the log's verification key, or a file with it")
	c.Flags().StringVar(&f.policy, "policy", "", "file with the log's key and the witnesses (c2sp.org/tlog-policy)")
	if provisional != "" {
		c.Flags().BoolVar(&f.provisional, "allow-provisional", false, provisional)
	}
}

// patience adds the flags of reading.
func (f *logFlags) patience(c *cobra.Command) {
	c.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "of one attempt at a file of the log")
	c.Flags().IntVar(&f.attempts, "attempts", 4, "at a file that can't be read, with growing pauses")
}

const doWithout = "do without the quorum of witnesses that the policy demands"

// all adds those of a command that reads the log at --log beside something else.
func (f *logFlags) all(c *cobra.Command) {
	f.keys(c, doWithout)
	c.Flags().StringVar(&f.place, "log", "", "the public log: its address, or a directory with a copy")
	f.patience(c)
}

func (f *logFlags) readPolicy(c *cobra.Command) (*proof.Policy, error) {
	return logkey.Policy(f.logKey, f.policy, errors.New("give --log-key or --policy: whose signature shall count?"), reading(c))
}

// source opens a place at which a log is served.
func (f *logFlags) source(place string) (reader.Source, error) {
	if f.timeout <= 0 || f.attempts < 1 {
		return nil, errors.New("--timeout and --attempts must be positive")
	}
	return reader.Open(place, reader.Options{Timeout: f.timeout, Attempts: f.attempts})
}

// noLog adds to an error what a place without a checkpoint may be.
func noLog(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w. A log is where its checkpoint is: of a broker's own files the directory public", err)
	}
	return err
}

// tree opens the log at --log under its checkpoint, which must have the quorum that the policy demands.
func (f *logFlags) tree(ctx context.Context, p *proof.Policy) (reader.Source, proof.Checkpoint, *reader.Tree, error) {
	fail := func(err error) (reader.Source, proof.Checkpoint, *reader.Tree, error) {
		return nil, proof.Checkpoint{}, nil, err
	}
	if f.place == "" {
		return fail(errors.New("--log is missing: the address of the public log, or a directory with a copy"))
	}
	src, err := f.source(f.place)
	if err != nil {
		return fail(err)
	}
	cp, err := reader.Checkpoint(ctx, src, p)
	if err != nil {
		return fail(fmt.Errorf("reading the log's checkpoint: %w", noLog(err)))
	}
	if p.Demands() && !cp.Witnessed() && !f.provisional {
		return fail(errors.New("the log's checkpoint lacks the quorum of witnesses that the policy demands: others may be shown another history. Try again later, or give --allow-provisional"))
	}
	t, err := reader.OpenTree(ctx, src, "", cp.Size(), cp.Root())
	if err != nil {
		return fail(fmt.Errorf("reading the log: %w", err))
	}
	return src, cp, t, nil
}

// openLog is a log under a verified checkpoint, with what it says in clear.
type openLog struct {
	policy *proof.Policy
	src    reader.Source
	cp     proof.Checkpoint
	tree   *reader.Tree
	gov    *governance
}

// open reads the whole log once.
func (f *logFlags) open(ctx context.Context, c *cobra.Command) (*openLog, error) {
	l := &openLog{}
	var err error
	if l.policy, err = f.readPolicy(c); err != nil {
		return nil, err
	}
	if l.src, l.cp, l.tree, err = f.tree(ctx, l.policy); err != nil {
		return nil, err
	}
	show, end := progress(c.ErrOrStderr())
	defer end()
	if l.gov, err = govern(ctx, l.tree, show); err != nil {
		return nil, fmt.Errorf("reading the log: %w", err)
	}
	return l, nil
}
