package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
)

// historyFinding is what is said about one history.
type historyFinding struct {
	File    string `json:"file"`
	Proven  bool   `json:"proven"`
	Problem string `json:"problem,omitempty"`
	// Unusable: nothing in it is known to be wrong, but it can't be read, isn't a history of the log whose key you gave, lacks the quorum, or is stale.
	Unusable bool   `json:"unusable,omitempty"`
	State    string `json:"state"`

	Origin     string     `json:"origin,omitempty"`
	TreeSize   uint64     `json:"tree_size"`
	Root       string     `json:"root,omitempty"`
	RootTime   *time.Time `json:"root_time,omitempty"`
	Witnesses  []witness  `json:"witnesses,omitempty"`
	Unverified []string   `json:"unverified_signatures,omitempty"`

	Identifiers []string               `json:"identifiers,omitempty"` // types: the values are in the file
	From        uint64                 `json:"from_epoch"`
	To          uint64                 `json:"to_epoch"`
	Opened      *time.Time             `json:"opened,omitempty"`
	Closed      *time.Time             `json:"closed,omitempty"`
	Complete    bool                   `json:"complete"` // all recorded requests under these identifiers in these epochs
	Entries     []historyEntry         `json:"entries"`
	Ended       []proof.EpochRange     `json:"ended_epochs,omitempty"`
	LostRolls   int                    `json:"lost_rolls,omitempty"`
	LostEntries uint64                 `json:"lost_entries,omitempty"`
	Deferrals   *proof.Deferrals       `json:"deferrals,omitempty"`
	Audits      []proof.AuditedIndexes `json:"audits,omitempty"`
	Unaudited   uint64                 `json:"unaudited_epochs"`
	ComparedTo  []string               `json:"compared_to,omitempty"`

	Says []string `json:"says,omitempty"`
	Not  []string `json:"not_proven,omitempty"`
}

// historyEntry is an entry without what it is about, which stays in the file.
type historyEntry struct {
	Index      uint64 `json:"log_index"`
	Epoch      uint64 `json:"epoch"`
	Kind       string `json:"kind"`
	Identifier string `json:"identifier"`
	State      string `json:"state"`
	Withheld   int    `json:"withheld_fields,omitempty"` // that the person may read
}

type historyFlags struct {
	logFlags
	asJSON bool
	maxAge time.Duration
	older  []string
	now    func() time.Time
}

func verifyHistoryCommand() *cobra.Command {
	f := historyFlags{now: time.Now}
	c := &cobra.Command{
		Use: "verify-history FILE…", Short: "Verify a person's complete history", Args: files,
		Long: `verify-history checks history files (*.regard.json) offline, from the log's key or a witness policy and nothing else: that the log holds all entries shown, that these are
all entries in the person's rolls in every closed epoch, that each shows what it commits to, and that the log accounts for what can't be shown: an erasure, an end of
retention, a loss that it tells.

It says in plain words what is proven, for which identifiers, epochs and times, and what isn't. "All recorded requests about you under these identifiers" is what it can say at most:
it knows nothing of other identifiers, and nothing of data that were given outside of the log.

Files of the same person that are given together, or with --compare, are compared: an epoch with two markers, an entry that is two, two trees of one size are a fork, and both
files the evidence of it.

With --max-age a root is refused that no quorum of witnesses signed so recently; without a quorum the time of the last epoch's end counts. Give it when you have just fetched the
file: an operator who shows everybody old roots hides what came since.

Exit codes: 0 everything is verified, 1 something is refuted, 2 nothing is refuted, but something is unusable: no history, another log's key, no quorum, a stale root.`,
		Example: `  regard-audit verify-history --policy log.policy --max-age 48h camille.regard.json
  regard-audit verify-history --policy log.policy --compare 2025.regard.json 2026.regard.json
  regard-audit verify-history --log-key log.vkey --json *.regard.json`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"json"}, cobra.ShellCompDirectiveFilterFileExt
		},
		RunE: func(c *cobra.Command, args []string) error { return f.run(c, args) },
	}
	f.keys(c, "accept histories under the log's signature alone")
	x := c.Flags()
	x.DurationVar(&f.maxAge, "max-age", 0, "how old the root may be, like 48h (default: any age)")
	x.StringArrayVar(&f.older, "compare", nil, "an older history of the same person; may be given several times")
	x.BoolVar(&f.asJSON, "json", false, "write JSON")
	return c
}

func (f *historyFlags) run(c *cobra.Command, args []string) error {
	if f.maxAge < 0 {
		return errors.New("--max-age is negative")
	}
	p, err := f.readPolicy(c)
	if err != nil {
		return err
	}
	var older []*namedHistory
	for _, name := range f.older {
		h, err := readHistory(c, name)
		if err != nil {
			return err
		}
		older = append(older, &namedHistory{name, h})
	}
	findings := []historyFinding{}
	refused, unusable := false, 0
	var seen []*namedHistory
	for i, name := range args {
		showProgress(c.ErrOrStderr(), i, len(args))
		x := f.file(c, name, p, older, &seen)
		refused = refused || !x.Proven && !x.Unusable
		if x.Unusable {
			unusable++
		}
		findings = append(findings, x)
	}
	showProgress(c.ErrOrStderr(), len(args), len(args))
	return conclude(c, f.asJSON, findings, refused, unusable)
}

type namedHistory struct {
	name string
	h    *proof.History
}

// readHistory reads no more than a history may have.
func readHistory(c *cobra.Command, name string) (*proof.History, error) {
	b, err := readUpTo(c, name, proof.MaxHistory)
	if err != nil {
		return nil, err
	}
	h, err := proof.ParseHistory(b)
	if err != nil {
		return nil, fmt.Errorf("%s is not a history: %w", name, err)
	}
	return h, nil
}

// file makes the finding about a file, and compares it with the older ones and with those of the same person before it.
func (f *historyFlags) file(c *cobra.Command, name string, p *proof.Policy, older []*namedHistory, seen *[]*namedHistory) historyFinding {
	h, err := readHistory(c, name)
	if err != nil {
		return historyFinding{File: name, State: proof.State(0).String(), Unusable: true, Problem: err.Error() + "."}
	}
	compare := slices.Clone(older)
	for _, s := range *seen {
		if slices.ContainsFunc(s.h.Subjects, func(x proof.Subject) bool { return slices.ContainsFunc(h.Subjects, x.Equal) }) {
			compare = append(compare, s)
		}
	}
	*seen = append(*seen, &namedHistory{name, h})
	opt := proof.HistoryOptions{Now: proof.TimeOf(f.now()), MaxAge: f.maxAge, AllowProvisional: f.provisional || !p.Demands()}
	if len(compare) == 0 {
		v, err := h.Verify(p, opt)
		return newHistoryFinding(name, &v, err)
	}
	var x historyFinding
	for i, o := range compare {
		opt.Older = o.h
		v, err := h.Verify(p, opt)
		if y := newHistoryFinding(name, &v, err); i == 0 || !y.Proven {
			x, y.ComparedTo = y, x.ComparedTo
		}
		x.ComparedTo = append(x.ComparedTo, o.name)
		if !x.Proven {
			x.Problem = join(x.Problem, "Compared with "+o.name+".")
			return x
		}
	}
	return x
}

func newHistoryFinding(name string, v *proof.HistoryVerdict, err error) historyFinding {
	f := historyFinding{File: name, Proven: err == nil, State: v.State.String(), Entries: []historyEntry{}}
	if err != nil {
		f.Problem, f.Unusable = historyProblem(err)
		if v.State == 0 {
			return f
		}
	}
	at := func(t proof.Time) *time.Time { x := t.Time(); return &x }
	f.Origin, f.TreeSize, f.Root, f.RootTime = v.Origin, v.Size, base64.StdEncoding.EncodeToString(v.Root[:]), at(v.RootTime)
	for _, w := range v.Witnesses {
		f.Witnesses = append(f.Witnesses, newWitness(w))
	}
	f.Unverified, f.From, f.To, f.Opened, f.Closed, f.Complete = v.Unverified, uint64(v.Epochs.From), uint64(v.Epochs.To), at(v.Opened), at(v.Closed), v.Complete()
	for _, s := range v.Subjects {
		f.Identifiers = append(f.Identifiers, string(s.Type()))
	}
	for _, e := range v.Entries {
		f.Entries = append(f.Entries, historyEntry{uint64(e.Index), uint64(e.Epoch), string(e.Kind), string(v.Subjects[e.Subject].Type()), e.State.String(), e.Withheld})
	}
	f.Ended, f.LostRolls, f.LostEntries, f.Deferrals, f.Audits, f.Unaudited = v.Ended, v.LostRolls, v.LostEntries, &v.Deferrals, v.Audits, v.Unaudited
	f.Says, f.Not = v.Words()
	return f
}

// historyProblem says why, for people, and whether the file is only unusable.
func historyProblem(err error) (text string, unusable bool) {
	switch {
	case errors.Is(err, proof.ErrFork):
		return "The log has two histories (" + err.Error() + "). Keep both files: they are evidence against whoever signed them.", false
	case errors.Is(err, proof.ErrNotWitnessed):
		return "The history is provisional: the quorum of witnesses is missing. Fetch it again, or give --allow-provisional.", true
	case errors.Is(err, proof.ErrStale):
		return "The root is older than you accept (" + err.Error() + "). Fetch the history again; if it stays old, something is kept from you.", true
	case errors.Is(err, proof.ErrOtherLog):
		return problem(err), true
	case errors.Is(err, proof.ErrSubject):
		return "It can't be compared (" + err.Error() + ").", true
	}
	return "What it claims is not proven (" + err.Error() + "). Keep it: it is evidence against whoever made it.", false
}

func (f *historyFinding) print(w io.Writer) {
	printVerdict(w, f.File, f.Proven, f.Unusable, f.State, f.Problem, f.Says, f.Not)
}

// showProgress says on a terminal which file is being verified, and clears the line in the end.
func showProgress(w io.Writer, done, of int) {
	if !terminal(w) {
		return
	}
	if done == of {
		fmt.Fprint(w, "\r\x1b[K")
		return
	}
	fmt.Fprintf(w, "\r\x1b[Kverifying file %d of %d …", done+1, of)
}
