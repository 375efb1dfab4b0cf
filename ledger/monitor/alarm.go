package monitor

import (
	"cmp"
	"slices"
	"time"

	"github.com/regard-broker/regard/ledger/fsck"
)

// Code names a kind of alarm. Codes are stable. Besides those here, each code of package fsck that speaks of entries, markers, governance or indexes is one.
type Code string

// The codes.
const (
	Fork          Code = "log.fork"
	Rollback      Code = "log.rollback"
	Hidden        Code = "log.hidden"
	Stalled       Code = "log.stalled"
	Damaged       Code = "log.damaged"
	Unreachable   Code = "source.unreachable"
	Invalid       Code = "source.invalid"
	NoQuorum      Code = "quorum.missing"
	WitnessSilent Code = "witness.silent"
	WitnessClock  Code = "clock.witness"
	MarkerAhead   Code = "clock.ahead"
	MarkerBehind  Code = "clock.behind"
	OwnClock      Code = "clock.own"
	EpochEarly    Code = "epoch.early"
	EpochLate     Code = "epoch.late"
	EpochLong     Code = "epoch.long"
)

// Severity says how much haste there is.
type Severity string

// The severities.
const (
	Critical Severity = "critical" // the log broke a promise, or nobody can tell any more whether it does
	Warning  Severity = "warning"  // look at it today
)

// CodeInfo describes a code.
type CodeInfo struct {
	Severity Severity
	Means    string
	Do       string
	// Standing alarms are about something that happened: an acknowledgement quiets them, and nothing ends them. The others end by themselves.
	Standing bool
}

// Codes describes the codes of this package. It must not be changed; Describe knows those of fsck, too.
var Codes = map[Code]CodeInfo{
	Fork:          {Critical, "the log signed two histories", "Keep the two checkpoints: they prove it. Tell the witnesses, the supervisory authority, and whoever relies on the log; rely on nothing newer than the last checkpoint that all agree on.", true},
	Rollback:      {Critical, "every place serves a smaller tree than was served before", "Look for the newest checkpoint elsewhere (mirrors, witnesses, receipts) and ask the operator.", false},
	Hidden:        {Critical, "somebody was shown a larger tree than is published, or than can be read", "Ask the operator why it isn't published. A receipt that isn't followed by its publication may be of another history.", false},
	Stalled:       {Critical, "the open epoch is overdue: no marker closed it", "Ask the operator whether the broker runs. As long as the epoch is open, nobody can prove that their history is complete.", false},
	Damaged:       {Critical, "a place serves files that aren't those of the signed tree", "Run regard-audit fsck on it to see which.", false},
	Unreachable:   {Warning, "a place, or some of its files, can't be read", "See whether it is the network, the server, or only you who is kept out.", false},
	Invalid:       {Critical, "a place serves a checkpoint that the log didn't sign", "See whether the policy has the log's current keys; otherwise keep what is served and ask the operator.", false},
	NoQuorum:      {Critical, "a published tree has been without the quorum of witnesses for too long", "Ask the witnesses whether they see the log. Until they cosign, others may be shown another history.", false},
	WitnessSilent: {Warning, "a witness of the policy hasn't cosigned for long", "Ask whoever runs it.", false},
	WitnessClock:  {Warning, "the time of a cosignature can't be right", "Ask whoever runs the witness to look at its clock; compare the log's and your own.", false},
	MarkerAhead:   {Critical, "a marker has a time that hasn't come", "Check your own clock, then ask the operator.", true},
	MarkerBehind:  {Critical, "a marker is back-dated, or was published late: it says that it was made before a look at which it wasn't there", "Check your own clock, then ask the operator whether publication stood still: from outside it can't be told from back-dating.", true},
	OwnClock:      {Warning, "the monitor's own clock went back", "Set it right: alarms about times can't be trusted until then.", false},
	EpochEarly:    {Warning, "an epoch was closed before it was due", "Ask the operator whether the broker's clock stepped.", true},
	EpochLate:     {Warning, "an epoch was closed later than it was due", "Ask the operator what stopped the broker.", true},
	EpochLong:     {Critical, "an epoch is to last for longer than 31 days", "Ask the operator to close it. As long as the epoch is open, nobody can prove that their history is complete.", true},
}

// Describe returns what is to be said of a code.
func Describe(c Code) CodeInfo {
	if info, ok := Codes[c]; ok {
		return info
	}
	f := fsck.Codes[fsck.Code(c)]
	info := CodeInfo{Warning, f.Means, f.Do, true}
	if f.Severity == fsck.Fault {
		info.Severity = Critical
	}
	return info
}

// Alarm is something that somebody has to look at.
type Alarm struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	// Place is an entry, an epoch, a file, a witness or an address.
	Place string `json:"place"`
	What  string `json:"what"`
	Do    string `json:"do"`
	// Raised is when it was noticed first.
	Raised time.Time `json:"raised"`
	// Standing: it is about something that happened and doesn't end.
	Standing bool `json:"standing"`
	// Acknowledged: somebody saw it and said so.
	Acknowledged bool `json:"acknowledged,omitempty"`
}

// Key names an alarm: two with the same key are the same.
func (a Alarm) Key() string { return string(a.Code) + "@" + a.Place }

// Event is the beginning or the end of an alarm.
type Event struct {
	Event string    `json:"event"` // "raised" or "cleared"
	At    time.Time `json:"at"`
	Log   string    `json:"log"` // its origin
	Alarm
}

// The bounds of what is kept: a hostile log must not fill the disk.
const (
	maxAlarms = 100 // of one code that nobody acknowledged; then one alarm stands for the rest
	maxEvents = 1000
)

// book keeps alarms.
type book struct {
	Alarms map[string]Alarm `json:"alarms"`
	Events []Event          `json:"outbox"` // not yet delivered
	Lost   uint64           `json:"lost_events"`

	now   time.Time
	log   string
	seen  map[string]bool
	count map[Code]int
	fresh []Event // of this look
	queue bool    // somebody takes events out of Events
}

// begin begins a look: from here on what isn't raised again ends.
func (b *book) begin(now time.Time, log string) {
	b.now, b.log, b.seen, b.count, b.fresh = now, log, map[string]bool{}, map[Code]int{}, nil
	if b.Alarms == nil {
		b.Alarms = map[string]Alarm{}
	}
	for _, a := range b.Alarms {
		if !a.Acknowledged {
			b.count[a.Code]++
		}
	}
}

// raise notes an alarm of this package, which is said once.
func (b *book) raise(c Code, place, what string) { b.put(c, place, what, Describe(c).Standing) }

func (b *book) put(c Code, place, what string, standing bool) {
	info := Describe(c)
	a := Alarm{Code: c, Severity: info.Severity, Place: place, What: info.Means + ": " + what, Do: info.Do, Raised: b.now.UTC(), Standing: standing}
	folded := false
	if _, known := b.Alarms[a.Key()]; !known && b.count[c] >= maxAlarms {
		a.Place, a.What, a.Standing = "more", info.Means+": at more places than are listed; regard-audit fsck counts them", true
		folded = true
	}
	b.seen[a.Key()] = true
	// What stands is put once and told nowhere else: whoever acknowledged that there is more didn't see this. What ends by itself is put at each look.
	if old, known := b.Alarms[a.Key()]; known && !(folded && standing && old.Acknowledged) {
		return
	}
	b.Alarms[a.Key()] = a
	b.count[c]++
	b.event("raised", a)
}

// hold says that whether an alarm goes on can't be seen in this look.
func (b *book) hold(is func(Code) bool) {
	for key, a := range b.Alarms {
		if is(a.Code) {
			b.seen[key] = true
		}
	}
}

// end ends a look: alarms that can end by themselves and weren't raised again do.
func (b *book) end() {
	for _, a := range b.list() {
		if !b.seen[a.Key()] && !a.Standing {
			delete(b.Alarms, a.Key())
			b.event("cleared", a)
		}
	}
}

func (b *book) event(what string, a Alarm) {
	e := Event{what, b.now.UTC(), b.log, a}
	if len(b.fresh) < maxEvents {
		b.fresh = append(b.fresh, e)
	}
	if !b.queue {
		return
	}
	b.Events = append(b.Events, e)
	if n := len(b.Events) - maxEvents; n > 0 {
		b.Events = slices.Delete(b.Events, 0, n)
		b.Lost += uint64(n)
	}
}

// list returns all alarms, the gravest and oldest first.
func (b *book) list() []Alarm {
	out := make([]Alarm, 0, len(b.Alarms))
	for _, a := range b.Alarms {
		out = append(out, a)
	}
	slices.SortFunc(out, func(x, y Alarm) int {
		return cmp.Or(cmp.Compare(x.Severity, y.Severity), x.Raised.Compare(y.Raised), cmp.Compare(x.Key(), y.Key()))
	})
	return out
}
