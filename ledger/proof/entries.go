package proof

import (
	"bytes"
	"strings"
	"time"
)

// Disclosure is one person's part of one data request.
type Disclosure struct {
	Epoch      Epoch
	Commitment Commitment
}

func (Disclosure) Kind() Kind                { return KindDisclosure }
func (d Disclosure) In() Epoch               { return d.Epoch }
func (d Disclosure) WithEpoch(e Epoch) Entry { d.Epoch = e; return d }
func (d Disclosure) AppendText(b []byte) ([]byte, error) {
	return appendCommitted(b, KindDisclosure, d.Epoch, d.Commitment)
}

// Access says that someone opened a record.
type Access struct {
	Epoch      Epoch
	Commitment Commitment
}

func (Access) Kind() Kind                { return KindAccess }
func (a Access) In() Epoch               { return a.Epoch }
func (a Access) WithEpoch(e Epoch) Entry { a.Epoch = e; return a }
func (a Access) AppendText(b []byte) ([]byte, error) {
	return appendCommitted(b, KindAccess, a.Epoch, a.Commitment)
}

// Erasure says that a person's key was destroyed.
type Erasure struct {
	Epoch      Epoch
	Commitment Commitment
}

func (Erasure) Kind() Kind                { return KindErasure }
func (x Erasure) In() Epoch               { return x.Epoch }
func (x Erasure) WithEpoch(e Epoch) Entry { x.Epoch = e; return x }
func (x Erasure) AppendText(b []byte) ([]byte, error) {
	return appendCommitted(b, KindErasure, x.Epoch, x.Commitment)
}

// Opened ends a lawful delay: it files what a Deferred entry had committed to.
type Opened struct {
	Epoch      Epoch
	Deferred   Index // of the Deferred entry
	Commitment Commitment
}

func (Opened) Kind() Kind                { return KindOpened }
func (o Opened) In() Epoch               { return o.Epoch }
func (o Opened) WithEpoch(e Epoch) Entry { o.Epoch = e; return o }
func (o Opened) AppendText(b []byte) ([]byte, error) {
	if o.Commitment.IsZero() || o.Deferred > maxInt {
		return b, formatError("%s: commitment not set or index above 2^63-1", KindOpened)
	}
	out, err := appendHead(b, KindOpened, o.Epoch)
	if err != nil {
		return b, err
	}
	out = appendUintLine(out, "deferred", uint64(o.Deferred))
	return appendHashLine(out, "commitment", Hash(o.Commitment)), nil
}

func parseOpened(epoch Epoch, l *lines) (Entry, error) {
	d, err := l.uint("deferred")
	if err != nil {
		return nil, err
	}
	c, err := l.hash("commitment")
	return Opened{epoch, Index(d), Commitment(c)}, err
}

// maxClause bounds the free text of a Deferred entry, in bytes.
const maxClause = 200

// Deferred is a disclosure, or an access to the record of one, whose person learns
// of it later, at the latest in Month.
type Deferred struct {
	Epoch      Epoch
	Authority  string // who ordered the delay: 1 to 200 bytes of text
	Article    string // of the law that allows it: 1 to 200 bytes of text
	Month      string // YYYY-MM
	Commitment Commitment
}

func (Deferred) Kind() Kind                { return KindDeferred }
func (d Deferred) In() Epoch               { return d.Epoch }
func (d Deferred) WithEpoch(e Epoch) Entry { d.Epoch = e; return d }
func (d Deferred) AppendText(b []byte) ([]byte, error) {
	if !isClause(d.Authority) || !isClause(d.Article) || !isMonth(d.Month) || d.Commitment.IsZero() {
		return b, formatError("%s: authority, article, month or commitment not valid", KindDeferred)
	}
	out, err := appendHead(b, KindDeferred, d.Epoch)
	if err != nil {
		return b, err
	}
	out = appendLine(out, "authority", d.Authority)
	out = appendLine(out, "article", d.Article)
	out = appendLine(out, "month", d.Month)
	return appendHashLine(out, "commitment", Hash(d.Commitment)), nil
}

// Over reports whether Month has passed at a time: by then the delay has to be ended.
func (d Deferred) Over(now Time) bool { return monthOver(d.Month, now) }

// End returns the first instant after Month.
func (d Deferred) End() Time {
	t, err := time.Parse("2006-01", d.Month)
	if err != nil {
		return 0 // no such entry is in a log
	}
	return TimeOf(t.AddDate(0, 1, 0))
}

func isClause(s string) bool {
	return s != "" && len(s) <= maxClause && s[0] != ' ' && s[len(s)-1] != ' ' && isText([]byte(s), false)
}

func isMonth(s string) bool {
	return len(s) == 7 && isDate(s)
}

func parseDeferred(epoch Epoch, l *lines) (Entry, error) {
	d := Deferred{Epoch: epoch}
	for _, f := range []struct {
		key string
		dst *string
		ok  func(string) bool
	}{{"authority", &d.Authority, isClause}, {"article", &d.Article, isClause}, {"month", &d.Month, isMonth}} {
		v, err := l.value(f.key)
		if err != nil {
			return nil, err
		}
		*f.dst = string(v)
		if !f.ok(*f.dst) {
			return nil, l.errorf("%s is not valid", f.key)
		}
	}
	c, err := l.hash("commitment")
	d.Commitment = Commitment(c)
	return d, err
}

// PolicyActivated says that a policy bundle entered into force.
type PolicyActivated struct {
	Epoch    Epoch
	Revision string // token
	Bundle   Hash   // digest of the bundle: BundleDigest
}

func (PolicyActivated) Kind() Kind                { return KindPolicy }
func (p PolicyActivated) In() Epoch               { return p.Epoch }
func (p PolicyActivated) WithEpoch(e Epoch) Entry { p.Epoch = e; return p }
func (p PolicyActivated) AppendText(b []byte) ([]byte, error) {
	if !IsToken(p.Revision) || p.Bundle.IsZero() {
		return b, formatError("%s: revision or bundle not valid", KindPolicy)
	}
	out, err := appendHead(b, KindPolicy, p.Epoch)
	if err != nil {
		return b, err
	}
	return appendHashLine(appendLine(out, "revision", p.Revision), "bundle", p.Bundle), nil
}

func parsePolicyActivated(epoch Epoch, l *lines) (Entry, error) {
	rev, err := l.token("revision")
	if err != nil {
		return nil, err
	}
	h, err := l.hash("bundle")
	return PolicyActivated{epoch, rev, h}, err
}

// Status is the state that a governance entry announces.
type Status string

// The states. Which ones apply depends on the entry.
const (
	Active    Status = "active"
	Revoked   Status = "revoked"   // agreements and keys
	Withdrawn Status = "withdrawn" // services
	Retired   Status = "retired"   // keys
	Destroyed Status = "destroyed" // keys
)

// AgreementChanged says that an agreement entered into force or was revoked.
type AgreementChanged struct {
	Epoch     Epoch
	Agreement string // token
	Version   uint64 // from 1
	State     Status // Active or Revoked
	Digest    Hash   // of the agreement's canonical JSON
}

func (AgreementChanged) Kind() Kind                { return KindAgreement }
func (a AgreementChanged) In() Epoch               { return a.Epoch }
func (a AgreementChanged) WithEpoch(e Epoch) Entry { a.Epoch = e; return a }
func (a AgreementChanged) AppendText(b []byte) ([]byte, error) {
	return appendVersioned(b, KindAgreement, a.Epoch, "agreement", versioned{a.Agreement, a.Version, a.State, a.Digest}, Revoked)
}

func parseAgreementChanged(epoch Epoch, l *lines) (Entry, error) {
	v, err := parseVersioned(l, "agreement", Revoked)
	return AgreementChanged{epoch, v.name, v.version, v.state, v.digest}, err
}

// ServiceChanged says that a service definition entered into force or was
// withdrawn.
type ServiceChanged struct {
	Epoch   Epoch
	Service string // token
	Version uint64 // from 1
	State   Status // Active or Withdrawn
	Digest  Hash   // SHA-256 of the definition's YAML file
}

func (ServiceChanged) Kind() Kind                { return KindService }
func (s ServiceChanged) In() Epoch               { return s.Epoch }
func (s ServiceChanged) WithEpoch(e Epoch) Entry { s.Epoch = e; return s }
func (s ServiceChanged) AppendText(b []byte) ([]byte, error) {
	return appendVersioned(b, KindService, s.Epoch, "service", versioned{s.Service, s.Version, s.State, s.Digest}, Withdrawn)
}

func parseServiceChanged(epoch Epoch, l *lines) (Entry, error) {
	v, err := parseVersioned(l, "service", Withdrawn)
	return ServiceChanged{epoch, v.name, v.version, v.state, v.digest}, err
}

// versioned is what agreements and services have in common.
type versioned struct {
	name    string
	version uint64
	state   Status
	digest  Hash
}

func appendVersioned(b []byte, k Kind, e Epoch, key string, v versioned, ended Status) ([]byte, error) {
	if !IsToken(v.name) || v.version < 1 || v.version > maxInt || v.state != Active && v.state != ended || v.digest.IsZero() {
		return b, formatError("%s: name, version, state or digest not valid", k)
	}
	out, err := appendHead(b, k, e)
	if err != nil {
		return b, err
	}
	out = appendLine(out, key, v.name)
	out = appendUintLine(out, "version", v.version)
	out = appendLine(out, "state", string(v.state))
	return appendHashLine(out, "digest", v.digest), nil
}

func parseVersioned(l *lines, key string, ended Status) (v versioned, err error) {
	if v.name, err = l.token(key); err != nil {
		return v, err
	}
	if v.version, err = l.uint("version"); err != nil {
		return v, err
	}
	if v.version < 1 {
		return v, l.errorf("version is 0")
	}
	if v.state, err = l.status(Active, ended); err != nil {
		return v, err
	}
	v.digest, err = l.hash("digest")
	return v, err
}

func (l *lines) status(allowed ...Status) (Status, error) {
	s, err := l.value("state")
	if err != nil {
		return "", err
	}
	for _, a := range allowed {
		if string(s) == string(a) {
			return a, nil
		}
	}
	return "", l.errorf("state is not one of %q", allowed)
}

// KeyUse says what a key is for.
type KeyUse string

// The uses of keys.
const (
	UseCheckpoint KeyUse = "checkpoint" // Ed25519, signs checkpoints
	UseLabel      KeyUse = "label"      // VRF, makes labels
	UseRecord     KeyUse = "record"     // symmetric, seals administrative parts
	UseAgency     KeyUse = "agency"     // an agency's client certificate
	UseIntent     KeyUse = "intent"     // Ed25519, signs the intents that providers get
	UseAuditor    KeyUse = "auditor"    // of an auditor who cosigns indexes
)

// KeyChanged says that a key entered into force or left it.
type KeyChanged struct {
	Epoch  Epoch
	Key    string // "record.2026-11", "agency.mairie-lyon": the use, a dot and a month, version or name
	Use    KeyUse
	State  Status // Active, Retired, Revoked or Destroyed
	Public Hash   // the public key; for UseAgency the SHA-256 of the SubjectPublicKeyInfo, for UseAuditor of the verification key's text; zero (written "-") for UseRecord
	Until  Time   // end of the retention that was promised for it, 0 if none
}

func (KeyChanged) Kind() Kind                { return KindKey }
func (k KeyChanged) In() Epoch               { return k.Epoch }
func (k KeyChanged) WithEpoch(e Epoch) Entry { k.Epoch = e; return k }
func (k KeyChanged) AppendText(b []byte) ([]byte, error) {
	if !k.valid() {
		return b, formatError("%s: key, use, state, public or until not valid", KindKey)
	}
	switch k.State {
	case Active, Retired, Revoked, Destroyed:
	default:
		return b, formatError("%s: state not valid", KindKey)
	}
	out, err := appendHead(b, KindKey, k.Epoch)
	if err != nil {
		return b, err
	}
	out = appendLine(out, "key", k.Key)
	out = appendLine(out, "use", string(k.Use))
	out = appendLine(out, "state", string(k.State))
	if k.Public.IsZero() {
		out = append(out, "public -\n"...)
	} else {
		out = appendHashLine(out, "public", k.Public)
	}
	return appendUintLine(out, "until", uint64(k.Until)), nil
}

// valid checks key, use, public and until: a symmetric key has no public half
// and every other has one.
func (k KeyChanged) valid() bool {
	name, ok := strings.CutPrefix(k.Key, string(k.Use)+".")
	if !ok || !IsToken(k.Key) || k.Until < 0 || k.Public.IsZero() != (k.Use == UseRecord) {
		return false
	}
	switch k.Use {
	case UseRecord, UseLabel:
		return isMonth(name)
	case UseCheckpoint, UseIntent:
		n, ok := parseUint([]byte(name))
		return ok && n >= 1
	case UseAgency, UseAuditor:
		return IsToken(name)
	}
	return false
}

func parseKeyChanged(epoch Epoch, l *lines) (Entry, error) {
	k := KeyChanged{Epoch: epoch}
	var err error
	if k.Key, err = l.token("key"); err != nil {
		return nil, err
	}
	use, err := l.value("use")
	if err != nil {
		return nil, err
	}
	k.Use = KeyUse(use)
	if k.State, err = l.status(Active, Retired, Revoked, Destroyed); err != nil {
		return nil, err
	}
	public, err := l.value("public")
	if err != nil {
		return nil, err
	}
	if string(public) != "-" {
		if err := decodeB64(k.Public[:], public); err != nil {
			return nil, l.wrap(err)
		}
		if k.Public.IsZero() {
			return nil, l.errorf("public is zero")
		}
	}
	until, err := l.uint("until")
	if err != nil {
		return nil, err
	}
	k.Until = Time(until)
	if !k.valid() {
		return nil, l.errorf("key, use and public do not go together")
	}
	return k, nil
}

// Restart says that the operator restarted the log from a signed checkpoint.
type Restart struct {
	Epoch  Epoch
	Reason string // token
	Size   uint64 // of that checkpoint
	Root   Hash   // of that checkpoint
	Lost   Lost   // whose records are lost with a restored backup; zero for none
}

// Lost are the log indexes of a stretch of entries whose records the operator
// lost, both ends included. What the entries say themselves is not lost.
type Lost struct{ From, To Index }

// IsZero reports whether nothing is lost: index 0 is a marker.
func (x Lost) IsZero() bool { return x == Lost{} }

// Explains reports whether the loss explains that the record behind an entry
// can't be shown: its details are lost, its existence isn't.
func (x Lost) Explains(i Index, k Kind) bool {
	return !x.IsZero() && k.Schema() != 0 && x.From <= i && i <= x.To
}

func (Restart) Kind() Kind                { return KindRestart }
func (r Restart) In() Epoch               { return r.Epoch }
func (r Restart) WithEpoch(e Epoch) Entry { r.Epoch = e; return r }
func (r Restart) AppendText(b []byte) ([]byte, error) {
	if !r.valid() {
		return b, formatError("%s: reason, size, root or lost not valid", KindRestart)
	}
	out, err := appendHead(b, KindRestart, r.Epoch)
	if err != nil {
		return b, err
	}
	out = appendLine(out, "reason", r.Reason)
	out = appendUintLine(out, "size", r.Size)
	out = appendHashLine(out, "root", r.Root)
	if !r.Lost.IsZero() {
		out = appendUintLine(out, "lost "+r.Lost.From.String(), uint64(r.Lost.To))
	}
	return out, nil
}

func (r Restart) valid() bool {
	if !IsToken(r.Reason) || r.Size < 1 || r.Size > maxInt || r.Root.IsZero() {
		return false
	}
	return r.Lost.IsZero() || r.Lost.From >= 1 && r.Lost.From <= r.Lost.To && uint64(r.Lost.To) < r.Size
}

func parseRestart(epoch Epoch, l *lines) (Entry, error) {
	r := Restart{Epoch: epoch}
	var err error
	if r.Reason, err = l.token("reason"); err != nil {
		return nil, err
	}
	if r.Size, err = l.uint("size"); err != nil {
		return nil, err
	}
	if r.Root, err = l.hash("root"); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(l.rest, []byte("lost ")) {
		w, err := l.words("lost", 2)
		if err != nil {
			return nil, err
		}
		from, ok1 := parseUint(w[0])
		to, ok2 := parseUint(w[1])
		if r.Lost = (Lost{Index(from), Index(to)}); !ok1 || !ok2 || r.Lost.IsZero() {
			return nil, l.errorf("lost is not a range")
		}
	}
	if !r.valid() {
		return nil, l.errorf("size or lost is not valid")
	}
	return r, nil
}

// Audit says that an auditor was shown the administrative parts of erased
// people's records, of which nobody can be told in a roll any more. It covers
// whole closed epochs: a narrower range would point at somebody.
type Audit struct {
	Epoch   Epoch
	Auditor string // token
	From    Index  // of the first entry covered, a marker
	To      Index  // of the last entry covered, right before a later marker
	Reason  string // token
}

func (Audit) Kind() Kind                { return KindAudit }
func (a Audit) In() Epoch               { return a.Epoch }
func (a Audit) WithEpoch(e Epoch) Entry { a.Epoch = e; return a }
func (a Audit) AppendText(b []byte) ([]byte, error) {
	if !IsToken(a.Auditor) || a.From > a.To || a.To > maxInt || !IsToken(a.Reason) {
		return b, formatError("%s: auditor, from, to or reason not valid", KindAudit)
	}
	out, err := appendHead(b, KindAudit, a.Epoch)
	if err != nil {
		return b, err
	}
	out = appendLine(out, "auditor", a.Auditor)
	out = appendUintLine(out, "from", uint64(a.From))
	out = appendUintLine(out, "to", uint64(a.To))
	return appendLine(out, "reason", a.Reason), nil
}

func parseAudit(epoch Epoch, l *lines) (Entry, error) {
	auditor, err := l.token("auditor")
	if err != nil {
		return nil, err
	}
	from, err := l.uint("from")
	if err != nil {
		return nil, err
	}
	to, err := l.uint("to")
	if err != nil {
		return nil, err
	}
	if from > to {
		return nil, l.errorf("to is before from")
	}
	reason, err := l.token("reason")
	return Audit{epoch, auditor, Index(from), Index(to), reason}, err
}

// isDate reports whether s is YYYY-MM-DD, YYYY-MM or YYYY, and a day that
// exists (proleptic Gregorian, year 0001 to 9999).
func isDate(s string) bool {
	layout := "2006-01-02"
	if len(s) != 4 && len(s) != 7 && len(s) != 10 {
		return false
	}
	t, err := time.Parse(layout[:len(s)], s)
	return err == nil && t.Year() >= 1
}
