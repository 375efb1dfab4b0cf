package broker

import (
	"slices"
	"strconv"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// show fills an entry from its record: the fields that its access@v1 entry names and no others.
func (g *glance) show(rec *proof.Record, fields shownFields) {
	whole := rec.Open(proof.ReaderPerson)
	whose, err := whole.Subject()
	erasure := g.entry.Kind == proof.KindErasure && rec.Erased()
	if rec.Schema() != g.schema() || !erasure && (err != nil || !whose.Equal(g.subject)) {
		return // erased in this instant, or another's record under this owner
	}
	o := seen{whole, fields[rec.Schema()]}
	g.entry.State = HistoryOpen
	switch rec.Schema() {
	case proof.SchemaDisclosure:
		g.entry.Disclosure = &DisclosureSeen{
			ID: o.text(proof.DisclosureID), Role: o.text(proof.DisclosureRole), Agency: o.text(proof.DisclosureAgency), Provider: o.text(proof.DisclosureProvider),
			Service: o.text(proof.DisclosureService), Purpose: o.text(proof.DisclosurePurpose), LegalBasis: o.text(proof.DisclosureLegalBasis),
			Outcome: o.text(proof.DisclosureOutcome), Cause: o.text(proof.DisclosureCause), Released: o.list(proof.DisclosureReleased), AskedAt: o.time(proof.DisclosureAskedAt),
		}
	case proof.SchemaAccess:
		g.entry.Access = &AccessSeen{
			Reader: o.text(proof.AccessReader), Role: o.text(proof.AccessRole), Reason: o.text(proof.AccessReason), Target: o.index(proof.AccessTarget),
			Fields: o.list(proof.AccessFields), At: o.time(proof.AccessAt),
		}
	case proof.SchemaErasure:
		g.entry.Erasure = &ErasureSeen{
			Reach: o.index(proof.ErasureReach), Ground: o.text(proof.ErasureGround), AskedAt: o.time(proof.ErasureAskedAt), ErasedAt: o.time(proof.ErasureErasedAt),
		}
	}
}

// seen reads fields that may be shown; the others are empty.
type seen struct {
	o      proof.Opening
	fields []proof.Field
}

func (s seen) may(f proof.Field) bool {
	return slices.Contains(s.fields, f)
}

func (s seen) text(f proof.Field) string {
	if !s.may(f) {
		return ""
	}
	return s.o.Text(f)
}

func (s seen) list(f proof.Field) []string {
	if !s.may(f) {
		return nil
	}
	return s.o.List(f)
}

func (s seen) time(f proof.Field) time.Time {
	at, ok := s.o.TimeOf(f)
	if !ok || !s.may(f) {
		return time.Time{}
	}
	return at.Time()
}

func (s seen) index(f proof.Field) proof.Index {
	n, err := strconv.ParseUint(s.text(f), 10, 63)
	if err != nil {
		return 0
	}
	return proof.Index(n)
}
