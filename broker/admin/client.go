package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// ErrNotRunning: no broker answers on the socket. Start it.
var ErrNotRunning = errors.New("no broker runs there: start it with regard serve")

// Error is a call that the broker refused.
type Error struct {
	Status    int    `json:"status"`
	Code      string `json:"code"`
	Title     string `json:"title"`
	Detail    string `json:"detail,omitempty"`
	Parameter string `json:"parameter,omitempty"`
	Cause     string `json:"cause,omitempty"`
}

func (e *Error) Error() string {
	s := e.Title
	if e.Parameter != "" {
		s = e.Parameter + ": " + s
	}
	if e.Detail != "" {
		s += " " + e.Detail
	}
	if e.Cause != "" && !strings.Contains(s, e.Cause) {
		s += " (" + e.Cause + ")"
	}
	return s
}

// maxAnswer bounds an answer: the largest is a history in base64.
const maxAnswer = proof.MaxHistory/3*4 + 1<<20

// Client calls a broker. It is safe for concurrent use.
type Client struct {
	socket string
	http   *http.Client
}

// NewClient for the broker with this socket; it connects at the first call.
func NewClient(socket string) *Client {
	return &Client{socket, &http.Client{Timeout: 2 * time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	switch v := in.(type) {
	case nil:
	case []byte:
		body = v
	default:
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://broker"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		var syserr syscall.Errno
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.As(err, &syserr) && syserr == syscall.ECONNREFUSED:
			return fmt.Errorf("%s: %w", c.socket, ErrNotRunning)
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("%s: permission denied: run this as the broker's user or as root (you are uid %d)", c.socket, os.Geteuid())
		case errors.Is(err, io.EOF), errors.As(err, &syserr) && (syserr == syscall.ECONNRESET || syserr == syscall.EPIPE):
			return fmt.Errorf("%s: the broker hung up: run this as the broker's user or as root (you are uid %d)", c.socket, os.Geteuid())
		}
		var uerr *url.Error
		if errors.As(err, &uerr) {
			err = uerr.Err
		}
		return fmt.Errorf("calling the broker on %s: %w", c.socket, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the broker's answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		e := &Error{Status: res.StatusCode, Title: "The broker refused."}
		if json.Unmarshal(b, e) != nil || e.Title == "" {
			e.Title, e.Detail = "The broker doesn't know this call.", "Use a regard command of the broker's version."
		}
		return e
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("the broker's answer is not understood (use a regard command of its version): %w", err)
	}
	return nil
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	return out, c.do(ctx, http.MethodGet, path, nil, &out)
}

func post[T any](ctx context.Context, c *Client, in any, path ...string) (T, error) {
	var p strings.Builder
	for _, s := range path {
		p.WriteString("/" + url.PathEscape(s))
	}
	var out T
	return out, c.do(ctx, http.MethodPost, p.String(), in, &out)
}

// Status of the broker.
func (c *Client) Status(ctx context.Context) (Status, error) { return get[Status](ctx, c, "/status") }

// Agencies by id.
func (c *Client) Agencies(ctx context.Context) ([]Agency, error) {
	return get[[]Agency](ctx, c, "/agencies")
}

// AddAgency registers an agency.
func (c *Client) AddAgency(ctx context.Context, a NewAgency) (Done, error) {
	return post[Done](ctx, c, a, "agencies")
}

// RotateAgency replaces an agency's certificate.
func (c *Client) RotateAgency(ctx context.Context, id string, r Rotation) (Done, error) {
	return post[Done](ctx, c, r, "agencies", id, "rotate")
}

// RevokeAgency ends all that an agency may do.
func (c *Client) RevokeAgency(ctx context.Context, id string) (Done, error) {
	return post[Done](ctx, c, nil, "agencies", id, "revoke")
}

// Agreements by id, the newest version of each.
func (c *Client) Agreements(ctx context.Context) ([]Agreement, error) {
	return get[[]Agreement](ctx, c, "/agreements")
}

// PutAgreement puts an agreement, or its next version, in force.
func (c *Client) PutAgreement(ctx context.Context, a Agreement) (Done, error) {
	return post[Done](ctx, c, a, "agreements")
}

// RevokeAgreement ends an agreement.
func (c *Client) RevokeAgreement(ctx context.Context, id string) (Done, error) {
	return post[Done](ctx, c, nil, "agreements", id, "revoke")
}

// Services by id.
func (c *Client) Services(ctx context.Context) ([]Service, error) {
	return get[[]Service](ctx, c, "/services")
}

// PutService puts a definition in force.
func (c *Client) PutService(ctx context.Context, yaml []byte) (Done, error) {
	return post[Done](ctx, c, yaml, "services")
}

// WithdrawService ends a service.
func (c *Client) WithdrawService(ctx context.Context, id string) (Done, error) {
	return post[Done](ctx, c, nil, "services", id, "withdraw")
}

// Policy in force.
func (c *Client) Policy(ctx context.Context) (Policy, error) { return get[Policy](ctx, c, "/policy") }

// ReloadPolicy reads the bundle anew.
func (c *Client) ReloadPolicy(ctx context.Context) (Policy, error) {
	return post[Policy](ctx, c, nil, "policy", "reload")
}

// History shows what the log holds about one identifier of a person. Every record that is opened for it is logged before.
func (c *Client) History(ctx context.Context, q HistoryQuery) (History, error) {
	return post[History](ctx, c, q, "history")
}

// HistoryFile makes a person's complete history. Every record that is opened for it is logged before.
func (c *Client) HistoryFile(ctx context.Context, q HistoryFileQuery) (HistoryFile, error) {
	return post[HistoryFile](ctx, c, q, "history", "file")
}

// Erase destroys the keys of one identifier of a person; there is no way back.
func (c *Client) Erase(ctx context.Context, q ErasureOrder) (Erased, error) {
	return post[Erased](ctx, c, q, "erase")
}
