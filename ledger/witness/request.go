package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strconv"
)

// errMalformed: what came is no add-checkpoint request (400).
var errMalformed = errors.New("witness: malformed request")

const (
	maxRequest = 16 << 10 // the core's own bound: proof and checkpoint need 4 KiB
	maxProof   = 63
)

// request is the body of add-checkpoint.
type request struct {
	old   uint64
	proof [][32]byte
	note  []byte
	head  head
}

// parseRequest reads a body in the one form that it may have.
func parseRequest(b []byte) (*request, error) {
	line, rest, ok := bytes.Cut(b, []byte{'\n'})
	num, isOld := bytes.CutPrefix(line, []byte("old "))
	if !ok || !isOld {
		return nil, errMalformed
	}
	r := &request{}
	if r.old, ok = parseSize(num); !ok {
		return nil, errMalformed
	}
	for {
		if line, rest, ok = bytes.Cut(rest, []byte{'\n'}); !ok {
			return nil, errMalformed
		}
		if len(line) == 0 {
			break
		}
		h, ok := parseHash(line)
		if !ok || len(r.proof) == maxProof {
			return nil, errMalformed
		}
		r.proof = append(r.proof, h)
	}
	r.note = rest
	var err error
	r.head, err = parseHead(rest)
	if err != nil {
		return nil, err
	}
	if r.old > r.head.size {
		return nil, errMalformed
	}
	return r, nil
}

// head is what a checkpoint says (c2sp.org/tlog-checkpoint).
type head struct {
	origin string
	size   uint64
	root   string // base64
}

// parseHead reads the text of a signed checkpoint, without looking at the signatures. Extension lines are the log's business.
func parseHead(n []byte) (head, error) {
	text, _, ok := bytes.Cut(n, []byte("\n\n"))
	lines := bytes.Split(text, []byte{'\n'})
	if !ok || len(lines) < 3 || !isOrigin(string(lines[0])) {
		return head{}, errMalformed
	}
	size, ok := parseSize(lines[1])
	if !ok {
		return head{}, errMalformed
	}
	if _, ok := parseHash(lines[2]); !ok {
		return head{}, errMalformed
	}
	return head{string(lines[0]), size, string(lines[2])}, nil
}

// parseSize: decimal without leading zeros, less than 2^63.
func parseSize(b []byte) (uint64, bool) {
	n, err := strconv.ParseUint(string(b), 10, 63)
	return n, err == nil && strconv.FormatUint(n, 10) == string(b)
}

// parseHash: 32 bytes in the one base64 spelling.
func parseHash(b []byte) (h [32]byte, ok bool) {
	if len(b) != base64.StdEncoding.EncodedLen(32) || bytes.ContainsAny(b, "\r\n") {
		return h, false
	}
	var raw [33]byte // what 44 characters may decode to
	n, err := base64.StdEncoding.Strict().Decode(raw[:], b)
	return [32]byte(raw[:32]), err == nil && n == 32
}
