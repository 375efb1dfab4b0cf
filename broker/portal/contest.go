package portal

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
)

// Contesting is how people contest what was asked about them. Ids of others are unknown.
type Contesting interface {
	// ContestEntry contests what an entry of the person records; the same text about the same entry again is the same contest.
	ContestEntry(ctx context.Context, a broker.Account, index proof.Index, text string) (*broker.Contest, error)
	// ContestsOf lists a person's, newest first.
	ContestsOf(ctx context.Context, a broker.Account) ([]broker.Contest, error)
	ContestOf(ctx context.Context, a broker.Account, id store.ID) (*broker.Contest, error)
	// WithdrawContest ends one that is open.
	WithdrawContest(ctx context.Context, a broker.Account, id store.ID) (*broker.Contest, error)
}

// maxContest is how long a contest may be, in characters; the broker has the last word.
const maxContest = 2000

// contestable says whether there is somebody who can answer for an entry.
func contestable(rec *broker.OwnRecord) bool {
	return rec.State == broker.HistoryOpen && rec.Opening.Schema() == proof.SchemaDisclosure && rec.Agency != ""
}

// contestPage is the form, with what is known of the entry.
type contestPage struct {
	Row      row
	Namesake bool
	Answer   bool          // the person is known from the provider's answer alone
	Open     *contestShown // one that is open already: there is no form
	Due      time.Time     // of one that is sent today
	Fields   []field
	Mistakes []mistake
}

// contestShown is one contest as it stands.
type contestShown struct {
	*broker.Contest
	ID, Agency, State, Outcome string // State and Outcome are keys of the catalogue
	Live                       bool
	Filed, Due                 time.Time
	Steps                      []fact
	Row                        *row // of the entry; nil: it can't be shown any more
}

var (
	contestStates = map[string]string{
		store.ContestOpen: "contest.state.open", store.ContestOverdue: "contest.state.overdue", store.ContestAnswered: "contest.state.answered", store.ContestWithdrawn: "contest.state.withdrawn",
	}
	contestOutcomes = map[broker.ContestOutcome]string{
		"": "", broker.ContestExplained: "contest.outcome.explained", broker.ContestCorrected: "contest.outcome.corrected", broker.ContestUpheld: "contest.outcome.upheld", broker.ContestRejected: "contest.outcome.rejected",
	}
)

func contestID(id store.ID) string { return uuid.UUID(id).String() }

func (p *Portal) showContest(c *broker.Contest, n *namer) (*contestShown, error) {
	state := c.State
	if c.Overdue {
		state = store.ContestOverdue
	}
	out := &contestShown{
		Contest: c, ID: contestID(c.ID), Agency: n.agency(c.Agency), State: contestStates[state], Live: c.State == store.ContestOpen,
		Filed: c.Filed.In(p.zone), Due: c.Due.In(p.zone), Steps: []fact{{Key: "contest.step.filed", At: c.Filed.In(p.zone)}},
	}
	var known bool
	if out.Outcome, known = contestOutcomes[c.Outcome]; !known || out.State == "" {
		return nil, fmt.Errorf("a contest is %q with the outcome %q, for which there are no words", state, c.Outcome)
	}
	for _, x := range []struct {
		key string
		at  time.Time
	}{{"contest.step.acknowledged", c.Acknowledged}, {"contest.step.extended", c.Extended}, {map[bool]string{true: "contest.step.withdrawn", false: "contest.step.answered"}[c.State == store.ContestWithdrawn], c.Ended}} {
		if !x.at.IsZero() {
			out.Steps = append(out.Steps, fact{Key: x.key, At: x.at.In(p.zone)})
		}
	}
	if out.Live {
		out.Steps = append(out.Steps, fact{Key: "contest.step.due", At: out.Due})
	}
	return out, nil
}

// contestForm says what a contest is, to whom it goes and by when it is answered, before it is sent.
func (p *Portal) contestForm(r *request, s *Session) error {
	rec, err := p.own(r, s)
	if err != nil {
		return err
	}
	words, err := p.contestWords(r, rec)
	if err != nil {
		return err
	}
	return p.showContestForm(r, s, rec, http.StatusOK, words)
}

// contestWords are what the form proposes.
func (p *Portal) contestWords(r *request, rec *broker.OwnRecord) (string, error) {
	if !contestable(rec) {
		return "", nil
	}
	n := p.namer(r.lang)
	return r.lang.text("contest.proposal", "data", own(clean(n.data(&rec.OwnEntry))), "day", own(r.lang.day(rec.At.In(p.zone))))
}

func (p *Portal) showContestForm(r *request, s *Session, rec *broker.OwnRecord, status int, text string, mistakes ...mistake) error {
	if !contestable(rec) {
		return &broker.Problem{Status: http.StatusConflict, Code: "contest.other"}
	}
	n := p.namer(r.lang)
	data := &contestPage{
		Row: p.row(&rec.OwnEntry, n), Namesake: rec.Namesake, Answer: rec.Role == proof.RoleAnswer, Due: broker.ContestDue(p.now()).In(p.zone), Mistakes: mistakes,
		Fields: []field{{Name: "texte", Type: "textarea", Label: "contest.text", Hint: "contest.text_hint", Value: text, Required: true, MaxLength: maxContest}},
	}
	marked(data.Fields, mistakes)
	list, err := p.cfg.Broker.ContestsOf(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	for i := range list {
		if slices.Contains(list[i].Entries, rec.Index) && list[i].State == store.ContestOpen {
			if data.Open, err = p.showContest(&list[i], n); err != nil {
				return err
			}
		}
	}
	return r.render(status, "contest_form", "contest.title", data)
}

// contest sends it.
func (p *Portal) contest(r *request, s *Session) error {
	rec, err := p.own(r, s)
	if err != nil {
		return err
	}
	text := r.PostForm.Get("texte")
	c, err := p.cfg.Broker.ContestEntry(r.Context(), r.knownAs(s.Subjects), rec.Index, text)
	var problem *broker.Problem
	switch {
	case err == nil:
		return r.done("flash.contest_sent", "/contestations/"+contestID(c.ID))
	case errors.As(err, &problem) && problem.Parameter == "/text":
		return p.showContestForm(r, s, rec, http.StatusBadRequest, text, mistake{"texte", "contest.text_wrong"})
	}
	return err
}

// contestsPage lists what somebody contests.
type contestsPage struct{ Contests []*contestShown }

func (p *Portal) contests(r *request, s *Session) error {
	list, err := p.cfg.Broker.ContestsOf(r.Context(), r.knownAs(s.Subjects))
	if err != nil {
		return err
	}
	data, n := &contestsPage{}, p.namer(r.lang)
	for i := range list {
		c, err := p.showContest(&list[i], n)
		if err != nil {
			return err
		}
		data.Contests = append(data.Contests, c)
	}
	return r.render(http.StatusOK, "contests", "contests.title", data)
}

// contestOf finds one of the person's contests: what isn't an id is the id of none.
func (p *Portal) contestOf(r *request, s *Session) (*broker.Contest, error) {
	v := r.PathValue("id")
	id, err := uuid.Parse(v)
	if err != nil || id.String() != v {
		return nil, &broker.Problem{Status: http.StatusNotFound, Code: "contest.unknown"}
	}
	return p.cfg.Broker.ContestOf(r.Context(), r.knownAs(s.Subjects), store.ID(id))
}

func (p *Portal) contestShown(r *request, s *Session) error {
	c, err := p.contestOf(r, s)
	if err != nil {
		return err
	}
	n := p.namer(r.lang)
	data, err := p.showContest(c, n)
	if err != nil {
		return err
	}
	if c.Entry != 0 {
		rec, err := p.cfg.Broker.OwnRecord(r.Context(), s.Subjects, c.Entry)
		if err != nil {
			return err
		}
		line := p.row(&rec.OwnEntry, n)
		data.Row = &line
	}
	return r.render(http.StatusOK, "contest", "contest.one", data)
}

// withdraw ends a contest that isn't wanted any more.
func (p *Portal) withdraw(r *request, s *Session) error {
	c, err := p.contestOf(r, s)
	if err != nil {
		return err
	}
	if _, err := p.cfg.Broker.WithdrawContest(r.Context(), r.knownAs(s.Subjects), c.ID); err != nil {
		return err
	}
	return r.done("flash.contest_withdrawn", "/contestations/"+contestID(c.ID))
}

// letter shows what somebody wrote, line by line.
func letter(s string) template.HTML {
	var m markup
	m.add(`<blockquote class="letter">`)
	for i, line := range strings.Split(s, "\n") {
		if i > 0 {
			m.add("<br>")
		}
		m.bdi(line)
	}
	m.add(`</blockquote>`)
	return m.html()
}
