package fsck

import (
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// govern follows what entries say in clear.
func (r *Rules) govern(i proof.Index, place string, e proof.Entry, found func(Finding), claim func(Claim)) {
	switch e := e.(type) {
	case proof.Deferred:
		put(&r.Deferred, i, Deferral{e.Commitment, e.Month})
	case proof.Opened:
		d, ok := r.Deferred[e.Deferred]
		switch {
		case !ok && r.Epoch.Gap:
		case !ok:
			found(finding(OpenedReference, place, "entry %d is no open deferred@v1", e.Deferred))
			return
		case d.Commitment != e.Commitment:
			found(finding(OpenedReference, place, "it doesn't have the commitment of entry %d", e.Deferred))
			return
		}
		delete(r.Deferred, e.Deferred)
		if ok && r.Epoch.Opened >= monthEnd(d.Month) {
			found(finding(DeferredOverdue, place, "the delay of entry %d was until %s and ended in an epoch that opened at %s", e.Deferred, d.Month, r.Epoch.Opened.Time()))
		}
	case proof.PolicyActivated:
		claim(Claim{At: i, Blob: e.Bundle})
	case proof.AgreementChanged:
		claim(Claim{At: i, Blob: e.Digest})
		if old, ok := r.Agreements[e.Agreement]; ok && e.Version <= old.Version {
			found(finding(GovernanceVersion, place, "version %d of agreement %s comes after version %d", e.Version, e.Agreement, old.Version))
			return
		}
		put(&r.Agreements, e.Agreement, Version{e.Version, e.Digest})
	case proof.ServiceChanged: // withdrawing a version and bringing it back leaves the number
		claim(Claim{At: i, Blob: e.Digest})
		old, ok := r.Services[e.Service]
		if ok && (e.Version < old.Version || e.Version == old.Version && e.Digest != old.Digest) {
			found(finding(GovernanceVersion, place, "version %d of service %s comes after version %d, which was something else", e.Version, e.Service, old.Version))
			return
		}
		put(&r.Services, e.Service, Version{e.Version, e.Digest})
	case proof.KeyChanged:
		r.key(place, e, found)
	case proof.Restart:
		text := "reason " + e.Reason + ", nothing lost"
		if !e.Lost.IsZero() {
			text = "reason " + e.Reason + ", details lost of entries " + e.Lost.From.String() + " to " + e.Lost.To.String()
		}
		found(finding(RestartSeen, place, "%s", text))
		if e.Size > uint64(i) {
			found(finding(RestartRoot, place, "it names a tree of size %d and stands before its end", e.Size))
			return
		}
		claim(Claim{At: i, Restart: &e})
		if !e.Lost.IsZero() {
			r.Lost = append(r.Lost, e.Lost)
		}
	case proof.Audit:
		if e.To >= i {
			found(finding(AuditRange, place, "it covers entries up to %d and stands before", e.To))
			return
		}
		claim(Claim{At: i, Audit: &e})
	}
}

// key checks what the log says of a key against what it said before, and against the retention that was promised.
func (r *Rules) key(place string, e proof.KeyChanged, found func(Finding)) {
	name := e.Key + " " + e.Public.String()
	old, known := r.Keys[name]
	next := Key{e.State, max(old.Until, e.Until)}
	gap := r.Epoch.Gap && !known
	switch {
	case e.State == proof.Active && known && old.State != proof.Active:
		found(finding(KeyState, place, "key %s comes back after it was %s", e.Key, old.State))
	case e.State != proof.Active && !known && !gap:
		found(finding(KeyState, place, "key %s is %s and was never active", e.Key, e.State))
	case known && old.State == proof.Destroyed:
		found(finding(KeyState, place, "key %s is %s after it was destroyed", e.Key, e.State))
	}
	if e.State == proof.Destroyed && (e.Use == proof.UseRecord || e.Use == proof.UseLabel) && !gap {
		switch {
		case next.Until == 0:
			found(finding(KeyPromise, place, "key %s is destroyed and no retention was promised for it", e.Key))
		case r.Epoch.Opened < next.Until:
			found(finding(KeyPromise, place, "key %s is destroyed in an epoch that opened at %s; retention was promised until %s", e.Key, r.Epoch.Opened.Time(), next.Until.Time()))
		}
	}
	put(&r.Keys, name, next)
	if e.Use == proof.UseLabel {
		delete(r.Untold, e.Public)
		if e.State == proof.Destroyed && e.Public == r.Epoch.VRF {
			found(finding(MarkerKey, place, "key %s is destroyed and makes the labels of the open epoch", e.Key))
		}
	}
}

// toldWithin is how long after its first marker a key may be told, where epochs are shorter than that; otherwise it is until that epoch is closed.
const toldWithin = proof.Time(time.Hour / time.Millisecond)

// labels compares the key of a marker with what the log says of keys: labels that a key makes which nobody was told of prove nothing about any month's retention.
func (r *Rules) labels(i proof.Index, m proof.Marker, before *Stretch, found func(Finding)) {
	for public, u := range r.Untold {
		if m.Opened >= u.Opened+toldWithin {
			found(finding(MarkerKey, "entry "+u.Marker.String(), "no key@v1 entry says that its key %s makes labels", public))
			delete(r.Untold, public)
		}
	}
	public := proof.Hash(m.VRF)
	if before != nil && before.VRF == public {
		return
	}
	told := false
	for name, k := range r.Keys {
		if !strings.HasPrefix(name, string(proof.UseLabel)+".") || !strings.HasSuffix(name, " "+public.String()) {
			continue
		}
		if told = true; k.State == proof.Destroyed {
			found(finding(MarkerKey, "entry "+i.String(), "its key %s was destroyed before", public))
		}
	}
	if !told {
		put(&r.Untold, public, Untold{i, m.Opened})
	}
}

// Overdue returns the log indexes of delays whose month is over at a time, in order. Those whose details were lost can't be ended any more and don't count.
func (r *Rules) Overdue(now proof.Time) []proof.Index {
	var out []proof.Index
	for i, d := range r.Deferred {
		lost := slices.ContainsFunc(r.Lost, func(l proof.Lost) bool { return l.Explains(i, proof.KindDeferred) })
		if !lost && now >= monthEnd(d.Month) {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out
}

// monthEnd returns the end of a month, UTC.
func monthEnd(month string) proof.Time {
	t, err := time.Parse("2006-01", month)
	if err != nil {
		return 0 // the parser of entries admits no other
	}
	return proof.TimeOf(t.AddDate(0, 1, 0))
}

func put[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = map[K]V{}
	}
	(*m)[k] = v
}
