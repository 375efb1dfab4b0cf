package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// historyFinding is what is said about one history.
type historyFinding struct {
	File    string `json:"file"`
	Proven  bool   `json:"proven"`
	Problem string `json:"problem,omitempty"`
	// Unusable: nothing in it is known to be wrong, but it can't be read, isn't a history of the log whose key you gave, lacks the quorum, is stale, or is ahead of the clock.
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

	// Code is that of a printed statement of the same entries (docs/formats.md, section 7).
	Code string `json:"statement_code,omitempty"`

	Says []string `json:"says,omitempty"`
	Not  []string `json:"not_proven,omitempty"`

	// Before is what the checkpoint shows that a browser had seen before it saved this evidence.
	Before string `json:"before,omitempty"`

	// Verdict is what a citizen's browser says about the file.
	Verdict *verdict.Report `json:"verdict"`

	lang verdict.Lang
	// whose is for the person's own eyes at a terminal; what is piped to other programs as JSON has types alone.
	whose []verdict.Fact
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
	asked  string
	older  []string
	lang   string
	now    func() time.Time
}

// verifyHistoryCommand is the command; now is the clock by which files are judged.
func verifyHistoryCommand(now func() time.Time) *cobra.Command {
	f := historyFlags{now: now}
	c := &cobra.Command{
		Use: "verify-history FILE…", Short: "Verify a person's complete history", Args: files,
		Long: `verify-history checks history files (*.regard.json) offline, from the log's key or a witness policy and nothing else: that the log holds all entries shown, that these are
all entries in the person's rolls in every closed epoch, that each shows what it commits to, and that the log accounts for what can't be shown: an erasure, an end of
retention, a loss that it tells.

It says in plain words what is proven, for which identifiers, epochs and times, and what isn't. "All recorded requests about you under these identifiers" is what it can say at most:
it knows nothing of other identifiers, and nothing of data that were given outside of the log. The words are those of the portal, where a browser checks the same file, also with --lang fr;
below them stands whose history
it is, names and numbers in full (never with --json): it says something about you only if that is exactly you. Then come the fingerprints of the keys of your policy (SHA-256 of the key as it is written), to be compared with those that others have.

Files of the same person that are given together, or with --compare, are compared: an epoch with two markers, an entry that is two, two trees of one size are a fork, and both
files the evidence of it. The evidence that a page of the portal saved (*.evidence.json) is a history, too; what the page showed is compared with it, and so is the
checkpoint that the browser had seen before: another tree of the same size, signed as well, is a fork, for which this one file is evidence.

With --max-age a root is refused that no quorum of witnesses signed so recently; without a quorum the time of the last epoch's end counts; and a history is said to end too early if
another epoch ought to have been closed since. Give it when you have just fetched the file: an operator who shows old roots, or an old history, hides what came since.

With --asked you say what the file was asked for, as a browser knows from the address of its page: the days of a statement, or "whole", all up to now. Then its beginning is judged, too, and its
end by the last of these days. Without it nothing is said of a file that begins late: somebody may have chosen its days.

Exit codes: 0 everything is verified, 1 something is refuted, 2 nothing is refuted, but something is unusable: no history, another log's key, no quorum, a stale root,
a log that is a day or more ahead of the clock of this machine.`,
		Example: `  regard-audit verify-history --policy log.policy --max-age 48h camille.regard.json
  regard-audit verify-history --policy log.policy --max-age 48h --asked 2025-01-01..2025-12-31 releve.regard.json
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
	x.StringVar(&f.asked, "asked", "", `for what it was asked: days in Paris, both included, like 2025-01-01..2025-12-31, or "whole" (default: not said)`)
	x.StringArrayVar(&f.older, "compare", nil, "an older history of the same person; may be given several times")
	x.StringVar(&f.lang, "lang", string(verdict.English), "language of the verdict: fr or en")
	x.BoolVar(&f.asJSON, "json", false, "write JSON")
	return c
}

func (f *historyFlags) run(c *cobra.Command, args []string) error {
	if f.maxAge < 0 {
		return errors.New("--max-age is negative")
	}
	lang, err := verdict.ParseLang(f.lang)
	if err != nil {
		return fmt.Errorf("--lang: %w", err)
	}
	asked, err := f.readAsked()
	if err != nil {
		return err
	}
	p, err := f.readPolicy(c)
	if err != nil {
		return err
	}
	var older []*namedHistory
	for _, name := range f.older {
		o, err := readHistory(c, name)
		if err != nil {
			return err
		}
		older = append(older, &namedHistory{name, o.h})
	}
	findings := []historyFinding{}
	refused, unusable := false, 0
	var seen []*namedHistory
	for i, name := range args {
		showProgress(c.ErrOrStderr(), i, len(args))
		x := f.file(c, name, verdict.Input{Lang: lang, Policy: p, Now: proof.TimeOf(f.now()), Fresh: f.maxAge > 0 || f.asked != "", Whole: f.asked == whole, Asked: asked}, older, &seen)
		refused = refused || !x.Proven && !x.Unusable
		if x.Unusable {
			unusable++
		}
		findings = append(findings, x)
	}
	showProgress(c.ErrOrStderr(), len(args), len(args))
	return conclude(c, f.asJSON, findings, refused, unusable)
}

// whole is asked for by the page of a whole history.
const whole = "whole"

// readAsked reads the days for which files were asked; nil: all, or it isn't said.
func (f *historyFlags) readAsked() (*verdict.Days, error) {
	if f.asked == "" || f.asked == whole {
		return nil, nil
	}
	from, to, _ := strings.Cut(f.asked, "..")
	for _, day := range []string{from, to} {
		if _, err := time.Parse(time.DateOnly, day); err != nil {
			return nil, fmt.Errorf("--asked %q: give two days, like 2025-01-01..2025-12-31, or whole", f.asked)
		}
	}
	if to < from {
		return nil, fmt.Errorf("--asked %q: the last day is before the first", f.asked)
	}
	return &verdict.Days{From: from, To: to}, nil
}

type namedHistory struct {
	name string
	h    *proof.History
}

// historyFile is a history, or the evidence with which a page saved one.
type historyFile struct {
	h      *proof.History
	digest [32]byte
	page   *verdict.Page // what the page showed
	before []byte        // the signed checkpoint that the browser had seen before; none: it remembered none
}

// evidence begins a file that a page saved (docs/formats.md); maxEvidence bounds it: quoted, a history and names can be twice as long.
const (
	evidence    = `{"schema":"regard/evidence@v1",`
	maxEvidence = 2*(proof.MaxHistory+verdict.MaxNames) + 4<<20
)

// readHistory reads no more than a history may have.
func readHistory(c *cobra.Command, name string) (f historyFile, err error) {
	b, err := readUpTo(c, name, maxEvidence)
	if err != nil {
		return f, err
	}
	if bytes.HasPrefix(b, []byte(evidence)) {
		var e struct {
			Page    *verdict.Page `json:"page"`
			Before  string        `json:"before"`
			History string        `json:"history"`
		}
		if err := json.Unmarshal(b, &e); err != nil {
			return f, fmt.Errorf("%s is not what a page saves: %w", name, err)
		}
		b, f.page, f.before = []byte(e.History), e.Page, []byte(e.Before)
	}
	if len(b) > proof.MaxHistory {
		return f, fmt.Errorf("%s is larger than %d bytes", name, proof.MaxHistory)
	}
	f.digest = sha256.Sum256(b)
	if f.h, err = proof.ParseHistory(b); err != nil {
		return f, fmt.Errorf("%s is not a history: %w", name, err)
	}
	return f, nil
}

// file makes the finding about a file, and compares it with the older ones and with those of the same person before it.
func (f *historyFlags) file(c *cobra.Command, name string, in verdict.Input, older []*namedHistory, seen *[]*namedHistory) historyFinding {
	x, err := readHistory(c, name)
	h := x.h
	in.Digest, in.History = x.digest, h
	if err != nil {
		return historyFinding{File: name, State: proof.State(0).String(), Unusable: true, Problem: err.Error() + ".", Verdict: verdict.New(in), lang: in.Lang}
	}
	check := func(opt proof.HistoryOptions) historyFinding {
		v, err := h.Verify(in.Policy, opt)
		in.Verdict, in.Err = &v, err
		return newHistoryFinding(name, in, x)
	}
	compare := slices.Clone(older)
	for _, s := range *seen {
		if slices.ContainsFunc(s.h.Subjects, func(x proof.Subject) bool { return slices.ContainsFunc(h.Subjects, x.Equal) }) {
			compare = append(compare, s)
		}
	}
	*seen = append(*seen, &namedHistory{name, h})
	opt := proof.HistoryOptions{Now: in.Now, MaxAge: f.maxAge, AllowProvisional: f.provisional || !in.Policy.Demands()}
	if len(compare) == 0 {
		return check(opt)
	}
	var last historyFinding
	for i, o := range compare {
		opt.Older = o.h
		y := check(opt)
		refuted := !y.Proven && !y.Unusable
		if compared := last.ComparedTo; i == 0 || refuted || last.Proven && !y.Proven {
			if last, last.ComparedTo = y, compared; !y.Proven {
				last.Problem = join(last.Problem, map[verdict.Lang]string{verdict.English: "Compared with ", verdict.French: "Comparé avec "}[in.Lang]+o.name+".")
			}
		}
		last.ComparedTo = append(last.ComparedTo, o.name)
		if refuted { // what is only unusable must not keep the next from being looked at
			return last
		}
	}
	return last
}

func newHistoryFinding(name string, in verdict.Input, file historyFile) historyFinding {
	v := in.Verdict
	f := historyFinding{File: name, Proven: in.Err == nil, State: v.State.String(), Entries: []historyEntry{}, Verdict: verdict.New(in), lang: in.Lang}
	if in.Err != nil {
		f.Problem, f.Unusable = verdict.Problem(in.Err, in.Lang)
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
	f.Says, f.Not = verdict.Words(v, in.Lang)
	if file.page != nil {
		f.Verdict.ComparePage(*file.page, in)
	}
	if len(file.before) > 0 {
		var split bool
		if f.Before, split = f.Verdict.CompareBefore(file.before, in); split {
			f.Problem = "" // whatever it was, this is graver
		}
	}
	f.Proven, f.Unusable = f.Proven && f.Verdict.Refuted == nil, f.Unusable && f.Verdict.Refuted == nil
	if f.Proven {
		f.Code = v.StatementCode()
	}
	f.whose = verdict.Whose(f.Verdict, in)
	return f
}

func (f *historyFinding) print(w io.Writer) {
	text := join(f.Verdict.Title+". "+f.Verdict.Sentence, strings.TrimSpace(join(f.Problem, f.Before)))
	printVerdict(w, f.lang, f.File, f.Proven, f.Unusable, f.State, text, f.Says, f.Not)
	around := verdict.NewAround(f.lang)
	if n := len(f.Verdict.Limits); n > 0 {
		fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(around.Limits, "{n}", strconv.Itoa(n)))
	}
	for _, x := range f.Verdict.Limits {
		text := join(x.Text, x.Lift)
		if x.Kind != verdict.Standing {
			text = around.Worry + " " + text
		}
		fmt.Fprintf(w, "    %s\n", text)
	}
	if len(f.whose) > 0 {
		fmt.Fprintf(w, "  %s\n", around.Whose)
	}
	for _, x := range f.whose {
		fmt.Fprintf(w, "    %s\n", x.In(f.lang))
	}
	if r := f.Verdict.Refuted; r != nil {
		fmt.Fprintf(w, "  %s %s\n", around.Reference, r.Reference)
	}
	for _, k := range f.Verdict.Keys {
		fmt.Fprintf(w, "  %s %s  %s\n", k.Role, k.Name, k.Fingerprint)
	}
	if f.Code != "" {
		fmt.Fprintf(w, "  the code of a printed statement of these entries: %s\n", f.Code)
	}
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
