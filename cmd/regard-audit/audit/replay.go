package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
	"github.com/regard-broker/regard/policy"
)

// difference is where a record and its decision, run again, part.
type difference struct {
	What     string `json:"what"`
	Recorded string `json:"recorded"`
	Replayed string `json:"replayed"`
}

// replayed is one record with its decision, run again.
type replayed struct {
	Index       uint64       `json:"index"`
	Disclosure  string       `json:"disclosure,omitempty"`
	Role        string       `json:"role,omitempty"`
	Outcome     string       `json:"outcome,omitempty"`
	Allow       bool         `json:"allow"`
	Reasons     []string     `json:"reasons,omitempty"`
	Obligations []string     `json:"obligations,omitempty"`
	Bundle      string       `json:"bundle,omitempty"` // hexadecimal, as in blob/
	Revision    string       `json:"revision,omitempty"`
	Differences []difference `json:"differences,omitempty"`
	Notes       []string     `json:"notes,omitempty"`
	Unusable    string       `json:"unusable,omitempty"` // why it couldn't be run again
}

func (r *replayed) differ(what, recorded, replayed string) {
	if recorded == "" {
		recorded = "-"
	}
	if replayed == "" {
		replayed = "-"
	}
	r.Differences = append(r.Differences, difference{what, recorded, replayed})
}

// replayReport is what came of all records.
type replayReport struct {
	Replayed  int            `json:"replayed"`
	Bundles   int            `json:"bundles"`
	Different int            `json:"different"`
	Unusable  int            `json:"unusable"`
	Others    map[string]int `json:"others"` // records that hold no decision, by kind, and those that weren't opened, by state
	Decisions []replayed     `json:"decisions"`
	// Omitted decisions were counted, and aren't in the list: it is bounded, whatever a file holds.
	Omitted int `json:"omitted_decisions,omitempty"`

	listed [3]int // that are as recorded, differ, can't be run
}

// maxDecisions bounds the list: of those that are as recorded, that differ, and that can't be run, so that none of these crowds out another.
const maxDecisions = 20_000

func (out *replayReport) list(d replayed) {
	class := 0
	switch {
	case d.Unusable != "":
		class = 2
	case len(d.Differences) > 0:
		class = 1
	}
	if out.listed[class]++; out.listed[class] > maxDecisions {
		out.Omitted++
		return
	}
	out.Decisions = append(out.Decisions, d)
}

// replayer runs recorded decisions again, with what a log publishes.
type replayer struct {
	log         *openLog
	provisional bool
	bundles     map[proof.Hash]*policy.Replayer
	agreements  map[proof.Hash][]byte // canonical JSON; nil: it isn't served
}

func replayCommand() *cobra.Command {
	var look logFlags
	var f openFlags
	var asJSON bool
	c := &cobra.Command{
		Use: "replay [FILE…]", Short: "Run recorded decisions again, with the recorded bundles and agreements",
		Long: `replay takes opened records (of open, or - for standard input; or it opens them itself, as open does) and runs each decision again from its recorded input: under the policy bundle whose digest is
recorded, which must have been activated in the log before, with the agreement that stands in the log. It lists where the record says something else: whether it was allowed, which fields were granted, for which
reasons it was refused, whether its person is told later, under whose authority and until when.

The recorded input is the broker's statement of what was asked. That it is true, the agency's receipt shows; replay checks that it agrees with the rest of the record. It works after the person's erasure.

Exit codes: 0 no difference, 1 differences, 2 something could not be run again.`,
		Example: `  regard-audit replay --log https://log.regard.example.fr --policy log.policy records.jsonl
  regard-audit replay --log https://log.regard.example.fr --policy log.policy --json - < records.jsonl`,
		RunE: func(c *cobra.Command, files []string) error {
			if err := f.check(c, files); err != nil {
				return err
			}
			l, err := look.open(c.Context(), c)
			if err != nil {
				return err
			}
			r := &replayer{log: l, provisional: look.provisional, bundles: map[proof.Hash]*policy.Replayer{}, agreements: map[proof.Hash][]byte{}}
			out := replayReport{Others: map[string]int{}, Decisions: []replayed{}}
			err = f.records(c, files, func(e openedEntry) error {
				if err := c.Context().Err(); err != nil {
					return err
				}
				out.add(c.Context(), e, r)
				return nil
			})
			out.Bundles = len(r.bundles)
			if perr := out.print(c.OutOrStdout(), asJSON); perr != nil {
				return perr
			}
			switch {
			case out.Different > 0:
				if err != nil {
					fmt.Fprintf(c.ErrOrStderr(), "regard-audit: %v\n", err)
				}
				return errRefused
			case err != nil:
				return err
			case out.Unusable > 0:
				return fmt.Errorf("%s could not be run again", many(out.Unusable, "record", "records"))
			case out.Replayed == 0:
				return errors.New("there is no decision in these records")
			}
			return nil
		},
	}
	look.all(c)
	f.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return c
}

// add runs one record again, if it holds a decision.
func (out *replayReport) add(ctx context.Context, e openedEntry, r *replayer) {
	if e.State != stateOpen {
		// Stated by the broker, and not explained here: what is damaged, nobody can run again.
		if out.Others[e.State]++; e.State == "damaged" {
			out.unusable(replayed{Index: e.Index}, "its record is damaged")
		}
		return
	}
	d := replayed{Index: e.Index}
	receipt, err := e.verified(r.log.policy, r.provisional)
	if err != nil {
		out.unusable(d, fmt.Sprintf("its receipt doesn't hold: %v", err))
		return
	}
	if receipt.Opening().Schema() != proof.SchemaDisclosure {
		out.Others[e.Kind]++
		if r.accessDelay(receipt, &d); len(d.Differences) > 0 {
			out.Different++
			out.list(d)
		}
		return
	}
	if err := r.replay(ctx, receipt, &d); err != nil {
		out.unusable(d, err.Error())
		return
	}
	out.Replayed++
	if len(d.Differences) > 0 {
		out.Different++
	}
	out.list(d)
}

func (out *replayReport) unusable(d replayed, why string) {
	out.Unusable++
	d.Unusable = why
	out.list(d)
}

// replay returns an error if the decision can't be run again.
func (r *replayer) replay(ctx context.Context, receipt *proof.Receipt, d *replayed) error {
	o := receipt.Opening()
	d.Disclosure, d.Role, d.Outcome = o.Text(proof.DisclosureID), o.Text(proof.DisclosureRole), o.Text(proof.DisclosureOutcome)
	input, presence := o.Value(proof.DisclosureInput)
	bundle, err := proof.ParseHash(o.Text(proof.DisclosurePolicy))
	if presence != proof.Present || err != nil {
		return errors.New("the record doesn't show its input and its bundle")
	}
	d.Bundle = hex.EncodeToString(bundle[:])
	asked, ok := o.TimeOf(proof.DisclosureAskedAt)
	if !ok {
		return errors.New("the record doesn't show when it was asked")
	}
	in, err := policy.ParseInput(input)
	if err != nil {
		d.differ("input", "canonical JSON", err.Error())
		return nil
	}
	i := proof.Index(d.Index)
	r.inForce(i, asked.Time(), bundle, d)
	if err := r.agreement(ctx, i, asked.Time(), &in, d); err != nil {
		return err
	}
	compareInput(o, &in, asked, d)
	r.delay(receipt, &in, asked, d)
	p, err := r.bundle(ctx, bundle)
	if err != nil {
		return err
	}
	got, err := p.Replay(ctx, input)
	if err != nil {
		return fmt.Errorf("running it again: %w", err)
	}
	d.Allow, d.Revision, d.Obligations = got.Allow, got.Revision, texts(got.Obligations)
	d.Reasons = texts(got.Codes())
	compareDecision(o, &got, d)
	return nil
}

// inForce checks that the bundle was activated before the entry, and not superseded before it was asked. Entries have no times of their own: within the epoch in which a bundle was superseded it
// can't be told which of the two a request met.
func (r *replayer) inForce(i proof.Index, asked time.Time, bundle proof.Hash, d *replayed) {
	last, activated := proof.Hash{}, false
	var next *change // that superseded it
	for n, b := range r.log.gov.bundles {
		if b.index > i {
			break
		}
		if last = b.digest; b.digest == bundle {
			activated, next = true, nil
		} else if activated && next == nil {
			next = &r.log.gov.bundles[n]
		}
	}
	switch {
	case !activated:
		d.differ("policy", d.Bundle, "never activated before this entry")
	case last == bundle || next == nil:
	default:
		if closed, ok := r.log.gov.closedAt(next.index); ok && asked.After(closed) {
			d.differ("policy", d.Bundle, fmt.Sprintf("superseded by entry %d, long before it was asked", next.index))
			return
		}
		d.Notes = append(d.Notes, fmt.Sprintf("its bundle was superseded by entry %d, in the epoch in which it was asked or later", next.index))
	}
}

// agreement checks that the agreement in the input is the one in the log, and in force when it was asked.
func (r *replayer) agreement(ctx context.Context, i proof.Index, asked time.Time, in *policy.Input, d *replayed) error {
	if in.Agreement == nil {
		return nil
	}
	a, digest := in.Agreement, proof.Hash(in.AgreementDigest)
	ref := fmt.Sprintf("%s@%d", a.ID, a.Version)
	var mine, next *agreementAt
	for n := range r.log.gov.agreements[string(a.ID)] {
		switch e := &r.log.gov.agreements[string(a.ID)][n]; {
		case e.index > i:
		case e.Digest == digest && e.Version == uint64(a.Version) && string(e.State) == string(a.State): // #nosec G115 -- from 1 on
			mine, next = e, nil
		case mine != nil && next == nil:
			next = e
		}
	}
	if mine == nil {
		d.differ("agreement", ref+" "+string(a.State), "not in the log before this entry")
		return nil
	}
	if next != nil {
		if closed, ok := r.log.gov.closedAt(next.index); ok && asked.After(closed) {
			d.differ("agreement", ref+" "+string(a.State), fmt.Sprintf("%s@%d %s since entry %d, long before it was asked", a.ID, next.Version, next.State, next.index))
		} else {
			d.Notes = append(d.Notes, fmt.Sprintf("agreement %s was changed by entry %d, in the epoch in which it was asked or later", ref, next.index))
		}
	}
	served, known := r.agreements[digest]
	if !known {
		var err error
		if served, err = r.blob(ctx, digest); err != nil {
			return fmt.Errorf("agreement %s: %w", ref, err)
		}
		r.agreements[digest] = served
	}
	// Its digest is that in the log, so this can differ only if canonical forms do.
	if text, err := a.Canonical(); err != nil || string(text) != string(served) {
		d.differ("agreement", ref, "the log's text says something else")
	}
	return nil
}

// delayOf is the delay that an entry begins or ends, and its entry in the log; false if it isn't there or is another one's.
func (r *replayer) delayOf(receipt *proof.Receipt) (d proof.Deferred, delayed, there bool) {
	switch e := receipt.Entry().(type) {
	case proof.Deferred:
		return e, true, true
	case proof.Opened:
		d, there = r.log.gov.deferred[e.Deferred]
		return d, true, there && d.Commitment == e.Commitment && e.Deferred < receipt.Index()
	}
	return d, false, true
}

func clauses(d proof.Deferred) string { return d.Authority + ", " + d.Article + ", " + d.Month }

// delay compares the entry with what the agreement says of a delay: nothing is told later than the agreement has it, and nothing at once that should be told later.
func (r *replayer) delay(receipt *proof.Receipt, in *policy.Input, asked proof.Time, d *replayed) {
	entry, delayed, there := r.delayOf(receipt)
	recorded, agreed := "", ""
	switch {
	case !there:
		recorded = "of another entry, or of none"
	case delayed:
		recorded = clauses(entry)
	}
	if in.Agreement != nil && in.Agreement.Deferral != nil {
		x := in.Agreement.Deferral
		agreed = clauses(proof.Deferred{Authority: x.Authority, Article: x.Article, Month: x.Month(asked.Time())})
	}
	if recorded != agreed {
		d.differ("delay", recorded, agreed)
	}
}

// accessDelay checks that an access is told when that is to which it was: not before, which would tell of the delay, and not long after.
func (r *replayer) accessDelay(receipt *proof.Receipt, d *replayed) {
	gov := r.log.gov
	entry, delayed, there := r.delayOf(receipt)
	n, err := strconv.ParseUint(receipt.Opening().Text(proof.AccessTarget), 10, 63)
	at := proof.Index(n)
	target, ok := gov.deferred[at]
	ended, told := gov.opened[at]
	if !delayed {
		if receipt.Opening().Schema() == proof.SchemaAccess && err == nil && ok && (!told || receipt.Index() < ended) {
			d.differ("delay", "", clauses(target))
		}
		return
	}
	began := receipt.Index()
	if o, ok := receipt.Entry().(proof.Opened); ok {
		began = o.Deferred
	}
	switch {
	case !there:
		d.differ("delay", "of another entry, or of none", "")
	case err != nil || !ok || at >= began:
		d.differ("delay", clauses(entry), "")
	case clauses(entry) != clauses(target):
		d.differ("delay", clauses(entry), clauses(target))
	case told && began > ended:
		d.differ("delay", clauses(entry), fmt.Sprintf("none: entry %d had ended it", ended))
	case gov.lost(at) || gov.lost(began):
	case !r.withTarget(began, ended, told):
		d.differ("delay", "told at another time than what was opened", clauses(target))
	}
}

// withTarget reports whether a delayed access was told with its target: not in an earlier epoch, and in the next one at the latest, for of very many the broker ends some a moment later.
func (r *replayer) withTarget(began, ended proof.Index, told bool) bool {
	gov := r.log.gov
	mine, ok := gov.opened[began]
	switch {
	case !told:
		return !ok
	case !ok:
		return gov.closed() <= gov.epochOf(ended)+1
	}
	of, is := gov.epochOf(ended), gov.epochOf(mine)
	return of <= is && is <= of+1
}

// blob reads the bytes behind a digest that stands in the log.
func (r *replayer) blob(ctx context.Context, digest proof.Hash) ([]byte, error) {
	name := "blob/" + hex.EncodeToString(digest[:])
	b, err := r.log.src.Get(ctx, name, reader.MaxBlob)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if sha256.Sum256(b) != digest {
		return nil, fmt.Errorf("%s: other bytes are served than those that the log names", name)
	}
	return b, nil
}

func (r *replayer) bundle(ctx context.Context, digest proof.Hash) (*policy.Replayer, error) {
	if p, ok := r.bundles[digest]; ok {
		return p, nil
	}
	b, err := r.blob(ctx, digest)
	if err != nil {
		return nil, err
	}
	p, err := policy.NewReplayer(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("compiling bundle %s: %w", hex.EncodeToString(digest[:]), err)
	}
	r.bundles[digest] = p
	return p, nil
}

// compareInput compares what the record says of the request with what the policy was told.
func compareInput(o proof.Opening, in *policy.Input, asked proof.Time, d *replayed) {
	agreement := ""
	if in.Agreement != nil {
		agreement = fmt.Sprintf("%s@%d", in.Agreement.ID, in.Agreement.Version)
	}
	for _, c := range []struct {
		field proof.Field
		input string
	}{
		{proof.DisclosureAgency, string(in.Agency.ID)},
		{proof.DisclosureRecipient, string(in.Recipient)},
		{proof.DisclosureProvider, string(in.Service.Provider)},
		{proof.DisclosureService, fmt.Sprintf("%s@%d", in.Service.ID, in.Service.Version)},
		{proof.DisclosurePurpose, string(in.Purpose)},
		{proof.DisclosureLegalBasis, string(in.LegalBasis)},
		{proof.DisclosureAgreement, agreement},
	} {
		if got := o.Text(c.field); got != c.input {
			d.differ("input: "+proof.SchemaDisclosure.Name(c.field), got, c.input)
		}
	}
	if in.Time.UnixMilli() != int64(asked) {
		d.differ("input: time", asked.Time().Format(time.RFC3339Nano), in.Time.UTC().Format(time.RFC3339Nano))
	}
}

// compareDecision compares what the record says of the decision with what the bundle says now.
func compareDecision(o proof.Opening, got *policy.Recorded, d *replayed) {
	if denied := d.Outcome == proof.OutcomeDenied; denied == got.Allow {
		d.differ("allow", d.Outcome, map[bool]string{true: "allowed", false: "denied"}[got.Allow])
	}
	if recorded, now := o.List(proof.DisclosureReasons), d.Reasons; !slices.Equal(recorded, now) && len(recorded)+len(now) > 0 {
		d.differ("reasons", strings.Join(recorded, ","), strings.Join(now, ","))
	}
	var more []string
	for _, f := range o.List(proof.DisclosureReleased) {
		if !slices.Contains(got.Fields, policy.Pointer(f)) {
			more = append(more, f)
		}
	}
	if len(more) > 0 {
		d.differ("fields", "released "+strings.Join(more, ","), "granted "+strings.Join(texts(got.Fields), ","))
	}
}

func texts[T ~string](list []T) []string {
	var out []string
	for _, s := range list {
		out = append(out, string(s))
	}
	slices.Sort(out)
	return out
}

func (out *replayReport) print(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(out)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	head := false
	row := func(cells ...string) {
		if !head {
			fmt.Fprintln(t, "INDEX\tDISCLOSURE\tWHAT\tRECORDED\tREPLAYED")
			head = true
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	for i := range out.Decisions {
		d := &out.Decisions[i]
		for _, x := range d.Differences {
			row(fmt.Sprint(d.Index), d.Disclosure, x.What, x.Recorded, x.Replayed)
		}
		if d.Unusable != "" {
			id := d.Disclosure
			if id == "" {
				id = "-"
			}
			row(fmt.Sprint(d.Index), id, "UNUSABLE", d.Unusable, "-")
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i := range out.Decisions {
		for _, n := range out.Decisions[i].Notes {
			fmt.Fprintf(w, "entry %d: %s\n", out.Decisions[i].Index, n)
		}
	}
	if out.Omitted > 0 {
		fmt.Fprintf(w, "%d more aren't listed: take fewer records at a time to see what is said of each\n", out.Omitted)
	}
	fmt.Fprintf(w, "%s run again under %s: %d differ, %d could not be run\n", many(out.Replayed, "decision", "decisions"), many(out.Bundles, "bundle", "bundles"), out.Different, out.Unusable)
	for _, k := range sortedKeys(out.Others) {
		switch {
		case strings.Contains(k, "@"):
			fmt.Fprintf(w, "%s without a decision: %s\n", many(out.Others[k], "entry", "entries"), k)
		case k == "erased":
			fmt.Fprintf(w, "%s opened: %s. Their decisions can be run again: open --erased-epochs\n", many(out.Others[k], "entry wasn't", "entries weren't"), k)
		default:
			fmt.Fprintf(w, "%s opened: %s\n", many(out.Others[k], "entry wasn't", "entries weren't"), k)
		}
	}
	return nil
}

func sortedKeys(m map[string]int) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
