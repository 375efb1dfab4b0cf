package proof

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"golang.org/x/mod/sumdb/note"
)

const indexAuditHeader = "regard/index-audit@v1"

// IndexAudit is what an accredited auditor states about the index of a closed
// epoch: they had all its rolls opened, found every filed entry of the epoch in
// exactly one of them, and computed the index root that the marker states.
type IndexAudit struct {
	Origin  string
	Epoch   Epoch
	Marker  Index  // log index of the marker that closes the epoch
	Root    Hash   // of the index
	Items   uint64 // rolls
	Entries uint64 // filed entries, each in one of them
}

// AppendText appends the text that the auditor signs.
func (a IndexAudit) AppendText(b []byte) ([]byte, error) {
	out := append(b, indexAuditHeader+"\norigin "...)
	out = append(out, a.Origin...)
	out = append(out, '\n')
	out = appendUintLine(out, "epoch", uint64(a.Epoch))
	out = appendUintLine(out, "marker", uint64(a.Marker))
	out = append(out, "index "...)
	out = appendHash(out, (*[32]byte)(&a.Root))
	out = append(out, '\n')
	out = appendUintLine(out, "items", a.Items)
	out = appendUintLine(out, "entries", a.Entries)
	if _, err := parseIndexAudit(out[len(b):]); err != nil {
		return b, err
	}
	return out, nil
}

func parseIndexAudit(text []byte) (a IndexAudit, err error) {
	l := lines{what: "index audit", rest: text}
	head, err := l.next()
	if err != nil {
		return a, err
	}
	if string(head) != indexAuditHeader {
		return a, l.errorf("want %s", indexAuditHeader)
	}
	origin, err := l.value("origin")
	if err != nil {
		return a, err
	}
	if !isKeyName(string(origin)) {
		return a, l.errorf("origin is not a key name")
	}
	a.Origin = string(origin)
	for _, f := range []struct {
		key string
		to  *uint64
	}{{"epoch", (*uint64)(&a.Epoch)}, {"marker", (*uint64)(&a.Marker)}} {
		if *f.to, err = l.uint(f.key); err != nil {
			return IndexAudit{}, err
		}
	}
	if a.Root, err = l.hash("index"); err != nil {
		return IndexAudit{}, err
	}
	if a.Items, err = l.uint("items"); err != nil {
		return IndexAudit{}, err
	}
	if a.Entries, err = l.uint("entries"); err != nil {
		return IndexAudit{}, err
	}
	if a.Marker == 0 || a.Items > a.Entries {
		return IndexAudit{}, l.errorf("no epoch is closed by index 0, and no roll is empty")
	}
	return a, l.end()
}

// VerifyIndexAudit verifies a signed note (c2sp.org/signed-note) of one auditor,
// whose Ed25519 verification key is given in its text form. It holds exactly
// one signature, that key's.
func VerifyIndexAudit(signed []byte, vkey string) (IndexAudit, error) {
	a, _, err := SplitIndexAudit(signed, vkey)
	return a, err
}

// SplitIndexAudit verifies as VerifyIndexAudit does, and returns the signature
// as it stands in the note, with the key id before it: a HistoryAudit holds no
// more.
func SplitIndexAudit(signed []byte, vkey string) (IndexAudit, []byte, error) {
	if len(signed) > maxNote || !isText(signed, true) {
		return IndexAudit{}, nil, formatError("index audit: too long, control characters or invalid UTF-8")
	}
	at := bytes.Index(signed, noteSplit)
	if at < 0 {
		return IndexAudit{}, nil, formatError("index audit: no empty line before the signature")
	}
	a, err := parseIndexAudit(signed[:at+1])
	if err != nil {
		return IndexAudit{}, nil, err
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return IndexAudit{}, nil, formatError("index audit: the auditor's key is not an Ed25519 vkey")
	}
	l := lines{what: "index audit", rest: signed[at+2:], n: 8}
	line, err := l.next()
	if err != nil {
		return IndexAudit{}, nil, err
	}
	name, id, sig, err := parseSignature(&l, line)
	if err != nil {
		return IndexAudit{}, nil, err
	}
	if err := l.end(); err != nil {
		return IndexAudit{}, nil, err
	}
	if name != v.Name() || id != v.KeyHash() || !v.Verify(signed[:at+1], sig) {
		return IndexAudit{}, nil, fmt.Errorf("index audit: not signed by the auditor's key: %w", ErrSignature)
	}
	return a, append(u32(nil, id), sig...), nil
}

// Agrees reports whether a speaks of the index that the marker, at its place in
// the log of the given origin, states of the epoch it closes.
func (a IndexAudit) Agrees(origin string, closing Marker) bool {
	c := closing.Closed
	return c != nil && a.Origin == origin && a.Epoch+1 == closing.Epoch && a.Marker == closing.At() && a.Root == c.Index && a.Items == c.Items
}

// AuditorKey returns what a key@v1 entry with use auditor states as public: the
// SHA-256 of the verification key's text.
func AuditorKey(vkey string) Hash { return sha256.Sum256([]byte(vkey)) }
