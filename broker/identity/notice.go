package identity

import (
	"net/http"
	"strconv"
	"time"
)

// A Code says what happened to a sign-in, a sign-out or a request.
type Code string

// The codes, and what the person can do about each.
const (
	// Refused: the person didn't agree, or went back, at the provider. Nothing was sent to us. They may begin again.
	Refused Code = "refused"
	// TooLow: the provider vouches for the identity at a lower level than Notice.Wanted. They may begin again with another account at the provider.
	TooLow Code = "too_low"
	// Expired: the sign-in took longer than ten minutes, came from another browser, or another was begun since. Begin again.
	Expired Code = "expired"
	// Used: this sign-in was completed before, as when the page is loaded again. They may be signed in already.
	Used Code = "used"
	// Unavailable: the provider can't be reached, is too slow or says so, or our own store or keys are down. Try again after Notice.RetryAfter; nothing is lost.
	Unavailable Code = "unavailable"
	// TooOften: too many sign-ins were begun or completed from one address. Try again after Notice.RetryAfter; what was begun waits.
	TooOften Code = "too_often"
	// Untrusted: the provider's answer isn't what it should be, so nobody was signed in. The operator has to look; trying again rarely helps.
	Untrusted Code = "untrusted"
	// Incomplete: the identity lacks Notice.Missing, without which nobody can tell two people apart. It has to be completed at the body that the person signed in with.
	Incomplete Code = "incomplete"
	// OtherPerson: somebody confirmed who they are, and it was somebody else than who had signed in. Everybody is signed out.
	OtherPerson Code = "other_person"
	// Unconfirmed: the provider doesn't say that the person signed in anew just now. The session goes on; what needed it isn't done.
	Unconfirmed Code = "unconfirmed"
	// Ended: the session is over, or there was none. What was sent wasn't done. Sign in, then send it again.
	Ended Code = "ended"
	// Forged: the request came from another site, or lacks the token of this session's forms. It wasn't done. Load the page again.
	Forged Code = "forged"
	// SignedOut here and at the provider.
	SignedOut Code = "signed_out"
	// SignedOutHere, and not by way of the provider: it can't be reached, or the session here was over before. The provider's own may go on until it ends by itself (FranceConnect's after 30 minutes), or the browser is closed.
	SignedOutHere Code = "signed_out_here"
)

// A Notice is what a page tells about a sign-in, a sign-out or a request that was refused. It holds no personal data.
type Notice struct {
	Code   Code
	Status int
	// Return is where the person wanted to go: a path of the portal.
	Return string
	// Missing names the claims that an Incomplete identity lacks: family_name, given_name, birthdate, gender, birthplace, birthcountry.
	Missing []string
	// Wanted is the level of TooLow.
	Wanted     Level
	RetryAfter time.Duration
}

var statuses = map[Code]int{
	Refused: http.StatusForbidden, TooLow: http.StatusForbidden, Expired: http.StatusBadRequest, Used: http.StatusConflict, Unavailable: http.StatusServiceUnavailable, TooOften: http.StatusTooManyRequests,
	Untrusted: http.StatusBadGateway, Incomplete: http.StatusForbidden, OtherPerson: http.StatusForbidden, Unconfirmed: http.StatusForbidden,
	Ended: http.StatusUnauthorized, Forged: http.StatusForbidden, SignedOut: http.StatusOK, SignedOutHere: http.StatusOK,
}

// failure is an error with what the person is told about it. Its text is for the operator, and holds nothing that the provider said about anybody.
type failure struct {
	notice Notice
	cause  string // words of ours
	err    error
	guess  bool // the code may have been invented: it costs more
}

func (f *failure) Error() string {
	if f.err != nil {
		return f.cause + ": " + f.err.Error()
	}
	return f.cause
}

func (f *failure) Unwrap() error { return f.err }

func failed(code Code, cause string, err error) *failure {
	return &failure{notice: Notice{Code: code}, cause: cause, err: err}
}

// show is the one exit for what isn't a page of the portal.
func (s *Service) show(w http.ResponseWriter, r *http.Request, n Notice) {
	n.Status = statuses[n.Code]
	if n.Code == Unavailable && n.RetryAfter == 0 {
		n.RetryAfter = 10 * time.Second
	}
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the callback's URL holds a code
	if n.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(n.RetryAfter/time.Second)))
	}
	s.cfg.Show(w, r, &n)
}
