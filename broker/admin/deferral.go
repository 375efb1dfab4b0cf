package admin

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/google/uuid"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// Delays is the part of [broker.Broker] that knows of lawful delays.
type Delays interface {
	Deferrals(ctx context.Context, after store.Seq) ([]broker.PendingDeferral, store.Seq, error)
	EndDeferral(ctx context.Context, id store.ID, reason string) (int, error)
}

var _ Delays = (*broker.Broker)(nil)

// Deferral is a disclosure of which its people learn later. It says nothing about whom it concerns.
type Deferral struct {
	Disclosure string    `json:"disclosure"`
	Authority  string    `json:"authority"`
	Article    string    `json:"article"`
	AskedAt    time.Time `json:"asked_at"`
	Until      time.Time `json:"until"`           // end of the delay
	Month      string    `json:"month"`           // by which the log says that it will be opened
	Index      uint64    `json:"log_index"`       // of the first of its entries
	Entries    int       `json:"entries"`         // of the disclosure
	Accesses   int       `json:"accesses"`        // to their records, deferred with them
	Overdue    bool      `json:"overdue"`         // the delay is over, and it isn't opened
	Ended      string    `json:"ended,omitempty"` // why it was ended before its time
}

// Deferrals is a page of them, in the order in which they were begun.
type Deferrals struct {
	Deferrals []Deferral `json:"deferrals"`
	Next      int64      `json:"next,omitempty"` // after of the next page
}

// EndCall ends a delay before its time.
type EndCall struct {
	Reason string `json:"reason"` // it stays in the broker and its log
}

// Opened answers it.
type Opened struct {
	Disclosure string `json:"disclosure"`
	Entries    int    `json:"entries"` // opened@v1
}

// delayCalls are the calls about lawful delays, if the broker has any.
func delayCalls(b Broker) map[string]call {
	d, ok := b.(Delays)
	if !ok {
		return nil
	}
	return map[string]call{
		"GET /deferrals": func(ctx context.Context, r *http.Request, _ []byte) (any, error) {
			after := int64(0)
			if s := r.URL.Query().Get("after"); s != "" {
				var err error
				if after, err = strconv.ParseInt(s, 10, 64); err != nil || after < 0 {
					return nil, bad("/after", "This is no place in the list.", "Give next of the page before.")
				}
			}
			list, next, err := d.Deferrals(ctx, store.Seq(after))
			if err != nil {
				return nil, err
			}
			out := Deferrals{Deferrals: []Deferral{}, Next: int64(next)}
			for _, p := range list {
				out.Deferrals = append(out.Deferrals, Deferral{
					uuid.UUID(p.Disclosure).String(), p.Authority, p.Article, p.AskedAt, p.Until, p.Month, uint64(p.Index), p.Entries, p.Accesses, p.Overdue, p.Ended,
				})
			}
			return out, nil
		},
		"POST /deferrals/{id}/end": func(ctx context.Context, r *http.Request, body []byte) (any, error) {
			var in EndCall
			if err := decode(body, &in); err != nil {
				return nil, err
			}
			id, err := uuid.Parse(r.PathValue("id"))
			if err != nil || id.String() != r.PathValue("id") {
				return nil, bad("/disclosure", "This is not the id of a disclosure.", "Give it as regard deferral list prints it.")
			}
			n, err := d.EndDeferral(ctx, store.ID(id), in.Reason)
			return Opened{id.String(), n}, err
		},
	}
}

// Deferrals lists the delays that aren't over.
func (c *Client) Deferrals(ctx context.Context) ([]Deferral, error) {
	all := []Deferral{}
	for after := int64(0); ; {
		page, err := get[Deferrals](ctx, c, "/deferrals?"+url.Values{"after": {strconv.FormatInt(after, 10)}}.Encode())
		if err != nil {
			return nil, err
		}
		all = append(all, page.Deferrals...)
		if page.Next <= after {
			return all, nil
		}
		after = page.Next
	}
}

// EndDeferral ends the delay of a disclosure before its time: its people can see it then.
func (c *Client) EndDeferral(ctx context.Context, disclosure string, in EndCall) (Opened, error) {
	return post[Opened](ctx, c, in, "deferrals", disclosure, "end")
}
