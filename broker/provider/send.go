package provider

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/service"
)

// The causes of failed calls, as they are recorded: stable token paths. A provider's own error is not one of them; see service.Verdict.
const (
	CauseTimeout    = "provider/timeout"    // not connected, no first byte or not whole in time
	CauseTooLarge   = "provider/too_large"  // more than the service's answer_bytes
	CauseRefused    = "provider/refused"    // not asked: the provider failed too often
	CauseBusy       = "provider/busy"       // not asked: too many calls at the same time
	CauseRate       = "provider/rate"       // not asked: too many calls per second
	CauseTLS        = "provider/tls"        // one of both certificates was not accepted, or no TLS
	CauseConnection = "provider/connection" // not connected, or closed without an answer
	CauseTruncated  = "provider/truncated"  // closed within an answer
	CauseRedirect   = "provider/redirect"   // it pointed elsewhere; that is never followed
	CauseIntent     = "provider/intent"     // not asked: the broker could not sign its intent
	CauseAbandoned  = "provider/abandoned"  // the context of the call ended
	CauseConfig     = "provider/config"     // not asked: the call or the definition can't be used
	CauseDocument   = "provider/document"   // a document is not as its link declares
)

// An Error is a call without an answer. It holds no personal data.
type Error struct {
	Cause string
	// Asked: the provider may have seen the question.
	Asked bool
	// RetryAfter: when it may be worth asking again; 0: not known.
	RetryAfter time.Duration
	text       string
}

func (e *Error) Error() string { return e.Cause + ": " + e.text }

var errFirstByte, errTotal = errors.New("no first byte in time"), errors.New("not whole in time")

// once is a body of no bytes that can't be had twice. With it the transport never repeats a call by itself, as it would on a connection that was closed without an answer
// (net/http.Transport: "retries ... if the request is idempotent and either has no body or has its Request.GetBody defined"). On HTTP/1 nothing of it is sent, on HTTP/2 an
// empty frame.
type once struct{}

func (once) Read([]byte) (int, error)         { return 0, io.EOF }
func (once) WriteTo(io.Writer) (int64, error) { return 0, nil } // so that nobody copies it through a buffer
func (once) Close() error                     { return nil }

// identity spares HTTP/1 the look whether once is empty, for which it would start a goroutine and a timer: the body is what it is, and nothing is said of its length (RFC 9112, section 6.3: there is none).
var identity = []string{"identity"}

func (c *Client) send(ctx context.Context, times service.Limits, u *url.URL, limit int64, header http.Header) (Answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	total := time.AfterFunc(times.Total, func() { cancel(errTotal) })
	defer total.Stop()
	first := time.AfterFunc(times.FirstByte, func() { cancel(errFirstByte) })
	defer first.Stop()
	req := (&http.Request{Method: http.MethodGet, URL: u, Host: u.Host, Header: header, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: once{}, TransferEncoding: identity}).WithContext(ctx)
	resp, err := c.transport.Load().RoundTrip(req)
	if err != nil {
		return Answer{}, classify(ctx, err, CauseConnection)
	}
	defer resp.Body.Close()
	first.Stop()
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		return Answer{}, &Error{Cause: CauseRedirect, Asked: true, text: "the provider pointed elsewhere with status " + strconv.Itoa(resp.StatusCode)}
	}
	tooLarge := &Error{Cause: CauseTooLarge, Asked: true, text: "more than " + strconv.FormatInt(limit, 10) + " bytes"}
	if resp.ContentLength > limit {
		return Answer{}, tooLarge
	}
	body := new(bytes.Buffer)
	if b, _ := bodies.Get().(*[]byte); b != nil {
		body = bytes.NewBuffer(*b)
	}
	if resp.ContentLength > 0 {
		body.Grow(int(resp.ContentLength) + bytes.MinRead)
	}
	n, err := body.ReadFrom(io.LimitReader(resp.Body, limit+1))
	if n > limit {
		return Answer{}, tooLarge
	}
	if err != nil {
		return Answer{}, classify(ctx, err, CauseTruncated)
	}
	return Answer{
		Status: resp.StatusCode, ContentType: resp.Header.Get("Content-Type"), Body: body.Bytes(),
		RetryAfter: retryAfter(resp.Header.Get("Retry-After")),
	}, nil
}

// classify names the cause. The text of err is only used where it can't hold anything that the provider sent or was sent.
func classify(ctx context.Context, err error, other string) *Error {
	e := &Error{Cause: other, Asked: true, text: "the connection failed"}
	if other == CauseTruncated {
		e.text = "the connection ended within the answer"
	}
	var (
		op      *net.OpError
		verify  *tls.CertificateVerificationError
		record  tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		timeout net.Error
	)
	switch cause := context.Cause(ctx); {
	case cause == errFirstByte || cause == errTotal:
		e.Cause, e.text = CauseTimeout, cause.Error()
	case cause != nil:
		e.Cause, e.text = CauseAbandoned, "the caller gave up"
	case errors.As(err, &op) && op.Op == "remote error": // an alert, whose text is crypto/tls's own; mostly: our certificate is not accepted
		e.Cause, e.text = CauseTLS, "the provider ended TLS: "+op.Err.Error()
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid):
		e.Cause, e.Asked, e.text = CauseTLS, false, "the provider's certificate is not accepted"
	case errors.As(err, &record):
		e.Cause, e.Asked, e.text = CauseTLS, false, "the provider doesn't speak TLS"
	case errors.As(err, &op) && op.Op == "dial":
		e.Asked, e.text = false, op.Error()
		if op.Timeout() {
			e.Cause, e.text = CauseTimeout, "not connected in time"
		}
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Cause, e.text = CauseTimeout, "no answer in time"
	}
	return e
}

func retryAfter(s string) time.Duration {
	if n, err := strconv.Atoi(s); err == nil && n > 0 {
		return min(time.Duration(n)*time.Second, time.Hour)
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, min(time.Until(t), time.Hour))
	}
	return 0
}

// Fetch gets the document behind a link of an answer, under the limits of its service and its link. q.Request is not used. Errors are *Error.
func (c *Client) Fetch(ctx context.Context, q Question, l service.Link) (service.Document, error) {
	u := l.URL()
	if q.Service == nil || q.Service.Links[l.Pointer].Mode != service.LinkFetch || !slices.Contains(q.Service.Links[l.Pointer].Hosts, hostOf(u)) {
		return service.Document{}, &Error{Cause: CauseConfig, text: "not a link that the definition fetches"}
	}
	a, err := c.call(ctx, q, u, l.Rule.MaxBytes, strings.Join(l.Rule.MediaTypes, ", "))
	if err != nil {
		return service.Document{}, err
	}
	media, _, err := mime.ParseMediaType(a.ContentType)
	if a.Status != http.StatusOK || err != nil || !slices.Contains(l.Rule.MediaTypes, media) {
		return service.Document{}, &Error{Cause: CauseDocument, Asked: true, text: "status " + strconv.Itoa(a.Status) + " or a media type that the definition doesn't list"}
	}
	return service.Document{MediaType: media, SHA256: sha256.Sum256(a.Body), Content: a.Body}, nil
}

func hostOf(u *url.URL) string {
	if u.Scheme == "https" && u.Port() == "443" {
		return u.Hostname()
	}
	return u.Host
}
