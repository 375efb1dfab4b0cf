package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// A HistoryFile is a person's history, to be checked by anybody who knows the log's key.
type HistoryFile struct {
	History *proof.History
	// Logged is how many records were opened for somebody else than the person, each with an access@v1 entry before.
	Logged int
}

// HistoryFile makes the complete history of a person under some of their identifiers, for themself: whatever they may see is open, and no access is logged. epochs may end with
// ledger.NewestEpoch. The caller has made sure that all of these identifiers are the person's.
//
// It reads page by page and holds nothing up. What can't be opened stands in it with what the log says about it: a record without such an account is refuted by whoever verifies the history.
func (b *Broker) HistoryFile(ctx context.Context, subjects []proof.Subject, epochs proof.EpochRange) (*HistoryFile, error) {
	return b.historyFile(ctx, subjects, epochs, nil)
}

// HistoryFileBy makes the same for the help desk, with the fields that History shows. As there, an access@v1 entry for each record stands in the log before it is opened; these entries are
// of the open epoch, and so in the next history.
func (b *Broker) HistoryFileBy(ctx context.Context, subjects []proof.Subject, epochs proof.EpochRange, by AccessBy) (*HistoryFile, error) {
	if err := by.check(); err != nil {
		return nil, err
	}
	return b.historyFile(ctx, subjects, epochs, &by)
}

// shownInFile are the fields that a history made for the help desk opens: those of History, and whom it is about, without which nobody can verify it.
var shownInFile = func() shownFields {
	out := shownFields{}
	for schema, fields := range shown {
		out[schema] = append([]proof.Field{proof.FieldSubjectType, proof.FieldSubject}, fields...)
	}
	return out
}()

// labeler is the ring's, with the ledger's word for a key whose retention is over.
type labeler struct{ keys.Labels }

// Prove implements ledger.Labeler.
func (l labeler) Prove(ctx context.Context, name string, epoch proof.Epoch, s proof.Subject) (proof.Label, []byte, error) {
	z, p, err := l.Labels.Prove(ctx, name, epoch, s)
	return z, p, over(err)
}

// RollSeed implements ledger.Labeler.
func (l labeler) RollSeed(ctx context.Context, name string, epoch proof.Epoch) ([32]byte, error) {
	seed, err := l.Labels.RollSeed(ctx, name, epoch)
	return seed, over(err)
}

func over(err error) error {
	if errors.Is(err, keys.ErrNoKey) {
		return fmt.Errorf("%w: %w", ledger.ErrLabelsOver, err)
	}
	return err
}

func (b *Broker) historyFile(ctx context.Context, subjects []proof.Subject, epochs proof.EpochRange, by *AccessBy) (*HistoryFile, error) {
	if len(subjects) == 0 || slices.ContainsFunc(subjects, proof.Subject.IsZero) {
		return nil, invalid("/subjects", "There is no identifier.", "Give one identifier of the person at least.")
	}
	leave, err := b.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	d, err := b.ledger().History(ctx, subjects, epochs.From, epochs.To)
	if errors.Is(err, ledger.ErrNotFound) {
		return nil, b.stillOpen(epochs, err)
	}
	if err != nil {
		return nil, unavailable("history.unavailable", "The history can't be proven now.", err)
	}
	m := historyMaker{b: b, d: d, by: by, whose: map[proof.Index]int{}, months: map[string]bool{}}
	for _, f := range d.Filed {
		m.whose[f.Index] = f.Subject
	}
	for i := range d.Subjects {
		if err := m.subject(ctx, i); err != nil {
			return nil, err
		}
	}
	for _, step := range []func(context.Context) error{m.missing, m.erasures, m.restarts, m.deferrals, m.audits, m.keys} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	h, err := d.Prove(ctx)
	if err != nil {
		return nil, unavailable("history.unavailable", "The history can't be proven now.", err)
	}
	return &HistoryFile{h, m.logged}, nil
}

// stillOpen says which epochs there are. The error of the log has the number that stands for the newest, which says nothing to anybody.
func (b *Broker) stillOpen(epochs proof.EpochRange, err error) error {
	p := &Problem{Status: 404, Code: "history.open", Title: "These epochs are not all closed and published.", Detail: "A history is of closed epochs: a day, unless it is configured otherwise. Ask for earlier ones, or later.", err: err}
	open := b.ledger().OpenEpoch()
	if epochs.To == ledger.NewestEpoch {
		p.err = fmt.Errorf("%w: from epoch %d on; epoch %d is open", ledger.ErrNotFound, epochs.From, open.Number)
	}
	if open.Number == 0 {
		p.Title, p.err = "No epoch is closed yet.", nil
		p.Detail = "A history is of closed epochs. The first one closes at " + open.Until.UTC().Format("2006-01-02 15:04:05 MST") + " (regard status)."
	}
	return p
}

// historyMaker fills a history with entries.
type historyMaker struct {
	b      *Broker
	d      *ledger.HistoryDraft
	by     *AccessBy // nil: the person
	logged int

	whose  map[proof.Index]int // entries in the rolls that stand in the draft not yet, and of which subject
	months map[string]bool     // whose record keys may account for a record that isn't open
	hidden []int               // subjects of whom a person part is gone
	delays []proof.Index       // deferred@v1 entries that opened@v1 entries of the rolls name
}

func (m *historyMaker) storeProblem(err error) error {
	return unavailable("store.unavailable", "The broker can't read its records now.", err)
}

// subject adds the entries in one subject's rolls, newest first, a page at a time.
func (m *historyMaker) subject(ctx context.Context, subject int) error {
	page := HistoryPage{Before: m.d.Closes, Limit: maxHistory}
	for {
		glances, next, err := m.page(ctx, subject, page, func(i proof.Index) bool {
			s, mine := m.whose[i]
			return mine && s == subject
		})
		if err != nil {
			return err
		}
		for i := range glances {
			g := &glances[i]
			if s, mine := m.whose[g.row.Index]; !mine || s != subject {
				continue
			}
			delete(m.whose, g.row.Index)
			if err := m.add(ctx, g.row.Index, g.row.Text, g.opened); err != nil {
				return err
			}
			if _, err := g.opened.Subject(); g.opened.IsZero() || err != nil {
				m.hidden = append(m.hidden, subject)
			}
		}
		if next <= m.d.Opens {
			return nil
		}
		page.Before = next
	}
}

// page reads a page of a subject's records and opens those that are wanted, after the log has said so if it is for somebody else.
func (m *historyMaker) page(ctx context.Context, subject int, page HistoryPage, wanted func(proof.Index) bool) (glances []glance, next proof.Index, err error) {
	owner, err := m.b.ring.Owner(m.d.Subjects[subject])
	if err != nil {
		return nil, 0, keysProblem(err)
	}
	read := func() error {
		if glances, next, err = m.b.glances(ctx, owner, page); err != nil {
			return err
		}
		for i := range glances {
			g := &glances[i]
			g.subject = m.d.Subjects[subject]
			g.open = g.open && wanted(g.row.Index)
		}
		if m.by == nil {
			return nil
		}
		n, err := m.b.logAccess(ctx, *m.by, m.by.shows(shownInFile, m.d.Subjects[subject].Type()), glances, nil)
		m.logged += n
		return err
	}
	if m.by == nil {
		err = read()
	} else {
		err = m.b.gate.pass([]keys.Owner{owner}, read)
	}
	if err != nil {
		return nil, 0, erasingProblem(err)
	}
	for i := range glances {
		// Of an erased record the person is shown what is left of it, and everybody else that it is left: the digests of its fields.
		if g := &glances[i]; !g.open && g.entry.Kind != "" && g.month.IsZero() && wanted(g.row.Index) {
			g.open, g.rest = true, true
		}
	}
	return glances, next, m.b.openGlances(ctx, glances, m.show)
}

// show takes the opening of a record.
func (m *historyMaker) show(g *glance, rec *proof.Record) {
	o := rec.Open(proof.ReaderPerson)
	s, err := o.Subject()
	if rec.Schema() != g.schema() || err == nil && !s.Equal(g.subject) || err != nil && !rec.Erased() {
		return // another's record under this owner
	}
	switch {
	case m.by != nil && g.rest:
		o = o.Only()
	case m.by != nil:
		o = o.Only(m.by.shows(shownInFile, g.subject.Type())[rec.Schema()]...)
	default:
		o = o.ForSubject(g.subject.Type())
	}
	g.opened = o
}

// add adds an entry of a roll and notes what accounts for what isn't open of it.
func (m *historyMaker) add(ctx context.Context, index proof.Index, text []byte, o proof.Opening) error {
	m.d.Add(index, text, o)
	at := index
	if entry, err := proof.ParseEntry(text); err == nil {
		if x, ok := entry.(proof.Opened); ok {
			m.delays = append(m.delays, x.Deferred)
			at = x.Deferred
		}
	}
	if _, err := o.Subject(); o.IsZero() || err != nil {
		return m.account(ctx, at)
	}
	return nil
}

// account notes the months in which the record of an entry may have been sealed, and the markers that tell.
func (m *historyMaker) account(ctx context.Context, at proof.Index) error {
	opener, closing, err := m.b.store.Markers(ctx, at)
	if errors.Is(err, store.ErrNotFound) {
		return nil // damaged: nothing accounts for it, and the verdict says so
	}
	if err != nil {
		return m.storeProblem(err)
	}
	var times [2]time.Time
	for i, text := range [][]byte{opener, closing} {
		entry, err := proof.ParseEntry(text)
		x, ok := entry.(proof.Marker)
		if err != nil || !ok {
			return nil // as above
		}
		times[i] = x.Opened.Time()
		if at < m.d.Opens {
			m.d.Add(x.At(), text, proof.Opening{})
		}
	}
	first := time.Date(times[0].Year(), times[0].Month()-1, 1, 0, 0, 0, 0, time.UTC)
	for t := first; !t.After(times[1]); t = t.AddDate(0, 1, 0) {
		m.months[keys.MonthOf(t)] = true
	}
	return nil
}

// missing adds the entries in the rolls of which there is no record: they were lost, if the log says so.
func (m *historyMaker) missing(ctx context.Context) error {
	for i := range m.whose {
		var text []byte
		err := store.Order{Store: m.b.store}.Leaves(ctx, i, i+1, func(l ledger.Leaf) error {
			text = slices.Clone(l.Text)
			return nil
		})
		if err != nil {
			return m.storeProblem(err)
		}
		if err := m.add(ctx, i, text, proof.Opening{}); err != nil {
			return err
		}
	}
	return nil
}

// erasures adds those that stand after the last epoch, and one whose record was lost with a restoration, where a person part is gone that nothing else may account for.
func (m *historyMaker) erasures(ctx context.Context) error {
	slices.Sort(m.hidden)
	for _, s := range slices.Compact(m.hidden) {
		later := func(i proof.Index) bool { return i > m.d.Closes && uint64(i) < m.d.Under.Size() }
		glances, _, err := m.page(ctx, s, HistoryPage{Kind: proof.KindErasure, Limit: maxHistory}, later)
		if err != nil {
			return err
		}
		for i := range glances {
			switch g := &glances[i]; {
			case uint64(g.row.Index) >= m.d.Under.Size(): // it began in this instant, and isn't published yet
				return erasingProblem(errErasing)
			case later(g.row.Index) && !g.opened.IsZero():
				m.d.Add(g.row.Index, g.row.Text, g.opened)
			}
		}
		owner, err := m.b.ring.Owner(m.d.Subjects[s])
		if err != nil {
			return keysProblem(err)
		}
		lost, ok, err := m.b.store.LostErasure(ctx, owner)
		if err != nil {
			return m.storeProblem(err)
		}
		if ok && uint64(lost) < m.d.Under.Size() {
			m.d.Add(lost, nil, proof.Opening{})
		}
	}
	return nil
}

func (m *historyMaker) restarts(ctx context.Context) error {
	err := m.b.store.Rare(ctx, proof.KindRestart, proof.Index(m.d.Under.Size()), func(i proof.Index, text []byte) error {
		m.d.Add(i, text, proof.Opening{})
		return nil
	})
	if err != nil {
		return m.storeProblem(err)
	}
	return nil
}

// deferrals adds the delays that hadn't ended when the last epoch was closed, whoever they are about, and those that ended in the rolls.
func (m *historyMaker) deferrals(ctx context.Context) error {
	texts := map[proof.Index][]byte{}
	err := m.b.store.Rare(ctx, proof.KindDeferred, m.d.Closes, func(i proof.Index, text []byte) error {
		texts[i] = text
		return nil
	})
	if err != nil {
		return m.storeProblem(err)
	}
	for _, i := range m.delays {
		m.d.Add(i, texts[i], proof.Opening{})
	}
	err = m.b.store.Rare(ctx, proof.KindOpened, m.d.Closes, func(_ proof.Index, text []byte) error {
		entry, err := proof.ParseEntry(text)
		if x, ok := entry.(proof.Opened); ok {
			delete(texts, x.Deferred)
		}
		return err
	})
	if err != nil {
		return m.storeProblem(err)
	}
	for i, text := range texts {
		m.d.Add(i, text, proof.Opening{})
	}
	return nil
}

// maxStatementFile bounds what is read of a published statement.
const maxStatementFile = 64 << 10

// audits adds what auditors stated about the indexes.
func (m *historyMaker) audits(context.Context) error {
	auditors := m.b.registry.Load().auditors
	ids := make([]string, 0, len(auditors))
	for id := range auditors {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	first, err := m.marker(0)
	if err != nil {
		return m.storeProblem(err)
	}
	for n := range m.d.Epochs {
		epoch := first.Epoch + proof.Epoch(n)
		var found []proof.HistoryAudit
		for _, id := range ids {
			signed, err := os.ReadFile(filepath.Join(m.b.PublicDir(), "audit", epoch.String(), id))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return m.storeProblem(err)
			}
			if len(signed) > maxStatementFile {
				continue
			}
			for _, k := range auditors[id].Keys {
				audit, signature, err := proof.SplitIndexAudit(signed, k.VKey)
				if k.State == store.Revoked || err != nil || audit.Epoch != epoch {
					continue
				}
				at := slices.Index(m.d.Auditors, k.VKey)
				if at < 0 {
					at = len(m.d.Auditors)
					m.d.Auditors = append(m.d.Auditors, k.VKey)
				}
				found = append(found, proof.HistoryAudit{Epoch: epoch, Auditor: at, Entries: audit.Entries, Signature: signature})
				break
			}
		}
		slices.SortFunc(found, func(a, b proof.HistoryAudit) int { return a.Auditor - b.Auditor })
		m.d.Audits = append(m.d.Audits, found...)
	}
	return nil
}

// marker parses a marker of the history.
func (m *historyMaker) marker(n int) (proof.Marker, error) {
	entry, err := proof.ParseEntry(m.d.Markers[n])
	x, ok := entry.(proof.Marker)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the text of an epoch is no marker", store.ErrCorrupt)
	}
	return x, err
}

// keys adds what the log says of the keys of the months in question, of the labels of epochs that are over, and of the auditors, with the markers that tell when it was said.
func (m *historyMaker) keys(ctx context.Context) error {
	labels := map[proof.Hash]bool{}
	first, last := proof.Epoch(0), proof.Epoch(0)
	for n := range m.d.Markers {
		x, err := m.marker(n)
		if err != nil {
			return m.storeProblem(err)
		}
		if n == 0 {
			first = x.Epoch
		}
		last = x.Epoch
		if n < len(m.d.Epochs) && m.d.Epochs[n].Labels == nil {
			labels[proof.Hash(x.VRF)] = true
		}
	}
	auditors := map[proof.Hash]bool{}
	for _, vkey := range m.d.Auditors {
		auditors[proof.AuditorKey(vkey)] = true
	}
	if len(m.months) == 0 && len(labels) == 0 && len(auditors) == 0 {
		return nil
	}
	epochs := map[proof.Epoch]bool{}
	err := m.b.store.Rare(ctx, proof.KindKey, proof.Index(m.d.Under.Size()), func(i proof.Index, text []byte) error {
		entry, err := proof.ParseEntry(text)
		k, ok := entry.(proof.KeyChanged)
		if err != nil || !ok {
			return fmt.Errorf("%w: entry %d: %w", store.ErrCorrupt, i, err)
		}
		if k.Use == proof.UseRecord && m.months[k.Key[len(proof.UseRecord)+1:]] || k.Use == proof.UseLabel && labels[k.Public] || k.Use == proof.UseAuditor && auditors[k.Public] {
			m.d.Add(i, text, proof.Opening{})
			// Between these two markers it was written.
			epochs[k.Epoch], epochs[k.Epoch+1] = true, true
		}
		return nil
	})
	if err != nil {
		return m.storeProblem(err)
	}
	newest := m.b.ledger().OpenEpoch().Number
	for e := range epochs {
		if e >= first && e <= last || e > newest {
			continue
		}
		index, text, err := m.opener(ctx, e)
		if err != nil {
			return m.storeProblem(err)
		}
		if uint64(index) < m.d.Under.Size() {
			m.d.Add(index, text, proof.Opening{})
		}
	}
	return nil
}

// opener returns the marker that opens an epoch.
func (m *historyMaker) opener(ctx context.Context, e proof.Epoch) (proof.Index, []byte, error) {
	if open := m.b.ledger().OpenEpoch(); open.Number == e {
		return open.Marker, open.Text, nil
	}
	c, err := store.Order{Store: m.b.store}.Epoch(ctx, e)
	return c.Marker, c.Text, err
}
