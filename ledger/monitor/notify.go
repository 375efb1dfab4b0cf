package monitor

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
)

// Webhook is where events are sent: by POST, as JSON, in their order, each until it is answered with 2xx. One that was being sent when the monitor was killed may come twice.
//
// The header Regard-Signature is "sha256=" and the lower-case hex HMAC-SHA256, under the secret, of the header Regard-Timestamp (seconds since 1970), a dot, and the body.
type Webhook struct {
	URL    string
	Secret []byte // at least 32 bytes
	// Client; nil means one of its own, which follows no redirect.
	Client *http.Client
	// Pause before a second attempt, which doubles; 0 means a second. There are four attempts; what fails is sent after the next look.
	Pause time.Duration
}

// Check reports what is wrong with it.
func (w *Webhook) Check() error {
	u, err := url.Parse(w.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return errors.New("the webhook is not an http(s) address")
	}
	if len(w.Secret) < 32 {
		return errors.New("the webhook's secret needs 32 bytes or more")
	}
	return nil
}

// Sign returns the value of Regard-Signature.
func Sign(secret []byte, timestamp string, body []byte) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(timestamp))
	h.Write([]byte{'.'})
	h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// Deliver sends to the webhook what wasn't sent yet. An error means that some of it waits.
func (m *Monitor) Deliver(ctx context.Context) error {
	if m.cfg.Webhook == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.show()
	for b := &m.state.Book; len(b.Events) > 0; {
		if err := m.cfg.Webhook.send(ctx, b.Events[0]); err != nil {
			return fmt.Errorf("sending alarms: %d wait: %w", len(b.Events), err)
		}
		b.Events = b.Events[1:]
		if err := m.save(); err != nil {
			return err
		}
	}
	return nil
}

var errAnswer = errors.New("the webhook refused it")

func (w *Webhook) send(ctx context.Context, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	client := w.Client
	if client == nil {
		client = &http.Client{Timeout: 15 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	pause := w.Pause
	if pause == 0 {
		pause = time.Second
	}
	retry := retrypolicy.NewBuilder[any]().WithMaxAttempts(4).WithBackoff(pause, 8*pause).ReturnLastFailure().Build()
	return failsafe.With(retry).WithContext(ctx).Run(func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(body))
		if err != nil {
			return err
		}
		stamp := strconv.FormatInt(time.Now().Unix(), 10)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("User-Agent", "regard-audit")
		req.Header.Set("Regard-Timestamp", stamp)
		req.Header.Set("Regard-Signature", Sign(w.Secret, stamp, body))
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection can be used again
		if res.StatusCode/100 != 2 {
			return fmt.Errorf("%w: it answered %d", errAnswer, res.StatusCode)
		}
		return nil
	})
}
