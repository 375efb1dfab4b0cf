// Package holder is for those who hold receipts: agencies that ask a broker, and providers that answer it. A [Keeper] keeps an agency's receipts, a [Guard] stands before a provider's API; both bring
// them to witnessed and settled by themselves, and raise an alarm if they can't.
//
// What it guarantees. A Guard lets no request through to the provider's handler without a valid, fresh and unused intent of the broker for this very request, and lets no answer out before it has
// durably noted what was asked and whom the answer identifies. Afterwards the log must show it an entry for the asked identifier and one for each of these people, saying what was asked and answered,
// under the quorum of witnesses; while that is missing for longer than it was told to wait, or when something else is shown, it refuses further intents, also after a restart. A Keeper holds on to the
// receipt that it was given: one that comes later has to be of the same entry. What refutes the broker is kept as evidence. Errors and alarms hold no personal data; the store does.
//
// What it doesn't. A broker that asks a provider in another way than through the Guard isn't seen by it. A broker may say that it couldn't read an answer which it read: such answers are counted
// (Status.Unheard), there is an alarm if they are many, and no more can be known from here. It may say that somebody was erased: such claims are counted apart (Status.Erased), and regard-audit reconcile
// holds them against the erasures in the log. A store that is lost loses what was still to come.
package holder

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// State is how far the proof of one disclosure has come.
type State int

// The states. From Witnessed on, or from Signed on if AcceptSigned says that the log's own signature is enough, nothing is missing before the epoch's close.
const (
	Waiting   State = 0 // no receipts yet
	Signed    State = 1 // receipts of all entries, as expected, under the log's signature
	Witnessed State = 2 // and under the quorum of witnesses
	Settled   State = 3 // and all of them in the rolls of their closed epochs
	Accepted  State = 4 // closed without that, for a reason (Held.Code): by hand, or after an erasure
	Refuted   State = 5 // what was shown is wrong: there is evidence
)

var stateNames = [...]string{"waiting", "signed", "witnessed", "settled", "accepted", "refuted"}

// provenBy is the state from which on nothing is missing before the epoch's close.
func provenBy(signedIsEnough bool) State {
	if signedIsEnough {
		return Signed
	}
	return Witnessed
}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return "unknown"
	}
	return stateNames[s]
}

// A Refutation says what is wrong with what the broker showed. It holds no personal data: the evidence in the store does.
type Refutation struct {
	Code   string // stable: "entry.missing", "receipt.invalid" …
	Detail string
}

func (r *Refutation) Error() string { return r.Code + ": " + r.Detail }

func refute(code, format string, args ...any) error {
	return &Refutation{code, fmt.Sprintf(format, args...)}
}

// Alarms that are raised.
const (
	AlarmOverdue   = "receipts.overdue"   // not witnessed (signed, where that is enough) within MaxAge: something happened that the log doesn't show
	AlarmUnsettled = "receipts.unsettled" // not settled within SettleAge
	AlarmDelayed   = "receipts.delayed"   // somebody was to be told later, and the month in which the log promised it is over by MaxAge
	AlarmRefuted   = "receipts.refuted"   // the broker showed something wrong; see the evidence
	AlarmUnheard   = "receipts.unheard"   // the broker says of more answers than MaxUnheard that it couldn't read them; nothing is refused for it
	AlarmOver      = "receipts.over"      // the alarm before is over
)

// An Alarm is for people. It holds no personal data.
type Alarm struct {
	Code       string
	Disclosure string // of a refutation
	Detail     string
	Since      time.Time // of what is overdue
}

// Times are how long things may take before there is an alarm.
type Times struct {
	// MaxAge is for the receipts of a disclosure to be witnessed, or signed where that is enough; 0: 10 minutes.
	MaxAge time.Duration
	// SettleAge is for them to be settled; longer than an epoch; 0: 3 days.
	SettleAge time.Duration
	// Poll is the pause between looks for something to do; 0: a second. Each disclosure is asked for ever more rarely, every SettleEvery at the rarest; 0: 10 minutes.
	Poll, SettleEvery time.Duration
}

func (t *Times) defaults() error {
	for _, d := range [...]struct {
		v   *time.Duration
		def time.Duration
	}{{&t.MaxAge, 10 * time.Minute}, {&t.SettleAge, 72 * time.Hour}, {&t.Poll, time.Second}, {&t.SettleEvery, 10 * time.Minute}} {
		if *d.v < 0 {
			return errors.New("holder: a negative time")
		}
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	return nil
}

// pause before the next look at a disclosure, after so many that brought nothing.
func (t *Times) pause(s State, tries int) time.Duration {
	limit := 30 * time.Second
	if s >= Signed {
		limit = t.SettleEvery
	}
	return max(t.Poll, min(limit, t.Poll<<min(tries, 20)))
}

// watch turns ages into alarms, each told once.
type watch struct {
	times   Times
	alarm   func(Alarm)
	log     *slog.Logger
	mu      sync.Mutex
	refused string // the alarm that is on
	status  Status
	wrong   int // refutations while the store may have been read
}

// Overdue is the alarm that is due at a time, by the ages and refutations in s; empty: none. Zero times are the defaults.
func (s *Status) Overdue(t Times, now time.Time) string {
	if t.defaults() != nil {
		return ""
	}
	code, _ := t.overdue(s, now)
	return code
}

// overdue is what holds at a time, by the ages in s.
func (t *Times) overdue(s *Status, now time.Time) (code string, since time.Time) {
	switch {
	case s.Counts[Refuted] > 0:
		return AlarmRefuted, time.Time{}
	case !s.OldestUnproven.IsZero() && now.Sub(s.OldestUnproven) > t.MaxAge:
		return AlarmOverdue, s.OldestUnproven
	case !s.OldestUnsettled.IsZero() && now.Sub(s.OldestUnsettled) > t.SettleAge:
		return AlarmUnsettled, s.OldestUnsettled
	case !s.OldestDelay.IsZero() && now.Sub(s.OldestDelay) > t.MaxAge:
		return AlarmDelayed, s.OldestDelay
	}
	return "", time.Time{}
}

// look reads the store and takes what it says.
func (w *watch) look(ctx context.Context, s *Store, now func() time.Time) error {
	w.mu.Lock()
	w.wrong = 0
	w.mu.Unlock()
	status, err := s.ages(ctx)
	if err != nil {
		return err
	}
	w.update(status, now())
	return nil
}

func (w *watch) update(s Status, now time.Time) {
	w.mu.Lock()
	s.Counts[Refuted] = max(s.Counts[Refuted], int64(w.wrong)) // the store may have been read before
	code, since := w.times.overdue(&s, now)
	w.status = s
	before := w.refused
	w.refused = code
	w.mu.Unlock()
	switch {
	case code == before:
	case code == "":
		w.raise(Alarm{Code: AlarmOver, Detail: "What was missing has arrived, or was accepted."})
	case code == AlarmRefuted: // told with its disclosure
	default:
		w.raise(Alarm{Code: code, Since: since, Detail: "The broker doesn't show the proof of what happened: ask its operator, and the witnesses."})
	}
}

func (w *watch) raise(a Alarm) {
	w.log.Error("receipts", "alarm", a.Code, "disclosure", a.Disclosure, "detail", a.Detail, "since", a.Since)
	if w.alarm != nil {
		w.alarm(a)
	}
}

// refusing is the alarm that is on at a time; empty: none. began notes that something new waits, refuted that something is wrong, before the store is looked at again.
func (w *watch) refusing(now time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	code, _ := w.times.overdue(&w.status, now)
	return code
}

func (w *watch) refuted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong++
	w.status.Counts[Refuted]++
}

func (w *watch) began(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.OldestUnproven.IsZero() {
		w.status.OldestUnproven = at
	}
	if w.status.OldestUnsettled.IsZero() {
		w.status.OldestUnsettled = at
	}
}

// Connection says how the broker is reached.
type Connection struct {
	URL         string // https://host:port
	Certificate tls.Certificate
	Roots       *x509.CertPool // nil: the system's
}

func (c *Connection) client() (*url.URL, *http.Client, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return nil, nil, errors.New("holder: the broker's URL has to be https://host:port")
	}
	if len(c.Certificate.Certificate) == 0 {
		return nil, nil, errors.New("holder: a client certificate is needed")
	}
	own := c.Certificate
	return u, &http.Client{
		Timeout: time.Minute,
		Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: c.Roots,
			// It is always sent: brokers name no authorities from which a client could choose.
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil },
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
