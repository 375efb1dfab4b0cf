package policy

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Errors that callers distinguish; every error of this package wraps one of them. None holds a value of an input.
var (
	// ErrInput: the input or agreement has no canonical form. It was not evaluated: there is nothing to record; correct the caller.
	ErrInput = errors.New("not a valid decision input")
	// ErrBundle: the bundle cannot be used (not code alone, does not compile, fails its tests). The bundle in force stays in force.
	ErrBundle = errors.New("not a usable policy bundle")
	// ErrEvaluation: the bundle gave no well-formed decision. The decision that comes with it is a refusal with code policy.error:
	// record it, and have the bundle corrected.
	ErrEvaluation = errors.New("the policy gave no decision")
	// ErrUnavailable: nothing was decided, because the caller gave up or the evaluation reached its time limit. Release nothing; try again.
	ErrUnavailable = errors.New("no policy decision was made")
	// ErrActivation: the bundle is usable but Config.Activate failed, so it is not in force. Repair what Activate needs; Retry or a Reload takes it up then.
	ErrActivation = errors.New("the policy bundle could not be activated")
)

// Identifiers. Each but SIRET is a token, `[a-z0-9][a-z0-9._-]{0,63}`.
type (
	// AgencyID names a public body that asks.
	AgencyID string
	// ProviderID names a public body that answers.
	ProviderID string
	// ServiceID names a data service of a provider.
	ServiceID string
	// AgreementID names an agreement (habilitation).
	AgreementID string
	// Scope names a group of fields of a service.
	Scope string
	// Purpose names what the data is asked for.
	Purpose string
	// LegalBasis names the text that allows asking.
	LegalBasis string
	// SubjectType is one of the types of docs/formats.md, section 5.
	SubjectType string
	// Channel is the way the request came in.
	Channel string
	// Code is the stable name of a reason to refuse, e.g. "agreement.revoked".
	Code string
	// SIRET names an establishment of a French organisation: 14 digits. In an input it may be empty or wrong, which is
	// then a reason to refuse.
	SIRET string
	// Pointer is a JSON pointer (RFC 6901) to a field of a service's answer; never the empty pointer.
	Pointer string
	// Obligation is something that the broker must do with what is granted.
	Obligation string
)

// ChannelAPI is the HTTP interface of the broker.
const ChannelAPI Channel = "api"

// The obligations that the broker knows how to fulfil. A bundle that imposes another one grants nothing.
const (
	// ObligationNotifyPerson: tell the person at once, not only when they look.
	ObligationNotifyPerson Obligation = "notify_person"
	// ObligationWaitForWitnesses: release nothing on a provisional receipt.
	ObligationWaitForWitnesses Obligation = "wait_for_witnesses"
)

// CodePolicyError is the one reason that comes from the engine and not from the bundle: the bundle gave no well-formed
// decision.
const CodePolicyError Code = "policy.error"

func (o Obligation) known() bool {
	return o == ObligationNotifyPerson || o == ObligationWaitForWitnesses
}

// Digest is a SHA-256 digest.
type Digest [32]byte

// IsZero reports whether d is the zero digest, which stands for none.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns d in base64, as in log entries and records.
func (d Digest) String() string { return base64.StdEncoding.EncodeToString(d[:]) }

// Hex returns d in lower-case hexadecimal, as in the path of a blob.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// ServiceRef is one version of a service definition.
type ServiceRef struct {
	ID      ServiceID
	Version int64
}

// String returns `token@version`.
func (r ServiceRef) String() string { return ref(string(r.ID), r.Version) }

// AgreementRef is one version of an agreement. The zero value stands for no agreement.
type AgreementRef struct {
	ID      AgreementID
	Version int64
}

// IsZero reports whether r stands for no agreement.
func (r AgreementRef) IsZero() bool { return r == AgreementRef{} }

// String returns `token@version`, or nothing for no agreement.
func (r AgreementRef) String() string {
	if r.IsZero() {
		return ""
	}
	return ref(string(r.ID), r.Version)
}

func ref(id string, version int64) string { return id + "@" + strconv.FormatInt(version, 10) }

// Valid reports whether s is 14 digits with a right check digit (Luhn). The establishments of La Poste, SIREN 356000000, have
// numbers whose digits add up to a multiple of five instead.
// https://www.insee.fr/fr/metadonnees/definition/c1841
func (s SIRET) Valid() bool {
	if len(s) != 14 || !digits(string(s)) {
		return false
	}
	luhn, sum := 0, 0
	for i := range len(s) {
		d := int(s[i] - '0')
		sum += d
		if i%2 == 0 { // every second digit from the right, the last not counted
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		luhn += d
	}
	return luhn%10 == 0 && sum != 0 || s[:9] == "356000000" && sum%5 == 0
}

func digits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// isToken reports whether s is `[a-z0-9][a-z0-9._-]{0,63}`.
func isToken(s string) bool {
	if len(s) == 0 || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case i > 0 && (c == '.' || c == '_' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// maxPointer bounds a pointer, in bytes.
const maxPointer = 256

func (p Pointer) valid() bool {
	if len(p) == 0 || len(p) > maxPointer || p[0] != '/' || !isText(string(p)) {
		return false
	}
	for rest := string(p); ; {
		i := strings.IndexByte(rest, '~')
		if i < 0 {
			return true
		}
		if rest = rest[i+1:]; rest == "" || rest[0] != '0' && rest[0] != '1' { // RFC 6901, section 3
			return false
		}
	}
}

// isText reports whether s is UTF-8 without control characters.
func isText(s string) bool {
	ascii := true
	for i := range len(s) {
		switch c := s[i]; {
		case c < 0x20, c == 0x7f:
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	return ascii || utf8.ValidString(s)
}

func inputError(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrInput)
}
