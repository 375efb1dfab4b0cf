package peer

import (
	"errors"
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// remembered is how many networks a Limiter knows: with 200 bytes each, up to 13 MB. Whoever asked least lately is forgotten, and may ask anew as if for the first time.
const remembered = 1 << 16

// A Rate is how often one network may ask for something.
type Rate struct {
	PerSecond float64
	Burst     int // at once
}

// A Limiter bounds each network by a token bucket. It is safe for concurrent use.
type Limiter struct {
	rate    Rate
	buckets *lru.Cache[Network, *rate.Limiter]
}

// NewLimiter makes one; both numbers of the rate have to be positive.
func NewLimiter(r Rate) (*Limiter, error) { return newLimiter(r, remembered) }

func newLimiter(r Rate, networks int) (*Limiter, error) {
	if !(r.PerSecond > 0) || math.IsInf(r.PerSecond, 0) || r.Burst < 1 {
		return nil, errors.New("peer: a rate needs more than 0 requests a second, and a burst of at least 1")
	}
	buckets, err := lru.New[Network, *rate.Limiter](networks)
	if err != nil {
		return nil, err
	}
	return &Limiter{r, buckets}, nil
}

func (l *Limiter) bucket(c Network) *rate.Limiter {
	if b, ok := l.buckets.Get(c); ok {
		return b
	}
	fresh := rate.NewLimiter(rate.Limit(l.rate.PerSecond), l.rate.Burst)
	if b, ok, _ := l.buckets.PeekOrAdd(c, fresh); ok {
		return b
	}
	return fresh
}

// Take counts one request. If it is one too many it isn't counted, and wait is in how many whole seconds one is served.
func (l *Limiter) Take(c Network, now time.Time) (wait time.Duration, ok bool) {
	b := l.bucket(c)
	if b.AllowN(now, 1) {
		return 0, true
	}
	seconds := (1 - b.TokensAt(now)) / l.rate.PerSecond
	return time.Duration(math.Ceil(max(seconds, 1))) * time.Second, false
}

// Charge counts n more for a request that was served: what it asked for turned out to cost more. The network may be in debt by it.
func (l *Limiter) Charge(c Network, n int, now time.Time) {
	l.bucket(c).ReserveN(now, min(n, l.rate.Burst))
}
