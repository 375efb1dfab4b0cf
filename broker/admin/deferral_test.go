package admin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/store"
)

// Deferrals implements Delays: two pages.
func (f *fake) Deferrals(_ context.Context, after store.Seq) ([]broker.PendingDeferral, store.Seq, error) {
	p := broker.PendingDeferral{Disclosure: store.ID{15: byte(after + 1)}, Authority: "Tribunal", Article: "CPP art. 60-1", AskedAt: time.Unix(1, 0).UTC(), Until: time.Unix(2, 0).UTC(), Month: "2026-11", Entries: 2, Accesses: 1, Index: 7, Overdue: true, Ended: "lifted"}
	if after == 0 {
		return []broker.PendingDeferral{p}, 5, f.err
	}
	return []broker.PendingDeferral{p}, 0, f.err
}

// EndDeferral implements Delays.
func (f *fake) EndDeferral(_ context.Context, id store.ID, reason string) (int, error) {
	f.calls = append(f.calls, "end "+string(id[15:])+" "+reason)
	return 4, f.err
}

func TestDeferralCalls(t *testing.T) {
	f, c, _, log := start(t)
	list, err := c.Deferrals(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	want := Deferral{"00000000-0000-0000-0000-000000000001", "Tribunal", "CPP art. 60-1", time.Unix(1, 0).UTC(), time.Unix(2, 0).UTC(), "2026-11", 7, 2, 1, true, "lifted"}
	if d := cmp.Diff(want, list[0]); d != "" || list[1].Disclosure != "00000000-0000-0000-0000-000000000006" {
		t.Error(d, list[1])
	}
	o, err := c.EndDeferral(t.Context(), "00000000-0000-0000-0000-000000000041", EndCall{Reason: "order lifted"})
	if err != nil || o != (Opened{"00000000-0000-0000-0000-000000000041", 4}) {
		t.Errorf("%+v, %v", o, err)
	}
	if d := cmp.Diff([]string{"end A order lifted"}, f.calls); d != "" {
		t.Error(d)
	}
	for _, id := range []string{"x", "00000000-0000-0000-0000-00000000004", "00000000-0000-0000-0000-00000000000A", "{00000000-0000-0000-0000-000000000041}"} {
		var e *Error
		if _, err := c.EndDeferral(t.Context(), id, EndCall{Reason: "r"}); !errors.As(err, &e) || e.Status != 400 || e.Parameter != "/disclosure" {
			t.Errorf("%s: %v", id, err)
		}
	}
	for _, after := range []string{"x", "-1", "1e3"} {
		var e *Error
		if _, err := get[Deferrals](t.Context(), c, "/deferrals?after="+after); !errors.As(err, &e) || e.Parameter != "/after" {
			t.Errorf("after=%s: %v", after, err)
		}
	}
	if _, err := post[Opened](t.Context(), c, []byte(`{"reason":"r","who":"x"}`), "deferrals", "00000000-0000-0000-0000-000000000041", "end"); err == nil {
		t.Error("an unknown member is ignored")
	}
	if strings.Contains(log.String(), "order lifted") {
		t.Error("the administration's log repeats the reason")
	}
	f.err = &broker.Problem{Status: 404, Code: "deferral.unknown", Title: "There is no such delay."}
	var e *Error
	if _, err := c.EndDeferral(t.Context(), "00000000-0000-0000-0000-000000000041", EndCall{Reason: "r"}); !errors.As(err, &e) || e.Code != "deferral.unknown" {
		t.Error(err)
	}
}
