package api

import (
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/regard-broker/regard/broker"
)

// limiters hold one allowance for each agency and auditor. There are as many as were ever registered, so none is dropped.
type limiters struct {
	rate  float64
	burst int
	byID  sync.Map // limited → *rate.Limiter
}

// limited is whose allowance it is: an auditor may have the id of an agency.
type limited struct {
	id      string
	auditor bool
}

// take uses up one request of the caller's allowance and says in the headers how much is left (draft-ietf-httpapi-ratelimit-headers-03).
func (l *limiters) take(x *exchange) *broker.Problem {
	who := limited{x.caller.ID, x.caller.Auditor}
	v, ok := l.byID.Load(who)
	if !ok {
		v, _ = l.byID.LoadOrStore(who, rate.NewLimiter(rate.Limit(l.rate), l.burst))
	}
	lim := v.(*rate.Limiter)
	allowed := lim.AllowN(x.start, 1)
	left := max(0, lim.TokensAt(x.start))
	h := x.w.Header()
	h["Ratelimit-Limit"] = []string{strconv.Itoa(l.burst)}
	h["Ratelimit-Remaining"] = []string{strconv.Itoa(int(left))}
	h["Ratelimit-Reset"] = []string{strconv.Itoa(int(math.Ceil((float64(l.burst) - left) / l.rate)))}
	if allowed {
		return nil
	}
	wait := time.Duration(math.Ceil((1-left)/l.rate)) * time.Second
	return &broker.Problem{Status: 429, Code: "rate.exceeded", Title: "Too many requests.", Detail: "Wait as long as Retry-After says, then go on more slowly.", RetryAfter: max(wait, time.Second)}
}

// quality of a language in an Accept-Language header, from 0 to 1; the most specific range counts.
func quality(header, lang string) float64 {
	best, exact := 0.0, false
	for part := range strings.SplitSeq(header, ",") {
		tag, params, _ := strings.Cut(part, ";")
		tag = strings.ToLower(strings.TrimSpace(tag))
		q := 1.0
		if v, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			n, err := strconv.ParseFloat(v, 64)
			if err != nil || !(n >= 0 && n <= 1) {
				continue
			}
			q = n
		}
		switch {
		case tag == lang || strings.HasPrefix(tag, lang+"-"):
			if !exact || q > best {
				best, exact = q, true
			}
		case tag == "*" && !exact:
			best = max(best, q)
		}
	}
	return best
}
