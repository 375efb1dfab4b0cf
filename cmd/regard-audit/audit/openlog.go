package audit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// logFlags say which log, and whose signatures count.
type logFlags struct {
	place, logKey, policy string
	provisional           bool
	timeout               time.Duration
}

func (f *logFlags) flags(c *cobra.Command) {
	f.policyFlags(c)
	c.Flags().StringVar(&f.place, "log", "", "the public log: its address, or a directory with a copy")
	c.Flags().DurationVar(&f.timeout, "timeout", 30*time.Second, "of one attempt at a file of the log")
}

func (f *logFlags) policyFlags(c *cobra.Command) {
	c.Flags().StringVar(&f.logKey, "log-key", "", "the log's verification key, or a file with it")
	c.Flags().StringVar(&f.policy, "policy", "", "file with the log's key and the witnesses (c2sp.org/tlog-policy)")
	c.Flags().BoolVar(&f.provisional, "allow-provisional", false, "do without the quorum of witnesses that the policy demands")
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
	if l.policy, err = readPolicy(c, f.logKey, f.policy); err != nil {
		return nil, err
	}
	if f.place == "" {
		return nil, inputError{errors.New("--log is missing: the address of the public log, or a directory with a copy")}
	}
	if f.timeout <= 0 {
		return nil, inputError{errors.New("--timeout must be positive")}
	}
	if l.src, err = reader.Open(f.place, reader.Options{Timeout: f.timeout}); err != nil {
		return nil, inputError{err}
	}
	if l.cp, err = reader.Checkpoint(ctx, l.src, l.policy); err != nil {
		return nil, inputError{fmt.Errorf("reading the log's checkpoint: %w", err)}
	}
	if l.policy.Demands() && !l.cp.Witnessed() && !f.provisional {
		return nil, inputError{errors.New("the checkpoint lacks the quorum of witnesses that the policy demands: others may be shown another history. Try again later, or give --allow-provisional")}
	}
	if l.tree, err = reader.OpenTree(ctx, l.src, "", l.cp.Size(), l.cp.Root()); err != nil {
		return nil, inputError{fmt.Errorf("reading the log: %w", err)}
	}
	if l.gov, err = govern(ctx, l.tree); err != nil {
		return nil, inputError{fmt.Errorf("reading the log: %w", err)}
	}
	return l, nil
}
