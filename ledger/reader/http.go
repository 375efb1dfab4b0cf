package reader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

// Options bound what a server can do to its reader. The zero Options are good for logs on the internet.
type Options struct {
	// Timeout is what one attempt at a file may take, body included; 0 means 30 s.
	Timeout time.Duration
	// Attempts at a file that could not be read, with growing pauses between; 0 means 4.
	Attempts int
	// Pause before the second attempt; it doubles each time. 0 means 250 ms. A server that asks for more by Retry-After gets up to a minute.
	Pause time.Duration
	// UserAgent tells the operator who reads; empty means "regard-audit".
	UserAgent string
	// Client replaces the way of sending requests, for tests; nil means one of its own.
	Client *http.Client
}

// maxRedirects of one request, all on the host that was asked.
const maxRedirects = 3

// maxRetryAfter bounds what a server may have us wait.
const maxRetryAfter = time.Minute

type server struct {
	base    *url.URL
	client  *http.Client
	agent   string
	timeout time.Duration
	retry   failsafe.Executor[[]byte]
}

// HTTP returns a source that reads from a server, below a base URL.
func HTTP(base string, o Options) (Source, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not the address of a log: want http(s)://host/path", base)
	}
	u.Path = strings.TrimSuffix(u.Path, "/") + "/"
	if o.Timeout == 0 {
		o.Timeout = 30 * time.Second
	}
	if o.Attempts == 0 {
		o.Attempts = 4
	}
	if o.Pause == 0 {
		o.Pause = 250 * time.Millisecond
	}
	if o.UserAgent == "" {
		o.UserAgent = "regard-audit"
	}
	s := &server{base: u, agent: o.UserAgent, timeout: o.Timeout, client: o.Client}
	if s.client == nil {
		s.client = &http.Client{Transport: &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: 10 * time.Second}).DialContext, TLSHandshakeTimeout: 10 * time.Second, ResponseHeaderTimeout: o.Timeout,
			MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
			ForceAttemptHTTP2:  true,
			DisableCompression: true, // a small body must not become a large one
		}}
	}
	client := *s.client
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects || next.URL.Scheme != u.Scheme || next.URL.Host != u.Host {
			return errElsewhere
		}
		return nil
	}
	s.client = &client
	s.retry = failsafe.With(retrypolicy.NewBuilder[[]byte]().
		HandleIf(func(_ []byte, err error) bool { return errors.Is(err, ErrUnavailable) }).
		WithMaxAttempts(o.Attempts).WithBackoff(o.Pause, max(o.Pause, maxRetryAfter)).WithJitterFactor(0.2).
		WithDelayFunc(func(e failsafe.ExecutionAttempt[[]byte]) time.Duration {
			var later retryAfter
			if errors.As(e.LastError(), &later) && time.Duration(later) > o.Pause {
				return time.Duration(later)
			}
			return -1 // the back-off
		}).ReturnLastFailure().Build())
	return s, nil
}

var errElsewhere = errors.New("it points elsewhere")

// retryAfter is what a server asks to wait, as part of an error.
type retryAfter time.Duration

func (r retryAfter) Error() string { return "it asks to wait " + time.Duration(r).String() }

func (s *server) String() string { return s.base.String() }

func (s *server) Get(ctx context.Context, name string, limit int) ([]byte, error) {
	return s.retry.WithContext(ctx).GetWithExecution(func(failsafe.Execution[[]byte]) ([]byte, error) {
		b, err := s.get(ctx, name, limit)
		if err != nil && ctx.Err() != nil {
			return nil, ctx.Err() // the caller's end is no fault of the server's
		}
		return b, err
	})
}

func (s *server) get(ctx context.Context, name string, limit int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	u := *s.base
	u.Path += name // names are made from numbers, hashes and tokens
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%s %w: %v", name, ErrRefused, err)
	}
	req.Header.Set("User-Agent", s.agent)
	req.Header.Set("Accept-Encoding", "identity")
	if name == "checkpoint" {
		req.Header.Set("Cache-Control", "no-cache") // of caches on the way, too
	}
	res, err := s.client.Do(req)
	if errors.Is(err, errElsewhere) {
		return nil, fmt.Errorf("%s %w: %w", &u, ErrRefused, errElsewhere)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %w: %v", &u, ErrUnavailable, unwrapURL(err))
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusOK:
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone:
		return nil, fmt.Errorf("%s: %w", &u, fs.ErrNotExist)
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500:
		err := fmt.Errorf("%s %w: it answered %d", &u, ErrUnavailable, res.StatusCode)
		if n, e := strconv.Atoi(res.Header.Get("Retry-After")); e == nil && n > 0 {
			err = fmt.Errorf("%w; %w", err, retryAfter(min(time.Duration(n)*time.Second, maxRetryAfter)))
		}
		return nil, err
	default:
		return nil, fmt.Errorf("%s %w: it answered %d", &u, ErrRefused, res.StatusCode)
	}
	if e := res.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return nil, fmt.Errorf("%s %w: it is compressed, which was not asked for", &u, ErrRefused)
	}
	if res.ContentLength > int64(limit) {
		return nil, fmt.Errorf("%s %w: %d bytes, at most %d", &u, ErrRefused, res.ContentLength, limit)
	}
	var body bytes.Buffer
	if res.ContentLength > 0 {
		body.Grow(int(res.ContentLength) + bytes.MinRead)
	}
	n, err := body.ReadFrom(io.LimitReader(res.Body, int64(limit)+1))
	if n > int64(limit) {
		return nil, fmt.Errorf("%s %w: more than %d bytes", &u, ErrRefused, limit)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %w: %v", &u, ErrUnavailable, err)
	}
	return body.Bytes(), nil
}

// unwrapURL drops the address, which stands in the message already.
func unwrapURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
