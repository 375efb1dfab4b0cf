package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// MaxOpenings bounds the entries of one answer to an auditor: each that is opened costs an entry in the log.
const MaxOpenings = 64

// auditLife is how long a repeat with the same Idempotency-Key is shown the same without another entry, and how long the rest of erased records is read under one audit@v1 entry.
const auditLife = 24 * time.Hour

// auditorShown are all fields of an auditor's role.
var auditorShown = func() shownFields {
	out := shownFields{}
	for _, s := range []proof.Schema{proof.SchemaDisclosure, proof.SchemaAccess, proof.SchemaErasure} {
		for _, f := range s.Fields() {
			if proof.ReaderAuditor.Sees(s, f.Field) {
				out[s] = append(out[s], f.Field)
			}
		}
	}
	return out
}()

// OpeningsRequest says which records an auditor wants opened: those of some entries, of the entries from From to To, or of a disclosure.
type OpeningsRequest struct {
	Indexes        []proof.Index // each once, at most MaxOpenings
	From, To       *proof.Index  // both included
	Disclosure     store.ID
	Limit          int    // of a range: at most so many entries, up to MaxOpenings; 0 means that
	Reason         string // the people see it
	IdempotencyKey string
}

// OpeningState says whether what an auditor may see of a record was opened, and if not, why.
type OpeningState string

// The states.
const (
	OpeningOpen    OpeningState = "open"
	OpeningErased  OpeningState = "erased"  // an erasure destroyed the person part: no access can be filed; see Erased
	OpeningRetired OpeningState = "retired" // its retention has ended
	OpeningDamaged OpeningState = "damaged" // it can't be opened, or isn't what the entry commits to, and nothing in the log explains why: an alarm
	OpeningLost    OpeningState = "lost"    // restart@v1 says that its details are lost
	OpeningOpened  OpeningState = "opened"  // a deferred one whose delay is over: the record is that of the entry Opened
	OpeningNone    OpeningState = "none"    // the entry stands for no record
)

// Openings is what an auditor is shown.
type Openings struct {
	Entries []OpenedEntry // every one that was asked for, in the order of the request or of the log
	// Next is From of the next page of a range, 0 if there is none.
	Next proof.Index
	// Closed is how many of a range Erased didn't open since they aren't erased.
	Closed int
	// Audit is the audit@v1 entry under which erased records were opened; 0 if these aren't.
	Audit proof.Index
	// From and To are the log indexes that Audit names.
	From, To proof.Index
}

// OpenedEntry is one entry of the log as an auditor is shown it.
type OpenedEntry struct {
	Index        proof.Index
	Kind         proof.Kind
	State        OpeningState
	Access       proof.Index // the access@v1 entry that says so, or the deferred@v1 one of an access to a deferred record; 0 if there is none
	Opened       proof.Index // of the opened@v1 entry that ended its delay; 0: none
	Receipt      []byte      // proof and opening, of the auditor's fields; nil if not open
	ReceiptState proof.State
}

func errNotAuditor() *Problem {
	return &Problem{Status: 403, Code: "caller.agency", Title: "This is for accredited auditors.", Detail: "Your certificate is registered for an agency."}
}

// Openings opens records for an auditor: the fields of that role and no others. Before anything is opened, an access@v1 entry for each record stands in the log under a signed checkpoint, in its
// subject's roll; if the log can't record that, nothing is opened. An access to a record of which the person learns later is deferred@v1, and filed when that record is. To know whose roll that is, the broker reads the subject, as it did when it filed the record; the auditor isn't shown it.
//
// A record whose person part is gone, and one that nobody can read any more, is stated with its state and never left out.
func (b *Broker) Openings(ctx context.Context, caller Caller, req *OpeningsRequest) (*Openings, error) {
	if !caller.Auditor {
		return nil, errNotAuditor()
	}
	by := AccessBy{Reader: caller.ID, Role: proof.RoleAuditor, Reason: req.Reason}
	if err := by.check(); err != nil {
		return nil, err
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	rows, next, err := b.auditedRows(ctx, req)
	if err != nil {
		return nil, err
	}
	audit, err := b.audited(ctx, caller, req.IdempotencyKey, req.digest())
	if err != nil {
		return nil, err
	}
	if err := b.provable(ctx, rows); err != nil {
		return nil, err
	}
	entries, err := b.openRows(ctx, by, rows, audit)
	if err != nil {
		return nil, err
	}
	return &Openings{Entries: entries, Next: next}, nil
}

// openRows has the log say which of the rows are opened, and opens them.
func (b *Broker) openRows(ctx context.Context, by AccessBy, rows []store.Row, audit *store.Audit) ([]OpenedEntry, error) {
	v, err := b.viewOf(ctx, rows)
	if err != nil {
		return nil, err
	}
	err = b.gate.pass(v.owners(), func() error {
		if err := b.survey(ctx, v.glances); err != nil {
			return err
		}
		if err := b.subjects(ctx, v.glances); err != nil {
			return err
		}
		if audit != nil {
			v.known(audit.Before)
		}
		_, err := b.logAccess(ctx, by, auditorShown, v.glances, audit)
		return err
	})
	if errors.Is(err, store.ErrExists) {
		return nil, errKeyInProgress()
	}
	if err != nil {
		return nil, erasingProblem(err)
	}
	if err := b.openGlances(ctx, v.glances, v.take); err != nil {
		return nil, err
	}
	if err := b.explain(ctx, v.glances); err != nil {
		return nil, err
	}
	return b.shownTo(ctx, v)
}

// auditedRows finds the entries that are asked for.
func (b *Broker) auditedRows(ctx context.Context, req *OpeningsRequest) (rows []store.Row, next proof.Index, err error) {
	forms := 0
	for _, there := range []bool{len(req.Indexes) > 0, req.From != nil || req.To != nil, req.Disclosure != store.ID{}} {
		if there {
			forms++
		}
	}
	switch {
	case forms != 1:
		return nil, 0, invalid("", "It isn't clear which records to open.", "Send indexes, or from and to, or disclosure: one of the three.")
	case req.Limit < 0 || req.Limit > MaxOpenings || req.Limit > 0 && req.From == nil:
		return nil, 0, invalid("/limit", fmt.Sprintf("The limit is not between 1 and %d, or not of a range.", MaxOpenings), "Ask for the next page with next.")
	case len(req.Indexes) > 0:
		rows, err = b.rowsAt(ctx, req.Indexes)
	case req.From != nil || req.To != nil:
		if req.From == nil || req.To == nil || *req.From > *req.To {
			return nil, 0, invalid("/from", "This is no range of log indexes.", "Send from and to, both included.")
		}
		limit := req.Limit
		if limit == 0 {
			limit = MaxOpenings
		}
		rows, err = b.store.RowsIn(ctx, *req.From, *req.To, limit+1)
		if errors.Is(err, store.ErrNotFound) {
			return nil, 0, invalid("/to", "The log doesn't reach so far.", "Send an index below the size of the published checkpoint.")
		}
		if len(rows) > limit {
			next, rows = rows[limit].Index, rows[:limit]
		}
	default:
		rows, err = b.store.RowsOf(ctx, req.Disclosure)
		if errors.Is(err, store.ErrNotFound) {
			return nil, 0, &Problem{Status: 404, Code: "disclosure.unknown", Title: "There is no such disclosure, or it has no outcome yet.", Detail: "Check the id."}
		}
		if len(rows) > MaxOpenings {
			return nil, 0, invalid("/disclosure", "This disclosure has too many entries for one answer.", "Ask for them by their indexes.")
		}
	}
	var p *Problem
	if err != nil && !errors.As(err, &p) {
		return nil, 0, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return rows, next, err
}

func (b *Broker) rowsAt(ctx context.Context, indexes []proof.Index) ([]store.Row, error) {
	if len(indexes) > MaxOpenings {
		return nil, invalid("/indexes", fmt.Sprintf("There are more than %d indexes.", MaxOpenings), "Send them in several requests.")
	}
	rows := make([]store.Row, 0, len(indexes))
	for n, i := range indexes {
		at := fmt.Sprintf("/indexes/%d", n)
		if slices.Contains(indexes[:n], i) {
			return nil, invalid(at, "The index stands there twice.", "Send it once: each record that is opened costs an entry.")
		}
		r, err := b.store.RowAt(ctx, i)
		if errors.Is(err, store.ErrNotFound) {
			return nil, invalid(at, "The log has no such entry.", "Send an index below the size of the published checkpoint.")
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

// digest input of a request: what must be the same for an Idempotency-Key to be honoured.
func (r *OpeningsRequest) digest() []byte {
	out := []byte("openings\x00")
	number := func(n uint64) { out = binary.BigEndian.AppendUint64(out, n) }
	number(uint64(len(r.Indexes)))
	for _, i := range r.Indexes {
		number(uint64(i))
	}
	for _, i := range []*proof.Index{r.From, r.To} {
		if i == nil {
			number(1<<64 - 1)
		} else {
			number(uint64(*i))
		}
	}
	number(uint64(r.Limit))
	return append(append(out, r.Disclosure[:]...), r.Reason...)
}

// audited finds what was shown under an Idempotency-Key before; nil if there is no key.
func (b *Broker) audited(ctx context.Context, caller Caller, key string, request []byte) (*store.Audit, error) {
	if key == "" {
		return nil, nil
	}
	idem, err := b.ring.Digest("idempotency", []byte(key))
	if err != nil {
		return nil, keysProblem(err)
	}
	body, err := b.ring.Digest("request", request)
	if err != nil {
		return nil, keysProblem(err)
	}
	now := b.now()
	a := &store.Audit{Auditor: caller.ID, Idem: idem[:], Body: body[:], At: now, Since: now.Add(-auditLife)}
	shown, at, err := b.store.Audit(ctx, a.Auditor, a.Idem, a.Body, a.Since)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case errors.Is(err, store.ErrConflict):
		return nil, &Problem{Status: 409, Code: "idempotency.conflict", Title: "This Idempotency-Key was used with another request.", Detail: "Use a new key for a new request."}
	case err != nil:
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	default:
		a.Before, a.At = shown, at
		indexes := make([]proof.Index, len(shown))
		for i, s := range shown {
			indexes[i] = s.Access
		}
		if err := b.standing(ctx, indexes...); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// standing waits until entries under which records were to be opened earlier are proven: they may have been put in order by a request that failed before they were signed.
func (b *Broker) standing(ctx context.Context, indexes ...proof.Index) error {
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	proven, err := b.ledger().Prove(wait, indexes)
	if err != nil {
		return unavailable("log.unavailable", "The log can't prove now that it recorded the access, so no record was opened.", err)
	}
	for _, e := range proven.Entries {
		if _, err := proof.VerifyEntry(proven.Checkpoint, e); err != nil {
			return unavailable("log.unproven", "The log gave no valid proof that it recorded the access, so no record was opened.", err)
		}
	}
	return nil
}

// provable waits until every entry can be proven from what is published: what can't be proven now isn't opened, and costs no entry.
func (b *Broker) provable(ctx context.Context, rows []store.Row) error {
	var last proof.Index
	for i := range rows {
		last = max(last, rows[i].Index)
	}
	wait, cancel := context.WithTimeout(ctx, publishWait)
	defer cancel()
	if _, err := b.ledger().AwaitPublished(wait, last); err != nil {
		return unavailable("log.unavailable", "The log can't prove the entries now.", err)
	}
	return nil
}

// view is what an auditor is about to be shown.
type view struct {
	rows    []store.Row
	states  []OpeningState // "": by the glance
	of      []int          // glance of a row, −1: it has none
	glances []glance
	opened  map[proof.Index]proof.Opening
}

// viewOf sorts out which entries have a record at all.
func (b *Broker) viewOf(ctx context.Context, rows []store.Row) (*view, error) {
	lost, err := b.store.Lost(ctx)
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	v := &view{rows: rows, states: make([]OpeningState, len(rows)), of: make([]int, len(rows)), opened: map[proof.Index]proof.Opening{}}
	for i := range rows {
		r := &rows[i]
		v.of[i] = -1
		switch {
		case !r.Kind.Filed() && r.Kind != proof.KindDeferred:
			v.states[i] = OpeningNone
		case slices.ContainsFunc(lost, func(l store.Range) bool { return l.From <= r.Index && r.Index < l.To }):
			v.states[i] = OpeningLost
		case r.None && r.Kind == proof.KindDeferred && r.Opened > 0:
			v.states[i] = OpeningOpened
		case r.None:
			v.states[i] = OpeningDamaged
		default:
			v.of[i] = len(v.glances)
			v.glances = append(v.glances, newGlance(&r.PlacedRecord))
		}
	}
	return v, nil
}

// owners are those in whose rolls accesses are to be filed; of deferred records in none.
func (v *view) owners() []keys.Owner {
	var out []keys.Owner
	for i := range v.glances {
		if v.glances[i].delay == nil {
			out = append(out, v.glances[i].row.Owner)
		}
	}
	return out
}

// known notes what was logged under the same Idempotency-Key earlier.
func (v *view) known(shown []store.Shown) {
	for i := range v.glances {
		for _, s := range shown {
			if s.Target == v.glances[i].row.Index {
				v.glances[i].access = s.Access
			}
		}
	}
}

// take keeps an opened record's fields of the auditor. If the person was erased in this instant, their roll has the access all the same.
func (v *view) take(g *glance, rec *proof.Record) {
	whose, err := rec.Open(proof.ReaderPerson).Subject()
	if rec.Schema() != g.schema() || !rec.Erased() && (err != nil || !whose.Equal(g.subject)) {
		return
	}
	g.entry.State = HistoryOpen
	v.opened[g.row.Index] = rec.Open(proof.ReaderAuditor)
}

// subjects finds out in whose roll an access belongs. A record that nobody's roll can have an access to stays closed.
func (b *Broker) subjects(ctx context.Context, glances []glance) error {
	var whole []*glance
	var parts []keys.PersonPart
	for i := range glances {
		g := &glances[i]
		if g.open = g.whole; g.open {
			whole = append(whole, g)
			parts = append(parts, keys.PersonPart{Owner: g.row.Owner, AD: g.row.Owner[:], Blob: g.row.Person})
		}
	}
	persons, errs, err := b.ring.OpenPersons(ctx, parts)
	if err != nil {
		return keysProblem(err)
	}
	for i, g := range whole {
		g.open = false // unless its subject is known
		if errs[i] != nil {
			if !unreadable(errs[i]) {
				return keysProblem(errs[i])
			}
			continue
		}
		subject, err := proof.PartSubject(persons[i])
		clear(persons[i])
		if err != nil {
			continue
		}
		owner, err := b.ring.Owner(subject)
		if err != nil {
			return keysProblem(err)
		}
		g.subject, g.open = subject, owner == g.row.Owner
	}
	return nil
}

// shownTo says of every entry what became of it, with the receipts of those that were opened.
func (b *Broker) shownTo(ctx context.Context, v *view) ([]OpenedEntry, error) {
	logPolicy, err := b.logPolicy(ctx)
	if err != nil {
		return nil, keysProblem(err)
	}
	out := make([]OpenedEntry, len(v.rows))
	for i := range v.rows {
		e := OpenedEntry{Index: v.rows[i].Index, Kind: v.rows[i].Kind, State: v.states[i], Opened: v.rows[i].Opened}
		if v.of[i] >= 0 {
			g := &v.glances[v.of[i]]
			e.Access = g.access
			if e.State, err = b.openingState(ctx, g); err != nil {
				return nil, err
			}
			if e.State == OpeningDamaged && g.delay != nil {
				if err := b.openedSince(ctx, &e); err != nil {
					return nil, err
				}
			}
		}
		if e.State == OpeningOpen {
			if e.Receipt, e.ReceiptState, err = b.auditReceipt(ctx, logPolicy, e.Index, v.opened[e.Index]); err != nil {
				return nil, err
			}
		}
		out[i] = e
	}
	return out, nil
}

// openedSince finds out whether the delay of a record that can't be read ended after its row was read: then nothing is wrong with it.
func (b *Broker) openedSince(ctx context.Context, e *OpenedEntry) error {
	row, err := b.store.RowAt(ctx, e.Index)
	if err != nil {
		return unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	if row.Opened > 0 {
		e.State, e.Opened = OpeningOpened, row.Opened
	}
	return nil
}

func (b *Broker) openingState(ctx context.Context, g *glance) (OpeningState, error) {
	if g.entry.Kind != proof.KindErasure || g.entry.State != HistoryDamaged || !g.month.IsZero() || g.whole {
		return OpeningState(g.entry.State), nil
	}
	// An erasure explains its own person part, if it is one.
	rec, err := b.openEntry(ctx, g.row)
	switch {
	case err == nil && rec.Schema() == proof.SchemaErasure && rec.Erased():
		return OpeningErased, nil
	case err == nil || unreadable(err):
		return OpeningDamaged, nil
	}
	return "", keysProblem(err)
}

// auditReceipt is a receipt that was verified before it is handed out. Without the subject it has no settlement.
func (b *Broker) auditReceipt(ctx context.Context, logPolicy *proof.Policy, index proof.Index, o proof.Opening) ([]byte, proof.State, error) {
	receipt, err := b.ledger().Receipt(ctx, index, o)
	if err != nil {
		return nil, 0, unavailable("log.unavailable", "The log can't give the receipts now.", err)
	}
	v, err := receipt.Verify(logPolicy, proof.VerifyOptions{AllowProvisional: true})
	if err != nil {
		return nil, 0, unavailable("log.unproven", "The log gave no valid receipt.", err)
	}
	text, err := receipt.AppendText(nil)
	return text, v.State, err
}
