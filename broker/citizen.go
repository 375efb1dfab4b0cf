package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// What a person reads of their own records, without an access@v1 entry: it is the person who looks. Whoever calls these has made sure of that.

// maxOwnPage bounds the records of one page of OwnEntries.
const maxOwnPage = 200

// An OwnEntry is what a person sees of one of their entries at a glance. It is their personal data; context and object are not in it.
type OwnEntry struct {
	Index proof.Index
	Epoch proof.Epoch
	Kind  proof.Kind // empty if the entry itself is damaged
	State HistoryState
	// Namesake: filed without a place of birth, so it may be about somebody else: of what follows there are At, Agency and Service, or At, Reader, ReaderRole and Target.
	Namesake bool
	// At is when it was asked, opened or erased; zero if that can't be read.
	At time.Time
	// Under names the key of the month with whose end its details go, see Lasting; zero if it isn't known.
	Under keys.KeyID

	// Of a disclosure. Service is token@version.
	ID, Role, Agency, Provider, Service, Purpose, LegalBasis, Outcome string
	// Scopes name the data: those that were asked for, and of somebody whom the answer identifies those that hold what concerns them. Nil if that can't be told.
	Scopes []service.Scope

	// Of an access: who opened which record.
	Reader, ReaderRole, Reason string
	Target                     proof.Index

	// Of an erasure: the greatest log index that it covers.
	Reach proof.Index

	// Delay is set if the entry ended one, be it of a disclosure or of an access to its record: At is long before the person could see it.
	Delay *DelaySeen
}

// OwnEntries lists a person's entries under one identifier by decreasing log index: at most limit (up to 200) of those below before (0: from the newest). next is before of the next page, 0 if there is none.
//
// It costs time for each entry that it returns and none for other people's. An entry that can't be read has its State and no details; what is in it beside these has been compared with what the log committed to.
func (b *Broker) OwnEntries(ctx context.Context, subject proof.Subject, before proof.Index, limit int) (entries []OwnEntry, next proof.Index, err error) {
	if limit < 1 || limit > maxOwnPage {
		return nil, 0, fmt.Errorf("a page of %d entries: want 1 to %d", limit, maxOwnPage)
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer leave()
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return nil, 0, keysProblem(err)
	}
	glances, next, err := b.glances(ctx, owner, HistoryPage{Before: before, Limit: limit})
	if err != nil {
		return nil, 0, err
	}
	if err := b.openOwn(ctx, subject, glances); err != nil {
		return nil, 0, err
	}
	names := b.Directory()
	entries = make([]OwnEntry, len(glances))
	for i := range glances {
		entries[i] = names.ownEntry(&glances[i])
	}
	return entries, next, nil
}

// NewestOwn is the log index of the newest entry under an identifier, 0 if there is none (index 0 is a marker): whoever keeps what OwnEntries gave learns whether there is more.
func (b *Broker) NewestOwn(ctx context.Context, subject proof.Subject) (proof.Index, error) {
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return 0, keysProblem(err)
	}
	index, err := b.store.NewestOf(ctx, owner)
	if err != nil {
		return 0, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return index, nil
}

// Endings changes when a month's details are destroyed, at whatever broker: what was kept of OwnEntries before isn't what they give now, but for what is sealed under keys that last (Lasting).
func (b *Broker) Endings(ctx context.Context) (store.Endings, error) {
	e, err := b.store.Endings(ctx)
	if err != nil {
		return e, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return e, nil
}

// Lasting are those of some keys of months that are there, and of which no end was told: an end of retention has changed nothing of what is sealed under them.
func (b *Broker) Lasting(ctx context.Context, of []keys.KeyID) (map[keys.KeyID]bool, error) {
	told, err := b.store.RetiredKeys(ctx) // first: a key goes after its end was told
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its keys now.", err)
	}
	there, err := b.store.FindKeys(ctx, of)
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its keys now.", err)
	}
	out := map[keys.KeyID]bool{}
	for i := range there {
		if id := there[i].ID; !told[id] {
			out[id] = true
		}
	}
	return out, nil
}

// OwnDetails counts a person's entries under one identifier, between two log indexes, both included, whose details are there. While a month's retention ends they become fewer, and OwnEntries gives what it gave before for as long as they
// are as many. It opens nothing.
func (b *Broker) OwnDetails(ctx context.Context, subject proof.Subject, from, to proof.Index) (int, error) {
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return 0, keysProblem(err)
	}
	n, err := b.store.PersonParts(ctx, owner, from, to)
	if err != nil {
		return 0, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return n, nil
}

// openOwn opens what a person may see of their own records, and finds out what accounts for the rest, and which were delayed.
func (b *Broker) openOwn(ctx context.Context, subject proof.Subject, glances []glance) error {
	for i := range glances {
		g := &glances[i]
		g.subject = subject
		if !g.open && g.entry.Kind != "" && g.month.IsZero() {
			g.open, g.rest = true, true // what is left of an erased record
		}
	}
	err := b.openGlances(ctx, glances, func(g *glance, rec *proof.Record) {
		o := rec.Open(proof.ReaderPerson)
		whose, err := o.Subject()
		if rec.Schema() != g.schema() || err == nil && !whose.Equal(g.subject) || err != nil && !rec.Erased() {
			return // another's record under this owner
		}
		if err == nil || g.entry.Kind == proof.KindErasure {
			g.entry.State = HistoryOpen
		}
		g.opened = o.ForSubject(g.subject.Type())
	})
	if err != nil {
		return err
	}
	if err := b.explain(ctx, glances); err != nil {
		return err
	}
	for i := range glances {
		if err := b.delaySeen(ctx, &glances[i].entry); err != nil {
			return err
		}
	}
	return nil
}

func (d Directory) ownEntry(g *glance) OwnEntry {
	e := proof.VerifiedEntry{Index: g.row.Index, Kind: g.entry.Kind, Opening: g.opened}
	if entry, err := proof.ParseEntry(g.row.Text); err == nil {
		e.Epoch = entry.In()
	}
	out := d.Outline(e, g.subject.Type(), g.entry.State)
	out.Delay = g.entry.Delay
	out.Under, _ = keys.KeyOf(g.row.Admin) // of a damaged one it isn't known
	return out
}

// Outline is what a person sees at a glance of an entry under a subject of type t, by what is open of it. Of a damaged record nothing is told, though a part of it may be whole.
func (d Directory) Outline(v proof.VerifiedEntry, t proof.SubjectType, state HistoryState) OwnEntry {
	e := OwnEntry{Index: v.Index, Epoch: v.Epoch, Kind: v.Kind, State: state, Namesake: t == proof.TypePerson && v.Kind != proof.KindErasure}
	if state == HistoryDamaged || v.Opening.IsZero() {
		return e
	}
	o := v.Opening
	at := func(f proof.Field) time.Time {
		t, ok := o.TimeOf(f)
		if !ok {
			return time.Time{}
		}
		return t.Time()
	}
	index := func(f proof.Field) proof.Index {
		n, err := strconv.ParseUint(o.Text(f), 10, 63)
		if err != nil {
			return 0
		}
		return proof.Index(n)
	}
	switch o.Schema() {
	case proof.SchemaDisclosure:
		id, _, _ := strings.Cut(o.Text(proof.DisclosureService), "@")
		e.At = at(proof.DisclosureAskedAt)
		e.ID, e.Role, e.Agency, e.Provider, e.Service = o.Text(proof.DisclosureID), o.Text(proof.DisclosureRole), o.Text(proof.DisclosureAgency), o.Text(proof.DisclosureProvider), o.Text(proof.DisclosureService)
		e.Purpose, e.LegalBasis, e.Outcome = o.Text(proof.DisclosurePurpose), o.Text(proof.DisclosureLegalBasis), o.Text(proof.DisclosureOutcome)
		e.Scopes = d.scopesOf(o, id)
	case proof.SchemaAccess:
		e.At, e.Target = at(proof.AccessAt), index(proof.AccessTarget)
		e.Reader, e.ReaderRole, e.Reason = o.Text(proof.AccessReader), o.Text(proof.AccessRole), o.Text(proof.AccessReason)
	case proof.SchemaErasure:
		e.At, e.Reach = at(proof.ErasureErasedAt), index(proof.ErasureReach)
	}
	return e
}

// scopesOf names the data of a disclosure.
func (d Directory) scopesOf(o proof.Opening, id string) []service.Scope {
	if o.Text(proof.DisclosureRole) == proof.RoleAsked && o.Text(proof.DisclosureOutcome) != proof.OutcomeReleased {
		return askedScopes(o)
	}
	def := d.Services[id]
	if def == nil {
		return askedScopes(o)
	}
	fields := o.List(proof.DisclosureReleased)
	if len(fields) == 0 {
		fields = o.List(proof.DisclosureRequested)
	}
	var out []service.Scope
	for name := range def.Scopes {
		if slices.ContainsFunc(def.ScopeFields(name), func(p service.Pointer) bool { _, ok := slices.BinarySearch(fields, string(p)); return ok }) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// askedScopes are those of the recorded decision, whatever became of it.
func askedScopes(o proof.Opening) []service.Scope {
	input, _ := o.Value(proof.DisclosureInput)
	in, err := policy.ParseInput(input)
	if err != nil || o.Text(proof.DisclosureRole) != proof.RoleAsked {
		return nil // a co-subject doesn't learn what was asked about others
	}
	out := make([]service.Scope, len(in.Scopes))
	for i, s := range in.Scopes {
		out[i] = service.Scope(s)
	}
	return out
}

// An OwnRecord is all that a person sees of one of their records.
type OwnRecord struct {
	OwnEntry
	Subject proof.Subject // under which it is filed
	// Opening holds the fields; zero if nothing can be read.
	Opening proof.Opening
	// Reasons say why it was denied: what the recorded policy says to the recorded input. Empty if it was granted, or if the decision isn't shown.
	Reasons []policy.Reason
	// Agreement on which the request relied, as the recorded decision saw it; nil if there was none, or if it isn't shown.
	Agreement *policy.Agreement
	// Receipt was verified; nil if the entry isn't published yet, which takes seconds, or if nothing can be read.
	Receipt *proof.Receipt
	Verdict proof.Verdict // of the receipt
}

// errNoOwnRecord has one form for entries that aren't, that are nobody's, and that are somebody else's.
func errNoOwnRecord() *Problem {
	return &Problem{Status: 404, Code: "record.unknown", Title: "There is no such record under your identifiers.", Detail: "Go back to your history."}
}

// OwnRecord opens one record of a person, which is filed under one of these identifiers; another's is unknown. No access is logged.
func (b *Broker) OwnRecord(ctx context.Context, subjects []proof.Subject, index proof.Index) (*OwnRecord, error) {
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	row, err := b.store.RowAt(ctx, index)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoOwnRecord()
	}
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	var r *OwnRecord
	for _, s := range subjects {
		owner, err := b.ring.Owner(s)
		if err != nil {
			return nil, keysProblem(err)
		}
		if !row.None && row.Kind.Filed() && row.Owner == owner {
			r = &OwnRecord{Subject: s}
		}
	}
	if r == nil {
		return nil, errNoOwnRecord()
	}
	glances := []glance{newGlance(&row.PlacedRecord)}
	if err := b.survey(ctx, glances); err != nil {
		return nil, err
	}
	if err := b.openOwn(ctx, r.Subject, glances); err != nil {
		return nil, err
	}
	r.OwnEntry = b.Directory().ownEntry(&glances[0])
	if r.State == HistoryDamaged || glances[0].opened.IsZero() {
		return r, nil
	}
	r.Opening = glances[0].opened
	if err := b.proveOwn(ctx, r); err != nil {
		return nil, err
	}
	input, _ := r.Opening.Value(proof.DisclosureInput)
	if in, err := policy.ParseInput(input); err == nil && r.Role == proof.RoleAsked {
		r.Agreement = in.Agreement
	}
	if r.Outcome == proof.OutcomeDenied && r.Role == proof.RoleAsked {
		said, err := b.replay(ctx, r.Opening)
		if err != nil {
			b.log.Error("a recorded decision can't be run again to explain it", "entry", index, "error", err)
			return r, nil // the codes are in the opening
		}
		r.Reasons = said.Reasons
	}
	return r, nil
}

// proveOwn adds the receipt at its best by now. What is handed out is verified first.
func (b *Broker) proveOwn(ctx context.Context, r *OwnRecord) error {
	logPolicy, err := b.logPolicy(ctx)
	if err != nil {
		return keysProblem(err)
	}
	receipt, err := b.ledger().Receipt(ctx, r.Index, r.Opening)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil
	}
	if err != nil {
		return unavailable("log.unavailable", "The log can't give the receipt now.", err)
	}
	if r.Verdict, err = receipt.Verify(logPolicy, proof.VerifyOptions{AllowProvisional: true}); err != nil {
		return unavailable("log.unproven", "The log gave no valid receipt.", err)
	}
	r.Receipt = receipt
	return nil
}

// OwnLost are ranges of log indexes whose records were lost with a restoration: entries of anybody may stand there.
func (b *Broker) OwnLost(ctx context.Context) ([]store.Range, error) {
	lost, err := b.store.Lost(ctx)
	if err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return lost, nil
}

// EpochsBetween are the closed epochs that have something of the time from from until, not including, to; false if there are none.
func (b *Broker) EpochsBetween(ctx context.Context, from, to time.Time) (proof.EpochRange, bool, error) {
	open := b.ledger().OpenEpoch().Number
	first, err := b.store.EpochAt(ctx, from.UnixMilli())
	if err != nil && !errors.Is(err, store.ErrNotFound) { // before the log began: its first epoch
		return proof.EpochRange{}, false, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	last, err := b.store.EpochAt(ctx, to.UnixMilli()-1)
	if errors.Is(err, store.ErrNotFound) || err == nil && open == 0 {
		return proof.EpochRange{}, false, nil
	}
	if err != nil {
		return proof.EpochRange{}, false, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	last = min(last, open-1)
	return proof.EpochRange{From: first, To: last}, first <= last, nil
}

// LogPolicy knows the keys and witnesses of this log: with it a history can be checked that this broker made.
func (b *Broker) LogPolicy(ctx context.Context) (*proof.Policy, error) { return b.logPolicy(ctx) }

// A Directory names those who stand in records, as the registry does now. Its maps must not be changed.
type Directory struct {
	Agencies  map[string]store.Agency
	Auditors  map[string]store.Auditor
	Services  map[string]*service.Definition // by id, the newest version, withdrawn ones too
	Providers map[string]string              // names by id

	of *registry
}

// Same reports whether two directories are of the same moment, so that all in them is the same.
func (d Directory) Same(o Directory) bool { return d.of != nil && d.of == o.of }

// Directory of the registry as it is now.
func (b *Broker) Directory() Directory {
	r := b.registry.Load()
	return Directory{r.agencies, r.auditors, r.known, r.named, r}
}

// Standing says where the log stands.
type Standing struct {
	Origin string
	// Published is the newest published checkpoint, Witnessed the newest that has the quorum. Either may be zero.
	Published, Witnessed proof.Checkpoint
	// Open is the epoch that isn't closed yet: what is in it can't be shown to be complete.
	Open ledger.OpenEpoch
}

// Standing of the log now.
func (b *Broker) Standing() Standing {
	s := Standing{Origin: b.cfg.Origin, Open: b.ledger().OpenEpoch()}
	s.Published, _ = b.ledger().Published()
	s.Witnessed, _ = b.ledger().Witnessed()
	return s
}

// PolicyText says by which keys and witnesses the log's checkpoints are checked, in the form of c2sp.org/tlog-policy: what a person's browser is told, and may compare with what others say.
func (b *Broker) PolicyText(ctx context.Context) ([]byte, error) {
	vkeys, err := b.LogKeys(ctx)
	if err != nil {
		return nil, err
	}
	var text strings.Builder
	for _, k := range vkeys {
		text.WriteString("log " + k + "\n")
	}
	if b.cfg.Witnesses == nil {
		text.WriteString("quorum none\n")
		return []byte(text.String()), nil
	}
	for line := range strings.Lines(string(b.cfg.Witnesses.Policy)) {
		if words := strings.Fields(line); len(words) > 0 && words[0] != "log" {
			text.WriteString(strings.TrimRight(line, "\r\n") + "\n")
		}
	}
	if _, err := proof.ParsePolicy([]byte(text.String())); err != nil {
		return nil, fmt.Errorf("writing the policy of the log: %w", err)
	}
	return []byte(text.String()), nil
}

func errNoRequest() *Problem {
	return &Problem{Status: 409, Code: "contest.other", Title: "This entry is no request of an agency.", Detail: "Contest an entry that is one."}
}
