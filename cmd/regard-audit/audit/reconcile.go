package audit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"sort"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// maxHeldLine bounds a line of what is reconciled, in bytes: a disclosure with all its receipts.
const maxHeldLine = 64 << 20

// heldLine is a line of `regard receipts export`.
type heldLine struct {
	ID       string   `json:"id"`
	Role     string   `json:"role"`
	State    string   `json:"state"`
	Outcome  string   `json:"outcome"`
	Code     string   `json:"code"`
	Receipts []string `json:"receipts"`
	Erased   []uint64 `json:"erased"`
}

// accessLine is what is read of a line of a provider's access log.
type accessLine struct {
	RequestID string `json:"request_id"`
	Service   string `json:"service"`
}

// reconciled is the result.
type reconciled struct {
	Origin   string       `json:"origin,omitempty"` // of the log, if it was read
	TreeSize uint64       `json:"tree_size,omitempty"`
	Rows     []epochRow   `json:"epochs"`
	Held     int          `json:"held"`               // disclosures
	Asked    int          `json:"asked,omitempty"`    // different ids in the access log
	Accepted int          `json:"accepted,omitempty"` // closed by hand, or for want of a subject
	Erased   int          `json:"erased,omitempty"`   // identifiers of which the broker says that they were erased
	Findings []discrepant `json:"findings"`           // of each code the first
	// Counts has all of them, by code.
	Counts map[string]int `json:"counts"`
}

// maxDiscrepant is how many findings of a code are kept: a holder may have a million disclosures, and all may have the same fault.
const maxDiscrepant = 100

// epochRow counts what a holder has of one kind of entry in one epoch.
type epochRow struct {
	Epoch       uint64 `json:"epoch"`
	Kind        string `json:"kind"`
	Disclosures int    `json:"disclosures"`
	Entries     int    `json:"entries"` // a provider has one for everybody in an answer
	Witnessed   int    `json:"witnessed"`
	Settled     int    `json:"settled"`
	// Log is how many entries of the kind the log has in the epoch, by the marker that closes it: of everybody. 0: not known here.
	Log uint64 `json:"log,omitempty"`
}

type discrepant struct {
	ID     string `json:"id,omitempty"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	// Unusable: it isn't shown that anything is wrong; something is missing that may come.
	Unusable bool `json:"unusable,omitempty"`
}

type reconciler struct {
	policy      *proof.Policy
	provisional bool
	now         proof.Time
	accessed    bool // there was an access log: nothing held may agree with nothing asked

	out     reconciled
	refuted bool // one of the findings says that something is wrong
	rows    map[rowKey]*epochRow
	ids     map[string]string // role by id
	at      []placed
	// erased are the identifiers that are said to be erased, by a digest, with the epoch of their last entry.
	erased map[proof.Hash]proof.Epoch
	// roots are those of the receipts' checkpoints, by size.
	roots map[uint64]proof.Hash
}

type rowKey struct {
	epoch uint64
	kind  string
}

// placed is an entry at its place, as a receipt has it.
type placed struct {
	id        string
	index     uint64
	leaf      proof.Hash
	epoch     proof.Epoch
	unsettled bool // it belongs in a roll, and isn't shown to be in one
}

func reconcileCommand() *cobra.Command {
	var look logFlags
	var access string
	var asJSON bool
	c := &cobra.Command{
		Use: "reconcile HELD", Short: "Compare what an agency or a provider holds with the log",
		Long: `reconcile reads what a holder exported (regard receipts export), - for standard input. Each own question must have exactly one receipt of the asked entry, and every
receipt must verify. With --access-log, the provider's own access log (JSON lines with "request_id", and "service": "document" for parts of an answer), each question in it must be held, and each
that is held must be in it, once. Where a law delays that the person is told, the receipt of the opened@v1 entry has to be there once its month is over. With --log, a copy of the log or its address, each entry must stand in it, the trees of all receipts must be earlier states of it, those of closed epochs must be settled, and no more identifiers may be said to be erased than the log has erasures after
their entries. Of each kind of finding the first 100 are shown, and all are counted.

Exit codes: 0 everything agrees; 1 something doesn't, or there is no receipt of a question; 2 nothing is refuted, but something is unusable: a file, no key, no quorum, or a receipt that isn't settled.`,
		Example: `  regard receipts export receipts/ | regard-audit reconcile --policy log.policy --access-log access.jsonl --log https://log.example.fr -
  regard-audit reconcile --log-key log.vkey --json held.jsonl`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("reconcile needs one file, or - (see regard-audit reconcile --help)")
			}
			p, err := look.readPolicy(c)
			if err != nil {
				return err
			}
			r := &reconciler{policy: p, provisional: look.provisional || !p.Demands(), now: proof.TimeOf(time.Now()), rows: map[rowKey]*epochRow{}, ids: map[string]string{}, roots: map[uint64]proof.Hash{}, erased: map[proof.Hash]proof.Epoch{}}
			r.out.Counts = map[string]int{}
			if err := eachLine(c, args[0], r.held); err != nil {
				return err
			}
			if access != "" {
				if err := r.access(c, access); err != nil {
					return err
				}
			}
			if look.place != "" {
				if err := r.log(c.Context(), &look); err != nil {
					return err
				}
			}
			return r.report(c.OutOrStdout(), asJSON)
		},
	}
	look.all(c)
	f := c.Flags()
	f.StringVar(&access, "access-log", "", "a provider's access log, JSON lines")
	f.BoolVar(&asJSON, "json", false, "write JSON")
	return c
}

// eachLine reads a file of JSON lines.
func eachLine(c *cobra.Command, name string, take func(n int, line []byte) error) error {
	var src io.Reader = c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name) // #nosec G304 -- named by the user
		if err != nil {
			return err
		}
		defer f.Close()
		src = f
	}
	s := bufio.NewScanner(src)
	s.Buffer(nil, maxHeldLine)
	n := 1
	for ; s.Scan(); n++ {
		if len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		if err := take(n, s.Bytes()); err != nil {
			return fmt.Errorf("%s line %d: %w", name, n, err)
		}
	}
	switch err := s.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("%s line %d is longer than %d bytes", name, n, maxHeldLine)
	case err != nil:
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return nil
}

// find takes what is wrong, want what is missing and may come.
func (r *reconciler) find(id, code, format string, args ...any) {
	r.refuted = true
	r.add(discrepant{ID: id, Code: code}, format, args...)
}

func (r *reconciler) want(id, code, format string, args ...any) {
	r.add(discrepant{ID: id, Code: code, Unusable: true}, format, args...)
}

func (r *reconciler) add(d discrepant, format string, args ...any) {
	if r.out.Counts[d.Code]++; r.out.Counts[d.Code] <= maxDiscrepant {
		d.Detail = fmt.Sprintf(format, args...)
		r.out.Findings = append(r.out.Findings, d)
	}
}

// held checks one disclosure by itself.
func (r *reconciler) held(_ int, line []byte) error {
	var h heldLine
	if err := json.Unmarshal(line, &h); err != nil || h.ID == "" || h.Role != "agency" && h.Role != "provider" {
		return errors.New("not a line of regard receipts export")
	}
	if _, twice := r.ids[h.ID]; twice {
		r.find(h.ID, "held.twice", "it is held twice")
		return nil
	}
	r.ids[h.ID] = h.Role
	r.out.Held++
	if h.State == "accepted" {
		r.out.Accepted++
	}
	if h.State == "refuted" {
		r.find(h.ID, "held.refuted", "the holder has evidence against the broker: %s", h.Code)
	}
	if len(h.Receipts) == 0 {
		if h.State != "accepted" {
			r.find(h.ID, "receipt.missing", "there is no receipt of it (%s)", cmp.Or(h.Code, h.State))
		}
		return nil
	}
	var asked []proof.Index
	claims, other := 0, false
	seen := map[proof.Index]bool{}
	delays := map[proof.Index]delay{}
	for _, text := range h.Receipts {
		receipt, err := proof.ParseReceipt([]byte(text))
		if err != nil {
			r.find(h.ID, "receipt.invalid", "%v", err)
			continue
		}
		v, err := receipt.Verify(r.policy, proof.VerifyOptions{AllowProvisional: r.provisional})
		if errors.Is(err, proof.ErrNotWitnessed) {
			r.want(h.ID, "receipt.provisional", "the quorum of witnesses is missing")
		} else if errors.Is(err, proof.ErrOtherLog) {
			r.want(h.ID, "receipt.otherlog", "it is not of the log whose key you gave")
			other = true
			continue
		} else if err != nil {
			r.find(h.ID, "receipt.invalid", "%v", err)
			continue
		}
		o := receipt.Opening()
		if o.Text(proof.DisclosureID) != h.ID || o.Schema() != proof.SchemaDisclosure {
			r.find(h.ID, "receipt.foreign", "the receipt of log index %s is of another disclosure", v.Index)
			continue
		}
		switch e := receipt.Entry().(type) {
		case proof.Deferred:
			d := delays[v.Index]
			d.began = &e
			delays[v.Index] = d
		case proof.Opened:
			d := delays[e.Deferred]
			d.ended = append(d.ended, e)
			delays[e.Deferred] = d
		}
		if seen[v.Index] {
			r.find(h.ID, "receipt.twice", "two receipts of log index %s", v.Index)
			continue
		}
		seen[v.Index] = true
		isAsked := o.Text(proof.DisclosureRole) == proof.RoleAsked
		if isAsked {
			asked = append(asked, v.Index)
			if h.Outcome != "" && o.Text(proof.DisclosureOutcome) != h.Outcome {
				r.find(h.ID, "outcome.other", "the record says %s, the holder noted %s", o.Text(proof.DisclosureOutcome), h.Outcome)
			}
		}
		r.count(&h, receipt, v, isAsked)
		if slices.Contains(h.Erased, uint64(v.Index)) {
			claims++
			r.claim(o, v.Epoch)
		}
	}
	if claims != len(h.Erased) && !other {
		r.want(h.ID, "erased.unknown", "of %d entries that are said to be erased there are %d earlier receipts", len(h.Erased), claims)
	}
	for _, i := range slices.Sorted(maps.Keys(delays)) {
		d := delays[i]
		r.delay(&h, i, d)
		if len(d.ended) > 0 { // one entry, whose record has come to its person
			asked = slices.DeleteFunc(asked, func(x proof.Index) bool { return x == i })
		}
	}
	if len(asked) != 1 && !other {
		r.find(h.ID, "entry.asked", "%d entries of the asked identifier, want one", len(asked))
	}
	return nil
}

// claim notes that the broker says of an identifier that it was erased after an entry.
func (r *reconciler) claim(o proof.Opening, epoch proof.Epoch) {
	s, err := o.Subject()
	if err != nil {
		return // it was hidden in the first receipt already: the holder never saw whose it was
	}
	who := proof.Hash(sha256.Sum256([]byte(string(s.Type()) + " " + s.Value())))
	if last, ok := r.erased[who]; !ok || epoch > last {
		r.erased[who] = epoch
	}
	r.out.Erased = len(r.erased)
}

// delay is one that a holder has receipts of: of the entry with which it began and, once it is over, of the one that ended it.
type delay struct {
	began *proof.Deferred
	ended []proof.Opened
}

func (r *reconciler) delay(h *heldLine, at proof.Index, d delay) {
	switch {
	case len(d.ended) > 1:
		r.find(h.ID, "delay.twice", "%d entries end the delay of log index %s", len(d.ended), at)
	case d.began == nil: // held since it ended
	case len(d.ended) == 1 && d.ended[0].Commitment != d.began.Commitment:
		r.find(h.ID, "delay.other", "what ends the delay of log index %s opens something else", at)
	// A person may have accepted that. That somebody was erased is no reason: no erasure reaches what is deferred.
	case len(d.ended) == 0 && d.began.Over(r.now) && (h.State != "accepted" || len(h.Erased) > 0):
		r.find(h.ID, "delay.overdue", "the delay of log index %s was until %s, and nothing shows that its person was told", at, d.began.Month)
	}
}

func (r *reconciler) count(h *heldLine, receipt *proof.Receipt, v proof.Verdict, asked bool) {
	key := rowKey{uint64(v.Epoch), string(v.Kind)}
	row := r.rows[key]
	if row == nil {
		row = &epochRow{Epoch: key.epoch, Kind: key.kind}
		r.rows[key] = row
	}
	row.Entries++
	if asked {
		row.Disclosures++
	}
	if v.State >= proof.Witnessed {
		row.Witnessed++
	}
	if v.InRoll {
		row.Settled++
		if e, err := proof.ParseEntry(receipt.Settlement().Marker.Text); err == nil {
			if m, ok := e.(proof.Marker); ok && m.Closed != nil {
				for _, c := range m.Closed.Counts {
					if c.Kind == v.Kind {
						row.Log = c.N
					}
				}
			}
		}
	}
	r.at = append(r.at, placed{h.ID, uint64(v.Index), proof.LeafHash(receipt.EntryText()), v.Epoch, !v.InRoll && v.Kind.Filed() && h.State != "accepted"})
	if root, ok := r.roots[v.Size]; ok && root != v.Root {
		r.find(h.ID, "log.fork", "two trees of %d entries were signed: keep both receipts, they are evidence", v.Size)
	}
	r.roots[v.Size] = v.Root
}

// access compares with a provider's own log.
func (r *reconciler) access(c *cobra.Command, file string) error {
	questions := map[string]int{}
	unnamed := 0
	err := eachLine(c, file, func(_ int, line []byte) error {
		var a accessLine
		if err := json.Unmarshal(line, &a); err != nil {
			return errors.New("not JSON")
		}
		switch {
		case a.RequestID == "":
			unnamed++
		case a.Service != "document":
			questions[a.RequestID]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if unnamed > 0 {
		r.find("", "question.unnamed", "%d requests in the access log have no id", unnamed)
	}
	r.out.Asked, r.accessed = len(questions), true
	for _, id := range slices.Sorted(maps.Keys(questions)) {
		if n := questions[id]; n > 1 {
			r.find(id, "question.repeated", "it was asked %d times", n)
		}
		if _, ok := r.ids[id]; !ok {
			r.find(id, "question.unheld", "it was asked, and nothing is held about it")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(r.ids)) {
		if questions[id] == 0 && r.ids[id] == "provider" {
			r.find(id, "question.unasked", "it is held, and was never asked")
		}
	}
	return nil
}

// log compares with the log itself.
func (r *reconciler) log(ctx context.Context, look *logFlags) error {
	_, cp, tree, err := look.tree(ctx, r.policy)
	if err != nil {
		return err
	}
	r.out.Origin, r.out.TreeSize = cp.Origin(), cp.Size()
	for _, size := range slices.Sorted(maps.Keys(r.roots)) {
		if size > cp.Size() {
			r.find("", "log.behind", "receipts are under a tree of %d entries, the log shows %d", size, cp.Size())
			continue
		}
		root, err := tree.RootAt(ctx, size)
		if err != nil {
			return fmt.Errorf("reading the log: %w", err)
		}
		if root != r.roots[size] {
			r.find("", "log.fork", "the log's tree of %d entries is not the one that receipts are under: keep both, they are evidence", size)
		}
	}
	if cp.Size() == 0 {
		return errors.New("reading the log: it has no entries")
	}
	open, err := epochAt(ctx, tree, cp.Size()-1)
	if err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	if err := r.erasures(ctx, tree, open); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	slices.SortFunc(r.at, func(a, b placed) int { return cmp.Compare(a.index, b.index) })
	var have reader.Bundle
	for _, p := range r.at {
		if p.index >= cp.Size() {
			r.find(p.id, "entry.absent", "log index %d is beyond the log", p.index)
			continue
		}
		if p.index < have.First || p.index >= have.First+uint64(len(have.Entries)) {
			for b, err := range tree.Bundles(ctx, p.index, 1) {
				if err != nil {
					return fmt.Errorf("reading the log: %w", err)
				}
				have = b
				break
			}
		}
		if have.Leaves[p.index-have.First] != p.leaf {
			r.find(p.id, "entry.other", "the log has another entry at log index %d", p.index)
		}
		if p.unsettled && p.epoch < open {
			r.want(p.id, "receipt.unsettled", "epoch %d is closed, and it isn't shown that log index %d is in its person's roll", p.epoch, p.index)
		}
	}
	return nil
}

// erasures holds what the broker says of erased identifiers against the log: each of them has an erasure@v1 entry that stands after its own entries, so that from any epoch on there are as many erasures as identifiers, at least.
func (r *reconciler) erasures(ctx context.Context, tree *reader.Tree, open proof.Epoch) error {
	if len(r.erased) == 0 {
		return nil
	}
	claimed := map[proof.Epoch]uint64{} // by the epoch of the last entry
	for _, e := range r.erased {
		claimed[e]++
	}
	epochs := slices.SortedFunc(maps.Keys(claimed), func(a, b proof.Epoch) int { return cmp.Compare(b, a) })
	var said, logged uint64
	for n, err := range erasuresBefore(ctx, tree, open) {
		if err != nil {
			return err
		}
		logged += n.erasures
		for len(epochs) > 0 && epochs[0] >= n.epoch {
			said += claimed[epochs[0]]
			epochs = epochs[1:]
			if said > logged {
				r.find("", "erased.unlogged", "%d identifiers with entries in epoch %d or later are said to be erased, and the log has %d erasures since", said, n.epoch, logged)
				return nil
			}
		}
		if len(epochs) == 0 {
			break
		}
	}
	return nil
}

// epochErasures is how many erasures an epoch has.
type epochErasures struct {
	epoch    proof.Epoch
	erasures uint64
}

// erasuresBefore counts the erasures of each epoch, from the open one back: there its entries, and of closed ones what their markers say.
func erasuresBefore(ctx context.Context, tree *reader.Tree, open proof.Epoch) iter.Seq2[epochErasures, error] {
	return func(yield func(epochErasures, error) bool) {
		fail := func(err error) { yield(epochErasures{}, err) }
		var failed error
		at := uint64(sort.Search(int(tree.Size()), func(i int) bool { // #nosec G115 -- a log in memory's reach
			e, err := epochAt(ctx, tree, uint64(i)) // #nosec G115 -- as above
			failed = errors.Join(failed, err)
			return err != nil || e >= open
		}))
		if failed != nil {
			fail(failed)
			return
		}
		n := epochErasures{epoch: open}
		for b, err := range tree.Bundles(ctx, at, 2) {
			if err != nil {
				fail(err)
				return
			}
			for _, text := range b.Entries {
				if kind, _, err := proof.ParseHead(text); err == nil && kind == proof.KindErasure {
					n.erasures++
				}
			}
		}
		for yield(n, nil) {
			text, err := tree.Entry(ctx, at)
			if err != nil {
				fail(err)
				return
			}
			e, err := proof.ParseEntry(text)
			m, ok := e.(proof.Marker)
			switch {
			case err != nil || !ok || m.Epoch != n.epoch:
				fail(refuted{fmt.Errorf("entry %d is not the marker that opens epoch %d: regard-audit fsck says what is wrong with the log", at, n.epoch)})
				return
			case m.Closed == nil:
				return
			case uint64(m.Closed.First) >= at || m.Epoch == 0:
				fail(refuted{fmt.Errorf("the marker at %d doesn't follow on another: regard-audit fsck says what is wrong with the log", at)})
				return
			}
			n, at = epochErasures{epoch: m.Epoch - 1}, uint64(m.Closed.First)
			for _, c := range m.Closed.Counts {
				if c.Kind == proof.KindErasure {
					n.erasures = c.N
				}
			}
		}
	}
}

// epochAt is the epoch that an entry says, which may be of a type of a later version.
func epochAt(ctx context.Context, tree *reader.Tree, i uint64) (proof.Epoch, error) {
	text, err := tree.Entry(ctx, i)
	if err != nil {
		return 0, err
	}
	_, e, err := proof.ParseHead(text)
	return e, err
}

func (r *reconciler) report(w io.Writer, asJSON bool) error {
	for _, row := range r.rows {
		r.out.Rows = append(r.out.Rows, *row)
	}
	slices.SortFunc(r.out.Rows, func(a, b epochRow) int {
		return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Kind, b.Kind))
	})
	for _, row := range r.out.Rows {
		if row.Log > 0 && uint64(row.Entries) > row.Log {
			r.find("", "epoch.count", "epoch %d: %d own entries %s, and the log has %d in all", row.Epoch, row.Entries, row.Kind, row.Log)
		}
	}
	var err error
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		r.out.Rows, r.out.Findings = append([]epochRow{}, r.out.Rows...), append([]discrepant{}, r.out.Findings...)
		err = e.Encode(r.out)
	} else {
		err = r.print(w)
	}
	if err != nil {
		return err
	}
	if r.out.Held == 0 && len(r.out.Findings) == 0 && !r.accessed {
		return errors.New("nothing is held, so nothing was compared: is it the output of regard receipts export?")
	}
	if len(r.out.Findings) == 0 {
		return nil
	}
	if r.refuted {
		return errRefused
	}
	n := 0
	for _, c := range r.out.Counts {
		n += c
	}
	return fmt.Errorf("%d receipts don't show all that they could: fetch them again (regard receipts upgrade; a provider's guard does it by itself) and compare again. If that changes nothing, the broker owes you the proof", n)
}

func (r *reconciler) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "EPOCH\tKIND\tDISCLOSURES\tENTRIES\tWITNESSED\tSETTLED\tIN-LOG")
	for _, row := range r.out.Rows {
		inLog := "-"
		if row.Log > 0 {
			inLog = strconv.FormatUint(row.Log, 10)
		}
		fmt.Fprintf(t, "%d\t%s\t%d\t%d\t%d\t%d\t%s\n", row.Epoch, row.Kind, row.Disclosures, row.Entries, row.Witnessed, row.Settled, inLog)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprint(w, many(r.out.Held, "disclosure is held", "disclosures are held"))
	if r.out.Accepted > 0 {
		fmt.Fprintf(w, ", %d of them accepted without proof", r.out.Accepted)
	}
	if r.out.Erased > 0 {
		fmt.Fprint(w, "; ", many(r.out.Erased, "identifier in them is said to be erased", "identifiers in them are said to be erased"))
		if r.out.Origin == "" {
			fmt.Fprint(w, ", which only --log can compare")
		}
	}
	if r.out.Asked > 0 {
		fmt.Fprint(w, "; ", many(r.out.Asked, "was asked by the access log", "were asked by the access log"))
	}
	if r.out.Origin != "" {
		fmt.Fprintf(w, "; compared with %s of %d entries", r.out.Origin, r.out.TreeSize)
	}
	fmt.Fprintln(w, ".")
	for _, d := range r.out.Findings {
		fmt.Fprintf(w, "%s  %s: %s\n", cmp.Or(d.ID, "-"), d.Code, d.Detail)
	}
	for _, code := range slices.Sorted(maps.Keys(r.out.Counts)) {
		if n := r.out.Counts[code] - maxDiscrepant; n > 0 {
			fmt.Fprintf(w, "and %d more  %s\n", n, code)
		}
	}
	if len(r.out.Findings) == 0 && (r.out.Held > 0 || r.accessed) {
		fmt.Fprintln(w, "Everything agrees.")
	}
	return nil
}
