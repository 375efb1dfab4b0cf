package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	historyPage = 50  // records, if the caller says nothing
	maxHistory  = 200 // records of one call; each costs an entry
	maxReason   = 200 // characters
)

// AccessBy says who reads somebody's records and why. The person sees all of it.
type AccessBy struct {
	Reader string // token, e.g. "uid-1000"
	Role   string // proof.RoleOperator, RoleAuditor, RoleCourt or RoleDelegate
	Reason string // 1 to 200 characters, without names: it stays readable after an erasure
}

// HistoryPage says which part of a history is wanted.
type HistoryPage struct {
	Before proof.Index // entries below this log index; 0: the newest
	Limit  int         // at most so many, up to 200; 0 means 50
	Kind   proof.Kind  // of this kind alone; empty: all
}

// History is a part of what the log holds about one identifier of a person, newest first.
type History struct {
	Entries []HistoryEntry
	// Next is Before of the next page, 0 if there is none.
	Next proof.Index
	// Lost are ranges of log indexes whose records were lost when the store was restored from a backup: entries about this person may stand there, and nobody can tell any more.
	Lost []store.Range
	// Logged is how many records were opened, each with an access@v1 entry before.
	Logged int
}

// HistoryState says whether the record behind an entry could be opened.
type HistoryState string

// The states of an entry in a history.
const (
	HistoryOpen    HistoryState = "open"
	HistoryErased  HistoryState = "erased"  // an erasure of this identifier covers it
	HistoryRetired HistoryState = "retired" // the retention of its month has ended
	HistoryDamaged HistoryState = "damaged" // it can't be opened, or isn't what the entry commits to, and nothing in the log explains why: an alarm
)

// HistoryEntry is one entry of the log in somebody's history. One of the three details is set if the state is open.
type HistoryEntry struct {
	Index      proof.Index
	Kind       proof.Kind // empty if the entry itself is damaged
	State      HistoryState
	Disclosure *DisclosureSeen
	Access     *AccessSeen
	Erasure    *ErasureSeen
	// Delay is set if the entry ended one, whatever the state: the person learnt of it later than it was asked or done.
	Delay *DelaySeen
}

// DelaySeen is a lawful delay that is over.
type DelaySeen struct {
	Authority, Article string
	Deferred           proof.Index // of the entry that the log had from the beginning
	Month              string      // by which it was to end
	OpenedAt           time.Time   // when the person could see it; zero: not known
}

// DisclosureSeen is the part of a disclosure that the help desk sees. Context and object stay closed.
type DisclosureSeen struct {
	ID, Role, Agency, Provider, Service, Purpose, LegalBasis, Outcome, Cause string
	Released                                                                 []string // JSON pointers
	AskedAt                                                                  time.Time
}

// AccessSeen is who opened which record.
type AccessSeen struct {
	Reader, Role, Reason string
	Target               proof.Index
	Fields               []string
	At                   time.Time
}

// ErasureSeen is an erasure of the identifier.
type ErasureSeen struct {
	Reach             proof.Index
	Ground            string
	AskedAt, ErasedAt time.Time
}

// shown are the fields that History opens.
var shown = shownFields{
	proof.SchemaDisclosure: {proof.DisclosureID, proof.DisclosureRole, proof.DisclosureAgency, proof.DisclosureProvider, proof.DisclosureService, proof.DisclosureReleased,
		proof.DisclosurePurpose, proof.DisclosureLegalBasis, proof.DisclosureOutcome, proof.DisclosureCause, proof.DisclosureAskedAt},
	proof.SchemaAccess:  {proof.AccessReader, proof.AccessRole, proof.AccessTarget, proof.AccessFields, proof.AccessReason, proof.AccessAt},
	proof.SchemaErasure: {proof.ErasureReach, proof.ErasureGround, proof.ErasureAskedAt, proof.ErasureErasedAt},
}

// glance is a record on its way to a reader.
type glance struct {
	row     *store.PlacedRecord
	entry   HistoryEntry
	subject proof.Subject // whose roll an access to it belongs in
	open    bool          // what the reader sees of it can be opened, and will be
	whole   bool          // both its keys are there
	month   keys.KeyID    // set: the key of its month is missing
	access  proof.Index   // of the access@v1 entry; 0: none
	rest    bool          // its person part is gone; what is left is for a history file
	opened  proof.Opening // for a history file
	// delay is the entry if it is a deferred one: an access to its record is deferred with it.
	delay *proof.Deferred
}

// shownFields are the fields that a reader is shown, by schema: an access@v1 entry names exactly these.
type shownFields map[proof.Schema][]proof.Field

// shows are those of fields that the reader may see under a subject of type t: a delegate sees no more of what may be about a namesake than the person would.
func (by AccessBy) shows(fields shownFields, t proof.SubjectType) shownFields {
	if by.Role != proof.RoleDelegate {
		return fields
	}
	out := shownFields{}
	for schema, list := range fields {
		for _, f := range list {
			if proof.ForSubject(schema, f, t) {
				out[schema] = append(out[schema], f)
			}
		}
	}
	return out
}

// History shows the entries filed under one identifier of a person, as that person would see them (never the agency's agent). Before anything is opened, an access@v1 entry for
// each record stands in the log under a signed checkpoint; if the log can't record that, nothing is opened. The accesses and erasures are part of the history.
//
// Entries under another identifier of the same person are another history. What is missing isn't noticed here: completeness is what rolls and settled receipts prove.
func (b *Broker) History(ctx context.Context, subject proof.Subject, by AccessBy, page HistoryPage) (*History, error) {
	if err := page.check(); err != nil {
		return nil, err
	}
	if err := by.check(); err != nil {
		return nil, err
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	owner, err := b.ring.Owner(subject)
	if err != nil {
		return nil, keysProblem(err)
	}
	h, glances, fields := &History{}, []glance(nil), by.shows(shown, subject.Type())
	err = b.gate.pass([]keys.Owner{owner}, func() (err error) {
		if glances, h.Next, err = b.glances(ctx, owner, page); err != nil {
			return err
		}
		for i := range glances {
			glances[i].subject = subject
		}
		h.Logged, err = b.logAccess(ctx, by, fields, glances, nil)
		return err
	})
	if err != nil {
		return nil, erasingProblem(err)
	}
	if err := b.openGlances(ctx, glances, func(g *glance, rec *proof.Record) { g.show(rec, fields) }); err != nil {
		return nil, err
	}
	if err := b.explain(ctx, glances); err != nil {
		return nil, err
	}
	for i := range glances {
		if err := b.delaySeen(ctx, &glances[i].entry); err != nil {
			return nil, err
		}
		h.Entries = append(h.Entries, glances[i].entry)
	}
	if h.Lost, err = b.store.Lost(ctx); err != nil {
		return nil, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	return h, nil
}

// delaySeen tells of the delay that an entry ended.
func (b *Broker) delaySeen(ctx context.Context, e *HistoryEntry) error {
	if e.Kind != proof.KindOpened {
		return nil
	}
	ended, err := b.store.EndedBy(ctx, e.Index)
	if errors.Is(err, store.ErrNotFound) {
		e.State = HistoryDamaged
		return nil
	}
	if err != nil {
		return unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	entry, err := proof.ParseEntry(ended.Text)
	d, ok := entry.(proof.Deferred)
	if err != nil || !ok {
		e.State = HistoryDamaged
		return nil
	}
	e.Delay = &DelaySeen{Authority: d.Authority, Article: d.Article, Deferred: ended.Deferred, Month: d.Month}
	if ended.At.UnixMilli() > 0 {
		e.Delay.OpenedAt = ended.At
	}
	return nil
}

// erasingProblem says of whoever is being erased that it takes a moment.
func erasingProblem(err error) error {
	if errors.Is(err, errErasing) {
		return &Problem{Status: 503, Code: "subject.erasing", Title: "Records about a person are being erased.", Detail: "Repeat the request shortly.", RetryAfter: 5 * time.Second}
	}
	return err
}

func (p *HistoryPage) check() error {
	if p.Limit == 0 {
		p.Limit = historyPage
	}
	if p.Limit < 0 || p.Limit > maxHistory {
		return invalid("/limit", fmt.Sprintf("The limit is not between 1 and %d.", maxHistory), "Ask for the next page with the index of the last entry.")
	}
	if p.Kind != "" && !p.Kind.Filed() {
		return invalid("/kind", "Entries of this kind are nobody's.", "Ask for disclosure, access, erasure or opened.")
	}
	return nil
}

func (by AccessBy) check() error {
	if !proof.IsToken(by.Reader) {
		return invalid("/reader", "The reader is not a token.", "Use lower-case letters, digits, '.', '_' and '-'.")
	}
	if by.Role != proof.RoleOperator && by.Role != proof.RoleAuditor && by.Role != proof.RoleCourt && by.Role != proof.RoleDelegate {
		return invalid("/role", "There is no such role of readers.", "Use operator, auditor, court or delegate.")
	}
	if !readable(by.Reason) {
		return invalid("/reason", "There is no reason.", "Say why the records are read; the person sees it.")
	}
	if !plainText(by.Reason, maxReason) {
		return invalid("/reason", "The reason is not usable.", fmt.Sprintf("Write plain text on one line, at most %d characters.", maxReason))
	}
	return nil
}

// plainText says whether s is text on one line of at most so many characters.
func plainText(s string, max int) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) && utf8.RuneCountInString(s) <= max
}

// glances reads what there is, opens nothing, and finds out what could be opened.
func (b *Broker) glances(ctx context.Context, owner keys.Owner, page HistoryPage) (out []glance, next proof.Index, err error) {
	rows, err := b.store.RecordsOf(ctx, owner, page.Kind, page.Before, page.Limit+1)
	if err != nil {
		return nil, 0, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	if len(rows) > page.Limit {
		rows = rows[:page.Limit]
		next = rows[len(rows)-1].Index
	}
	out = make([]glance, len(rows))
	for i := range rows {
		out[i] = newGlance(&rows[i])
	}
	return out, next, b.survey(ctx, out)
}

// newGlance is of a record about which nothing is known yet: damaged, unless something better turns out.
func newGlance(row *store.PlacedRecord) glance {
	g := glance{row: row, entry: HistoryEntry{Index: row.Index, State: HistoryDamaged}}
	entry, err := proof.ParseEntry(row.Text)
	if err != nil {
		return g
	}
	if d, ok := entry.(proof.Deferred); ok {
		g.delay = &d
	}
	if entry.Kind().Filed() || g.delay != nil {
		g.entry.Kind = entry.Kind()
	}
	return g
}

// schema is that of the record, by what is known before it is opened: a delayed one is of a disclosure, or of an access.
func (g *glance) schema() proof.Schema {
	if g.row.Alone && g.entry.Kind.Takes(proof.SchemaAccess) {
		return proof.SchemaAccess
	}
	return g.entry.Kind.Schema()
}

// survey finds out which keys of records of filed entries are there, and opens nothing.
func (b *Broker) survey(ctx context.Context, out []glance) error {
	var ids []keys.KeyID
	for i := range out {
		g := &out[i]
		if g.entry.Kind == "" {
			continue
		}
		person, perr := keys.KeyOf(g.row.Person)
		admin, aerr := keys.KeyOf(g.row.Admin)
		switch {
		case aerr == nil && len(g.row.Person) == 0: // the end of its retention took it, if the log says so
			g.month = admin
		case perr == nil && aerr == nil:
			ids = append(ids, person, admin)
			g.month, g.open = admin, true
		}
	}
	stored, err := b.store.FindKeys(ctx, ids)
	if err != nil {
		return unavailable("store.unavailable", "The broker can't read its keys now.", err)
	}
	there := map[keys.KeyID]bool{}
	for i := range stored {
		there[stored[i].ID] = true
	}
	for i := range out {
		g := &out[i]
		if !g.open {
			continue
		}
		person, _ := keys.KeyOf(g.row.Person)
		if there[g.month] {
			g.month = keys.KeyID{} // set: the one key that is missing is that of the month
		}
		g.whole = g.month.IsZero() && there[person]
		// An erasure destroys the key of its own person part, too; what it did stands in the other.
		g.open = g.whole || g.month.IsZero() && g.entry.Kind == proof.KindErasure
	}
	return nil
}

// logAccess has the log say which records are about to be opened, each in the roll of its subject, and returns how many these are. What has an access already gets no other. audit is the
// request that they are about, if it is to be remembered.
func (b *Broker) logAccess(ctx context.Context, by AccessBy, shown shownFields, glances []glance, audit *store.Audit) (n int, err error) {
	var open []*glance
	for i := range glances {
		if glances[i].open && glances[i].access == 0 {
			open = append(open, &glances[i])
		}
	}
	if len(open) == 0 {
		return 0, nil
	}
	seal := b.newSealer()
	stored := errNotTried
	defer func() { seal.end(stored) }()
	now := b.now()
	attach := &store.AccessLogged{Audit: audit}
	var entries []proof.Entry
	for _, g := range open {
		rec, err := accessRecord(by, shown, g, now)
		if err != nil {
			return 0, fmt.Errorf("describing an access: %w", err)
		}
		row := store.Record{Owner: g.row.Owner}
		entry := proof.Entry(proof.Access{Commitment: rec.Commitment()})
		if d := g.delay; d != nil {
			var own *keys.StoredKey
			if row.Person, own, err = b.sealDeferred(ctx, row.Owner, rec); err != nil {
				return 0, keysProblem(err)
			}
			seal.fresh = append(seal.fresh, sealedRecord{fresh: own})
			entry = proof.Deferred{Authority: d.Authority, Article: d.Article, Month: d.Month, Commitment: rec.Commitment()}
		} else if row.Person, err = seal.person(ctx, row.Owner, rec); err != nil {
			return 0, keysProblem(err)
		}
		if row.Admin, err = b.sealAdmin(ctx, now, rec); err != nil {
			return 0, keysProblem(err)
		}
		attach.Records, attach.Targets, entries = append(attach.Records, row), append(attach.Targets, g.row.Index), append(entries, entry)
	}
	attach.Fresh, attach.Keys = seal.rows()
	if audit != nil {
		audit.Targets = attach.Targets
	}
	appended, err := b.ledger().Append(ctx, ledger.Group{Entries: entries, Attach: attach})
	stored = err
	if errors.Is(err, store.ErrOpened) {
		return 0, &Problem{Status: 503, Code: "deferral.ended", Title: "The delay of a record ended in this moment, so none was opened.", Detail: "Repeat the request.", RetryAfter: time.Second, err: err}
	}
	if err != nil {
		return 0, unavailable("log.unavailable", "The log can't record now that records are read, so none was opened.", err)
	}
	if _, err := proof.Verify(appended.Checkpoint, appended.Entries); err != nil {
		return 0, unavailable("log.unproven", "The log gave no valid proof that it recorded the access, so no record was opened.", err)
	}
	for i, g := range open {
		g.access = appended.Entries[i].Index
	}
	return len(entries), nil
}

func accessRecord(by AccessBy, shown shownFields, g *glance, now time.Time) (*proof.Record, error) {
	rec, err := proof.NewRecord(proof.SchemaAccess, rand.Reader)
	if err != nil {
		return nil, err
	}
	schema := g.schema()
	var names []string
	for _, f := range shown[schema] {
		names = append(names, schema.Name(f))
	}
	f := &fields{rec: rec}
	f.subject(g.subject)
	f.text(proof.AccessID, uuid.Must(uuid.NewV7()).String())
	f.text(proof.AccessReader, by.Reader)
	f.text(proof.AccessRole, by.Role)
	f.text(proof.AccessTarget, g.row.Index.String())
	f.list(proof.AccessFields, names)
	f.text(proof.AccessReason, by.Reason)
	f.time(proof.AccessAt, now)
	return rec, errors.Join(f.err, rec.Check())
}

// openGlances opens what the log knows to be opened, and hands it to show.
func (b *Broker) openGlances(ctx context.Context, glances []glance, show func(*glance, *proof.Record)) error {
	var parts []keys.PersonPart
	for i := range glances {
		if g := &glances[i]; g.open {
			parts = append(parts, keys.PersonPart{Owner: g.row.Owner, AD: g.row.Owner[:], Blob: g.row.Person})
		}
	}
	// One call to the custodian for all keys; what is wrong with a single record is found again below.
	persons, _, err := b.ring.OpenPersons(ctx, parts)
	if err != nil {
		return keysProblem(err)
	}
	for _, p := range persons {
		clear(p)
	}
	for i := range glances {
		g := &glances[i]
		if !g.open {
			continue
		}
		rec, err := b.openEntry(ctx, g.row)
		switch {
		case errors.Is(err, keys.ErrNoKey): // the month has ended since
			g.month, err = keys.KeyOf(g.row.Admin)
		case errors.Is(err, keys.ErrAltered), errors.Is(err, proof.ErrFormat), errors.Is(err, proof.ErrUnproven):
			err = nil
		case err == nil:
			show(g, rec)
		default:
			err = keysProblem(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// explain finds out whether the log accounts for what can't be opened: by an end of retention, or by an erasure. Erasures are read last, for they stand in the log before they destroy a key.
func (b *Broker) explain(ctx context.Context, glances []glance) error {
	reaches := map[keys.Owner]proof.Index{}
	for i := range glances {
		g := &glances[i]
		if g.entry.State == HistoryOpen || g.entry.Kind == "" {
			continue
		}
		retired, err := b.retired(ctx, g.row, g.month)
		if err != nil {
			return err
		}
		if retired {
			g.entry.State = HistoryRetired
			continue
		}
		if g.entry.Kind == proof.KindErasure || g.delay != nil {
			continue // it would have opened: no erasure reaches it
		}
		gone, err := b.personGone(ctx, g)
		if err != nil {
			return err
		}
		if !gone {
			continue
		}
		reach, known := reaches[g.row.Owner]
		if !known {
			if reach, err = b.erasedUpTo(ctx, g.row.Owner); err != nil {
				return err
			}
			reaches[g.row.Owner] = reach
		}
		if g.row.Index <= reach {
			g.entry.State = HistoryErased
		}
	}
	return nil
}

// personGone says whether the key of a person part was destroyed: whatever else is wrong with a record, an erasure is no excuse for it.
func (b *Broker) personGone(ctx context.Context, g *glance) (bool, error) {
	id, err := keys.KeyOf(g.row.Person)
	_, aerr := keys.KeyOf(g.row.Admin)
	if err != nil || aerr != nil || !g.month.IsZero() {
		return false, nil
	}
	found, err := b.store.FindKeys(ctx, []keys.KeyID{id})
	if err != nil {
		return false, unavailable("store.unavailable", "The broker can't read its keys now.", err)
	}
	return len(found) == 0, nil
}

// erasedUpTo is the greatest log index that erasures of the owner cover, by the records behind their entries; 0 if there is none: index 0 is a marker.
func (b *Broker) erasedUpTo(ctx context.Context, owner keys.Owner) (proof.Index, error) {
	// One whose record was lost with a restoration covers what came before its entry.
	lost, _, err := b.store.LostErasure(ctx, owner)
	if err != nil {
		return 0, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	// The newest one reaches farthest; older ones count only if it is damaged or retired.
	rows, err := b.store.RecordsOf(ctx, owner, proof.KindErasure, 0, maxHistory)
	if err != nil {
		return 0, unavailable("store.unavailable", "The broker can't read its records now.", err)
	}
	for i := range rows {
		rec, err := b.openEntry(ctx, &rows[i])
		switch {
		case errors.Is(err, keys.ErrNoKey), errors.Is(err, keys.ErrAltered), errors.Is(err, proof.ErrFormat), errors.Is(err, proof.ErrUnproven):
			continue
		case err != nil:
			return 0, keysProblem(err)
		case rec.Schema() == proof.SchemaErasure:
			return max(lost, seen{rec.Open(proof.ReaderPerson), shown[proof.SchemaErasure]}.index(proof.ErasureReach)), nil
		}
	}
	return lost, nil
}
