package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

const (
	maxContest     = 2000 // characters of a contest, an answer, a reason
	contestsADay   = 10   // of one account
	contestsPage   = 50
	maxContests    = 200
	contestsShown  = 500 // of one account
	contestMonths  = 1   // GDPR, article 12(3)
	extendedMonths = 3   // the same: two further months
)

// ContestOutcome says what an agency made of a contest.
type ContestOutcome string

// The outcomes.
const (
	ContestExplained ContestOutcome = "explained" // the request was right, and this is why
	ContestCorrected ContestOutcome = "corrected" // something was wrong and has been put right
	ContestUpheld    ContestOutcome = "upheld"    // the request should not have been made
	ContestRejected  ContestOutcome = "rejected"  // the contest isn't about this, or is unfounded
)

// A Contest of a disclosure, as its person and its agency see it.
type Contest struct {
	ID, Disclosure store.ID
	// Entry of the person that is contested; 0 for others than that person, and once it isn't theirs any more.
	Entry proof.Index
	// Entries are all of the person's that record the disclosure, by which somebody may be asked about and named in the answer; empty for others. The contest is of it as a whole: while one is open there is no other about any of them.
	Entries []proof.Index
	Agency  string
	// Role is asked, or answer: of somebody whom only the answer of the provider identifies.
	Role string
	// Namesake: the entry is filed by names and birth date alone, so whoever contests may be somebody else of that name.
	Namesake bool
	Lang     string // of the text
	State    string // open, answered, withdrawn
	Overdue  bool
	Outcome  ContestOutcome // empty until it is answered
	// Text, Answer and Extension (why it takes longer) are empty if there is none, and once the person was erased.
	Text, Answer, Extension string
	Erased                  bool
	Filed, Due              time.Time
	// Acknowledged, Extended and Ended are zero until then.
	Acknowledged, Extended, Ended time.Time
}

func errNoContest() *Problem {
	return &Problem{Status: 404, Code: "contest.unknown", Title: "There is no such contest.", Detail: "Check the id."}
}

// letter is what a person or an agency writes: lines of text. A tab is a space, a line may end with CR, LF or both, and what invisibly turns the direction of a text (Unicode: Bidi_Control) is left out, as pages leave it out
// of all that others wrote. Other control characters are refused.
func letter(parameter, text string) (string, error) {
	if !utf8.ValidString(text) {
		return "", invalid(parameter, "The text is not UTF-8.", "Write plain text.")
	}
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, lineEnds.Replace(text)))
	switch {
	case !readable(text):
		return "", invalid(parameter, "There is no text.", "Write what is meant.")
	case utf8.RuneCountInString(text) > maxContest:
		return "", invalid(parameter, fmt.Sprintf("The text has more than %d characters.", maxContest), "Shorten it.")
	case strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && unicode.IsControl(r) }):
		return "", invalid(parameter, "The text holds control characters.", "Write plain text; it may have several lines.")
	}
	return text, nil
}

var lineEnds = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\t", " ")

// monthsAfter is the same time so many months later, on the last day of the month if it has no such day (Regulation 1182/71, article 3(2)(c); to the minute where the law gives the whole day).
func monthsAfter(t time.Time, n int) time.Time {
	first := time.Date(t.Year(), t.Month()+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), t.Location())
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}

// ContestDue is by when a contest is to be answered that is filed at a time.
func ContestDue(filed time.Time) time.Time { return monthsAfter(filed, contestMonths) }

// ContestEntry contests the disclosure that an entry of the account's person records: somebody who sees it in outline only, as a namesake does, knows no more of it. What the agency is told of the person is what this entry says, whatever other entries of the
// disclosure are theirs. The same text about the same entry again is the same contest; while one is open there is no other about the same disclosure.
func (b *Broker) ContestEntry(ctx context.Context, a Account, index proof.Index, text string) (*Contest, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	row, err := b.store.RowAt(ctx, index)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, storeProblem(err)
	}
	if _, mine := p.subjects[row.Owner]; err != nil || !mine || row.None || !row.Kind.Filed() {
		return nil, errNoOwnRecord()
	}
	return b.fileContest(ctx, p, &row.PlacedRecord, text)
}

// openContested opens the record of an entry, unless its retention has ended.
func (b *Broker) openContested(ctx context.Context, row *store.PlacedRecord) (*proof.Record, error) {
	rec, err := b.openEntry(ctx, row)
	if errors.Is(err, keys.ErrNoKey) {
		return nil, &Problem{Status: 410, Code: "disclosure.retired", Title: "The retention of this disclosure has ended.", Detail: "Its details were destroyed, so nobody can answer for it any more."}
	}
	if err != nil {
		return nil, keysProblem(err)
	}
	return rec, nil
}

// fileContest contests the disclosure of an entry of the person, and has its agency told.
func (b *Broker) fileContest(ctx context.Context, p *person, row *store.PlacedRecord, text string) (*Contest, error) {
	text, err := letter("/text", text)
	if err != nil {
		return nil, err
	}
	rec, err := b.openContested(ctx, row)
	if err != nil {
		return nil, err
	}
	o := rec.Open(proof.ReaderPerson)
	disclosure, err := uuid.Parse(o.Text(proof.DisclosureID))
	if rec.Schema() != proof.SchemaDisclosure || err != nil {
		return nil, errNoRequest()
	}
	body, err := b.ring.Digest("contest", []byte(text))
	if err != nil {
		return nil, keysProblem(err)
	}
	now := b.now()
	c := &store.Contest{
		ID: newID(), Account: p.owner, Owner: row.Owner, Disclosure: store.ID(disclosure), Agency: o.Text(proof.DisclosureAgency), Role: o.Text(proof.DisclosureRole),
		Namesake: p.subjects[row.Owner].Type() == proof.TypePerson, Lang: p.lang, Body: body[:], Filed: now, Due: ContestDue(now),
	}
	var filed store.Contest
	err = b.keepBeside(ctx, []beside{{row.Owner, "contest", c.ID, []byte(text)}}, func(s []*store.Sealed) (err error) {
		filed, err = b.store.FileContest(ctx, c, s[0], now.Add(-24*time.Hour), contestsADay)
		return err
	}, p.owner)
	switch {
	case errors.Is(err, store.ErrExists):
		return nil, conflict("contest.open", "You contest this disclosure already.", "Wait for the answer, or withdraw that contest first.")
	case errors.Is(err, store.ErrTooMany):
		return nil, tooMany(fmt.Sprintf("You have contested %d disclosures within a day.", contestsADay), time.Hour)
	case err != nil:
		return nil, storeProblem(err)
	}
	return b.ownContest(ctx, p, &filed)
}

func newID() store.ID { return store.ID(uuid.Must(uuid.NewV7())) }

// entriesOf lists the entries of a disclosure that are filed under a person's identifiers, the asked one first. Of one that is somebody else's, that never was, or that is delayed and not opened, there are none.
func (b *Broker) entriesOf(ctx context.Context, p *person, disclosure store.ID) ([]*store.PlacedRecord, error) {
	rows, err := b.store.RowsOf(ctx, disclosure)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, storeProblem(err)
	}
	var out []*store.PlacedRecord
	for i := range rows {
		if _, mine := p.subjects[rows[i].Owner]; mine && !rows[i].None && rows[i].Kind.Filed() {
			out = append(out, &rows[i].PlacedRecord)
		}
	}
	return out, nil
}

// ownContest is contest for its person.
func (b *Broker) ownContest(ctx context.Context, p *person, c *store.Contest) (*Contest, error) {
	out, err := b.contest(ctx, c)
	if err != nil {
		return nil, err
	}
	rows, err := b.entriesOf(ctx, p, c.Disclosure)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		out.Entries = append(out.Entries, row.Index)
		if row.Owner == c.Owner && out.Entry == 0 {
			out.Entry = row.Index
		}
	}
	return out, nil
}

// contest opens what a contest says.
func (b *Broker) contest(ctx context.Context, c *store.Contest) (*Contest, error) {
	out := &Contest{
		ID: c.ID, Disclosure: c.Disclosure, Agency: c.Agency, Role: c.Role, Namesake: c.Namesake, Lang: c.Lang, State: c.State, Overdue: c.State == store.ContestOpen && !b.now().Before(c.Due), Outcome: ContestOutcome(c.Outcome),
		Filed: c.Filed, Due: c.Due, Acknowledged: c.Acknowledged, Extended: c.Extended, Ended: c.Ended,
	}
	for _, x := range []struct {
		use  string
		blob []byte
		to   *string
	}{{"contest", c.Text, &out.Text}, {"contest answer", c.Answer, &out.Answer}, {"contest extension", c.Extension, &out.Extension}} {
		if len(x.blob) == 0 {
			out.Erased = out.Erased || x.use == "contest"
			continue
		}
		text, err := b.openBeside(ctx, c.Owner, x.use, c.ID, x.blob)
		switch {
		case errors.Is(err, keys.ErrNoKey):
			out.Erased = true
		case err != nil:
			return nil, keysProblem(err)
		}
		*x.to = string(text)
	}
	return out, nil
}

func (b *Broker) contests(ctx context.Context, list []store.Contest) ([]Contest, error) {
	out := make([]Contest, len(list))
	for i := range list {
		c, err := b.contest(ctx, &list[i])
		if err != nil {
			return nil, err
		}
		out[i] = *c
	}
	return out, nil
}

// ContestsOf lists what an account's person contests, newest first.
func (b *Broker) ContestsOf(ctx context.Context, a Account) ([]Contest, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	list, err := b.store.ContestsOf(ctx, p.owner, contestsShown)
	if err != nil {
		return nil, storeProblem(err)
	}
	out := make([]Contest, len(list))
	for i := range list {
		c, err := b.ownContest(ctx, p, &list[i])
		if err != nil {
			return nil, err
		}
		out[i] = *c
	}
	return out, nil
}

// ContestOf finds one of them.
func (b *Broker) ContestOf(ctx context.Context, a Account, id store.ID) (*Contest, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	c, err := b.foundContest(ctx, id, "", p.owner)
	if err != nil {
		return nil, err
	}
	return b.ownContest(ctx, p, c)
}

func (b *Broker) foundContest(ctx context.Context, id store.ID, agency string, account keys.Owner) (*store.Contest, error) {
	c, err := b.store.Contest(ctx, id, agency, account)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoContest()
	}
	return &c, storeProblem(err)
}

// WithdrawContest ends a contest that its person doesn't want any more.
func (b *Broker) WithdrawContest(ctx context.Context, a Account, id store.ID) (*Contest, error) {
	p, err := b.person(&a)
	if err != nil {
		return nil, err
	}
	return b.moveContest(ctx, &store.ContestMove{ID: id, Account: p.owner, Event: store.ContestWithdrawn}, "")
}

// A ContestPage is a part of a list.
type ContestPage struct {
	Contests []Contest
	Next     store.ID // after of the next page; zero if there is none
}

// Contests lists those of an agency's disclosures, the oldest first: in a state (open, overdue, answered, withdrawn) or, if it is empty, all, after an id. limit 0 means 50.
func (b *Broker) Contests(ctx context.Context, caller Caller, state string, after store.ID, limit int) (*ContestPage, error) {
	if caller.Auditor || caller.ID == "" {
		return nil, errNoContest()
	}
	return b.contestPage(ctx, caller.ID, state, after, limit)
}

// AllContests lists those of all agencies for the operator, who sees how they stand and not what they say.
func (b *Broker) AllContests(ctx context.Context, state string, after store.ID, limit int) (*ContestPage, error) {
	page, err := b.contestPage(ctx, "", state, after, limit)
	if err != nil {
		return nil, err
	}
	for i := range page.Contests {
		c := &page.Contests[i]
		c.Text, c.Answer, c.Extension = "", "", ""
	}
	return page, nil
}

func (b *Broker) contestPage(ctx context.Context, agency, state string, after store.ID, limit int) (*ContestPage, error) {
	if limit == 0 {
		limit = contestsPage
	}
	if limit < 0 || limit > maxContests {
		return nil, invalid("/limit", fmt.Sprintf("The limit is not between 1 and %d.", maxContests), "Ask for the next page with next.")
	}
	switch state {
	case "", store.ContestOpen, store.ContestOverdue, store.ContestAnswered, store.ContestWithdrawn:
	default:
		return nil, invalid("/state", "There is no such state.", "Use open, overdue, answered or withdrawn, or leave it out.")
	}
	list, err := b.store.Contests(ctx, agency, state, after, b.now(), limit+1)
	if err != nil {
		return nil, storeProblem(err)
	}
	page := &ContestPage{}
	if len(list) > limit {
		list = list[:limit]
		page.Next = list[limit-1].ID
	}
	page.Contests, err = b.contests(ctx, list)
	return page, err
}

// Contest finds one of an agency's.
func (b *Broker) Contest(ctx context.Context, caller Caller, id store.ID) (*Contest, error) {
	if caller.Auditor || caller.ID == "" {
		return nil, errNoContest()
	}
	c, err := b.foundContest(ctx, id, caller.ID, keys.Owner{})
	if err != nil {
		return nil, err
	}
	return b.contest(ctx, c)
}

// AcknowledgeContest tells the person that the agency has it in hand. The deadline stays.
func (b *Broker) AcknowledgeContest(ctx context.Context, caller Caller, id store.ID) (*Contest, error) {
	return b.agencyMove(ctx, caller, &store.ContestMove{ID: id, Event: "acknowledged"}, "")
}

// ExtendContest takes two further months, once, before the deadline has passed, and tells the person why (GDPR, article 12(3)).
func (b *Broker) ExtendContest(ctx context.Context, caller Caller, id store.ID, reason string) (*Contest, error) {
	reason, err := letter("/reason", reason)
	if err != nil {
		return nil, err
	}
	return b.agencyMove(ctx, caller, &store.ContestMove{ID: id, Event: "extended"}, reason)
}

// AnswerContest answers and so ends it. The same answer again changes nothing.
func (b *Broker) AnswerContest(ctx context.Context, caller Caller, id store.ID, outcome ContestOutcome, text string) (*Contest, error) {
	switch outcome {
	case ContestExplained, ContestCorrected, ContestUpheld, ContestRejected:
	default:
		return nil, invalid("/outcome", "There is no such outcome.", "Use explained, corrected, upheld or rejected.")
	}
	text, err := letter("/text", text)
	if err != nil {
		return nil, err
	}
	return b.agencyMove(ctx, caller, &store.ContestMove{ID: id, Event: store.ContestAnswered, Outcome: string(outcome)}, text)
}

func (b *Broker) agencyMove(ctx context.Context, caller Caller, m *store.ContestMove, said string) (*Contest, error) {
	if caller.Auditor || caller.ID == "" {
		return nil, errNoContest()
	}
	m.Agency = caller.ID
	return b.moveContest(ctx, m, said)
}

// moveContest carries out a step of the account or of the agency.
func (b *Broker) moveContest(ctx context.Context, m *store.ContestMove, said string) (*Contest, error) {
	c, err := b.store.Contest(ctx, m.ID, m.Agency, m.Account)
	if errors.Is(err, store.ErrNotFound) {
		return nil, errNoContest()
	}
	if err != nil {
		return nil, storeProblem(err)
	}
	m.At = b.now()
	if m.Event == "extended" {
		m.Due = monthsAfter(c.Filed, extendedMonths)
		if c.State == store.ContestOpen && c.Extended.IsZero() && !m.At.Before(c.Due) {
			return nil, conflict("contest.overdue", "The deadline has passed, so it can't be extended any more.", "Answer at once.")
		}
	}
	if said == "" {
		c, err = b.store.MoveContest(ctx, m)
	} else {
		if len(c.Text) == 0 {
			return nil, errContestErased()
		}
		var digest [32]byte
		if digest, err = b.ring.Digest(m.Event, []byte(said)); err != nil {
			return nil, keysProblem(err)
		}
		m.Reply = digest[:]
		use := map[string]string{"extended": "contest extension", store.ContestAnswered: "contest answer"}[m.Event]
		err = b.keepBeside(ctx, []beside{{c.Owner, use, c.ID, []byte(said)}}, func(s []*store.Sealed) (err error) {
			m.Said = s[0]
			c, err = b.store.MoveContest(ctx, m)
			return err
		})
	}
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, errContestErased()
	case errors.Is(err, store.ErrEnded):
		return nil, conflict("contest.ended", "This contest was answered or withdrawn already.", "Read it to see how it stands.")
	case errors.Is(err, store.ErrExists):
		return nil, conflict("contest.extended", "The deadline of this contest was extended already.", "It can be extended once.")
	case err != nil:
		return nil, storeProblem(err)
	}
	return b.contest(ctx, &c)
}

func errContestErased() *Problem {
	return &Problem{Status: 410, Code: "contest.erased", Title: "The person was erased, and with them what this contest said.", Detail: "Nothing is to be answered any more."}
}

// CountContests counts those that are open, and of these the ones whose deadline has passed.
func (b *Broker) CountContests(ctx context.Context) (open, overdue int64, err error) {
	return b.store.CountContests(ctx, b.now())
}
