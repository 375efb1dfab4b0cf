package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

// brokerFlags say at which broker, and as whom, records and rolls are asked for.
type brokerFlags struct{ url, cert, key, ca string }

func (f *brokerFlags) flags(c *cobra.Command) {
	c.Flags().StringVar(&f.url, "broker", "", "address of the broker, https://host:port")
	c.Flags().StringVar(&f.cert, "cert", "", "your client certificate (PEM)")
	c.Flags().StringVar(&f.key, "key", "", "its private key (PEM)")
	c.Flags().StringVar(&f.ca, "ca", "", "certificates that the broker's must be signed by (PEM; default: those of the system)")
}

// broker is a broker's API, as an accredited auditor calls it.
type broker struct {
	base string
	http *http.Client
	wait func(context.Context, time.Duration) error
}

func (f *brokerFlags) open() (*broker, error) {
	u, err := url.Parse(f.url)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Path != "" && u.Path != "/" {
		return nil, errors.New("--broker has to be https://host:port")
	}
	if f.cert == "" || f.key == "" {
		return nil, errors.New("--cert and --key are needed: the broker knows auditors by their client certificate")
	}
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("reading your certificate: %w", err)
	}
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// The certificate is always sent: brokers name no authorities from which a client could choose.
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil },
	}
	if f.ca != "" {
		b, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, err
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s holds no certificate", f.ca)
		}
	}
	return &broker{
		base: "https://" + u.Host,
		http: &http.Client{
			Timeout:       2 * time.Minute,
			Transport:     &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: cfg, MaxIdleConnsPerHost: 1},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		wait: func(ctx context.Context, d time.Duration) error {
			select {
			case <-time.After(d):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		},
	}, nil
}

// refusal is a problem that the broker answered (RFC 9457).
type refusal struct {
	Status        int
	Code          string
	Title, Detail string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the broker refused (%d %s): %s %s", r.Status, r.Code, r.Title, r.Detail)
}

// attempts at a call while the broker is busy; longest is how long one pause may be, whatever the broker asks for.
const (
	attempts = 6
	longest  = time.Minute
)

// call sends a request and hands its body to f. A call that may be repeated without doing anything twice is.
func (b *broker) call(ctx context.Context, method, path, media string, body []byte, f func(io.Reader) error) error {
	key := ""
	if method == http.MethodPost {
		key = rand.Text()
	}
	for n := 1; ; n++ {
		pause, err := b.once(ctx, method, path, media, key, body, f)
		if pause == 0 || n == attempts {
			return err
		}
		if err := b.wait(ctx, min(pause, longest)); err != nil {
			return err
		}
	}
}

// once reports how long to wait if it is worth another try.
func (b *broker) once(ctx context.Context, method, path, media, key string, body []byte, f func(io.Reader) error) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.base+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", media)
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	req.Header.Set("Accept-Language", "en")
	res, err := b.http.Do(req)
	var unknown *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown): // it won't be another one in a second
		return 0, fmt.Errorf("calling the broker: %w. Is it the certificate that its operator gave you (--ca)?", err)
	case err != nil:
		return time.Second, fmt.Errorf("calling the broker: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return 0, f(res.Body)
	}
	r := &refusal{Status: res.StatusCode}
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil || json.Unmarshal(text, r) != nil || r.Code == "" {
		r.Code, r.Title = "none", "It isn't an answer of a broker's."
	}
	r.Status = res.StatusCode
	if r.Status != http.StatusTooManyRequests && r.Status != http.StatusServiceUnavailable {
		return 0, r
	}
	seconds, err := strconv.Atoi(res.Header.Get("Retry-After"))
	if err != nil || seconds < 1 {
		seconds = 1
	}
	return time.Duration(seconds) * time.Second, r
}

// refusalCode is the code with which the broker refused, or "".
func refusalCode(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.Code
	}
	return ""
}
