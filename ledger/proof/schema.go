package proof

import (
	"bytes"
	"fmt"
)

// Schema numbers the list of fields of a record. A schema never changes.
type Schema uint16

// The schemas.
const (
	SchemaDisclosure Schema = 1
	SchemaAccess     Schema = 2
	SchemaErasure    Schema = 3
)

// Field is the position of a field in its schema.
type Field uint16

// Fields that every schema begins with.
const (
	FieldSubjectType Field = 0
	FieldSubject     Field = 1
)

// Fields of SchemaDisclosure; the first five are the person part.
const (
	DisclosureContext    Field = 2
	DisclosureObject     Field = 3
	DisclosurePayloadKey Field = 4
	DisclosureID         Field = 5
	DisclosureRole       Field = 6
	DisclosureAgency     Field = 7
	DisclosureRecipient  Field = 8
	DisclosureOfficial   Field = 9
	DisclosureProvider   Field = 10
	DisclosureService    Field = 11
	DisclosureRequested  Field = 12
	DisclosureObtained   Field = 13
	DisclosureReleased   Field = 14
	DisclosurePurpose    Field = 15
	DisclosureLegalBasis Field = 16
	DisclosureAgreement  Field = 17
	DisclosurePolicy     Field = 18
	DisclosureInput      Field = 19
	DisclosureReasons    Field = 20
	DisclosureOutcome    Field = 21
	DisclosureCause      Field = 22
	DisclosureAskedAt    Field = 23
	DisclosureAnsweredAt Field = 24
	DisclosureTraceID    Field = 25
	DisclosurePayload    Field = 26
)

// Fields of SchemaAccess; the first two are the person part.
const (
	AccessID     Field = 2
	AccessReader Field = 3
	AccessRole   Field = 4
	AccessTarget Field = 5
	AccessFields Field = 6
	AccessReason Field = 7
	AccessAt     Field = 8
)

// Fields of SchemaErasure; the first two are the person part.
const (
	ErasureID       Field = 2
	ErasureReach    Field = 3
	ErasureGround   Field = 4
	ErasureAskedAt  Field = 5
	ErasureErasedAt Field = 6
)

// Values of enumerated fields.
const (
	RoleAsked  = "asked"  // the entry of the identifier that was asked
	RoleAnswer = "answer" // the entry of somebody whom only the answer identifies

	OutcomeReleased = "released"
	OutcomeEmpty    = "empty"
	OutcomeDenied   = "denied"
	OutcomeFailed   = "failed"

	RoleAuditor  = "auditor"
	RoleOperator = "operator"
	RoleCourt    = "court"
	RoleDelegate = "delegate" // somebody whom the person, the law or a court lets read their history
)

// Reader is a class of readers of openings. The public reads nothing.
type Reader uint8

// The readers.
const (
	ReaderPerson   Reader = 1 << iota // the subject
	ReaderAgency                      // of its own requests
	ReaderProvider                    // of its own answers
	ReaderAuditor                     // accredited
)

const (
	// maxValue bounds a field's value, in bytes.
	maxValue = 64 << 10
	// maxFields is the number of fields of the largest schema.
	maxFields = 27
)

// FieldInfo describes a field.
type FieldInfo struct {
	Field   Field
	Name    string
	Person  bool   // it belongs to the person part
	Readers Reader // bit set of those who get it opened
	kind    valueKind
	enum    []string
}

type valueKind uint8

const (
	isFree       valueKind = iota // text
	isSubjType                    // a subject type
	isSubj                        // a canonical subject
	isKey                         // 32 bytes
	isUUID                        // lower case
	isTok                         // token
	isTokVersion                  // token@version
	isSiret                       // SIRET
	isPointers                    // list of JSON pointers
	isCodes                       // list of text
	isDigest                      // base64 of 32 bytes
	isJSON                        // object in canonical JSON
	isEnum                        // one of enum
	isCause                       // tokens joined by /
	isTime                        // Time in decimal
	isInteger                     // decimal
	isTrace                       // 32 hex digits
)

type schemaInfo struct {
	schema Schema
	person int // number of fields in the person part
	fields []FieldInfo
}

const (
	pP = ReaderPerson
	pA = ReaderAgency
	pV = ReaderProvider
	pU = ReaderAuditor
)

// schemas is the table reader × field of docs/formats.md, section 4, as data.
var schemas = [...]schemaInfo{
	{SchemaDisclosure, 5, []FieldInfo{
		{0, "subject_type", true, pP | pA | pV, isSubjType, nil},
		{1, "subject", true, pP | pA | pV, isSubj, nil},
		{2, "context", true, pP | pA, isFree, nil},
		{3, "object", true, pP | pA, isFree, nil},
		{4, "payload_key", true, pP | pA, isKey, nil},
		{5, "disclosure", false, pP | pA | pV | pU, isUUID, nil},
		{6, "role", false, pP | pA | pV | pU, isEnum, []string{RoleAsked, RoleAnswer}},
		{7, "agency", false, pP | pA | pU, isTok, nil},
		{8, "recipient", false, pP | pA | pU, isSiret, nil},
		{9, "official", false, pA | pU, isFree, nil},
		{10, "provider", false, pP | pA | pV | pU, isTok, nil},
		{11, "service", false, pP | pA | pV | pU, isTokVersion, nil},
		{12, "requested", false, pP | pA | pV | pU, isPointers, nil},
		{13, "obtained", false, pP | pA | pV | pU, isPointers, nil},
		{14, "released", false, pP | pA | pV | pU, isPointers, nil},
		{15, "purpose", false, pP | pA | pU, isTok, nil},
		{16, "legal_basis", false, pP | pA | pU, isTok, nil},
		{17, "agreement", false, pP | pA | pU, isTokVersion, nil},
		{18, "policy", false, pP | pA | pU, isDigest, nil},
		{19, "input", false, pP | pA | pU, isJSON, nil},
		{20, "reasons", false, pP | pA | pU, isCodes, nil},
		{21, "outcome", false, pP | pA | pV | pU, isEnum, []string{OutcomeReleased, OutcomeEmpty, OutcomeDenied, OutcomeFailed}},
		{22, "cause", false, pP | pA | pV | pU, isCause, nil},
		{23, "asked_at", false, pP | pA | pV | pU, isTime, nil},
		{24, "answered_at", false, pP | pA | pV | pU, isTime, nil},
		{25, "trace_id", false, pP | pA | pU, isTrace, nil},
		{26, "payload", false, pP | pA | pU, isKey, nil},
	}},
	{SchemaAccess, 2, []FieldInfo{
		{0, "subject_type", true, pP, isSubjType, nil},
		{1, "subject", true, pP, isSubj, nil},
		{2, "access", false, pP | pU, isUUID, nil},
		{3, "reader", false, pP | pU, isTok, nil},
		{4, "role", false, pP | pU, isEnum, []string{RoleAuditor, RoleOperator, RoleCourt, RoleDelegate}},
		{5, "target", false, pP | pU, isInteger, nil},
		{6, "fields", false, pP | pU, isCodes, nil},
		{7, "reason", false, pP | pU, isFree, nil},
		{8, "at", false, pP | pU, isTime, nil},
	}},
	{SchemaErasure, 2, []FieldInfo{
		{0, "subject_type", true, pP, isSubjType, nil},
		{1, "subject", true, pP, isSubj, nil},
		{2, "erasure", false, pP | pU, isUUID, nil},
		{3, "reach", false, pP | pU, isInteger, nil},
		{4, "ground", false, pP | pU, isTok, nil},
		{5, "asked_at", false, pP | pU, isTime, nil},
		{6, "erased_at", false, pP | pU, isTime, nil},
	}},
}

func (s Schema) info() *schemaInfo {
	if s < 1 || int(s) > len(schemas) {
		return nil
	}
	return &schemas[s-1]
}

// Fields describes the schema's fields in order; nil for an unknown schema.
func (s Schema) Fields() []FieldInfo {
	if info := s.info(); info != nil {
		return append([]FieldInfo(nil), info.fields...)
	}
	return nil
}

// Len returns the number of fields; 0 for an unknown schema.
func (s Schema) Len() int {
	if info := s.info(); info != nil {
		return len(info.fields)
	}
	return 0
}

// Name returns the name of a field of the schema, or "".
func (s Schema) Name(f Field) string {
	if info := s.info(); info != nil && int(f) < len(info.fields) {
		return info.fields[f].Name
	}
	return ""
}

// Sees reports whether the field is opened for the reader.
func (r Reader) Sees(s Schema, f Field) bool {
	info := s.info()
	return info != nil && int(f) < len(info.fields) && r != 0 && info.fields[f].Readers&r == r
}

func (r Reader) String() string {
	switch r {
	case ReaderPerson:
		return "person"
	case ReaderAgency:
		return "agency"
	case ReaderProvider:
		return "provider"
	case ReaderAuditor:
		return "auditor"
	}
	return "no reader"
}

// check reports whether v has the form the field demands. The error names the
// field and never the value.
func (f *FieldInfo) check(v []byte) error {
	if len(v) > maxValue {
		return formatError("field %s: longer than %d bytes", f.Name, maxValue)
	}
	if !f.valid(v) {
		return formatError("field %s: not a valid value", f.Name)
	}
	return nil
}

func (f *FieldInfo) valid(v []byte) bool {
	switch f.kind {
	case isFree:
		return isText(v, false)
	case isSubjType:
		switch SubjectType(v) {
		case TypePivot, TypePerson, TypeNIR, TypeINE, TypeFranceTravail, TypeSIREN:
			return true
		}
		return false
	case isSubj: // checked with its type by subjectOf
		return len(v) > 0 && len(v) < 1024 && isText(v, false)
	case isKey:
		return len(v) == 32
	case isUUID:
		return isUUIDText(v)
	case isTok:
		return IsToken(string(v))
	case isTokVersion:
		return isVersioned(string(v))
	case isSiret:
		return SIRET(string(v)) == nil
	case isPointers:
		return isList(v, isPointer)
	case isCodes:
		return isList(v, isPlain)
	case isDigest:
		var h Hash
		return decodeB64(h[:], v) == nil
	case isJSON:
		return IsCanonicalJSON(v)
	case isEnum:
		for _, e := range f.enum {
			if string(v) == e {
				return true
			}
		}
		return false
	case isCause:
		for _, t := range bytes.Split(v, []byte{'/'}) {
			if !IsToken(string(t)) {
				return false
			}
		}
		return len(v) <= 256
	case isTime, isInteger:
		_, ok := parseUint(v)
		return ok
	case isTrace:
		return len(v) == 32 && isHex(v)
	}
	return false
}

// isList reports whether v is a list: items that are valid, in strictly
// increasing byte order, joined by LF. The empty list is empty.
func isList(v []byte, valid func(item []byte) bool) bool {
	var last []byte
	for rest, more := v, len(v) > 0; more; {
		var item []byte
		item, rest, more = bytes.Cut(rest, []byte{'\n'})
		if !valid(item) || last != nil && bytes.Compare(last, item) >= 0 {
			return false
		}
		last = item
	}
	return true
}

// isPlain reports whether b is text that is not empty.
func isPlain(b []byte) bool { return len(b) > 0 && isText(b, false) }

func isHex(v []byte) bool {
	for _, c := range v {
		if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

func isUUIDText(v []byte) bool {
	if len(v) != 36 {
		return false
	}
	for i, c := range v {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

// checkFields checks what one field says about another, through a function
// that gives a value and how it stands.
func (info *schemaInfo) checkFields(get func(Field) ([]byte, Presence)) error {
	typ, tp := get(FieldSubjectType)
	sub, sp := get(FieldSubject)
	if (tp == Absent) != (sp == Absent) && tp != Hidden && sp != Hidden {
		return formatError("fields subject_type and subject: one without the other")
	}
	if tp == Present && sp == Present {
		if checkSubject(SubjectType(typ), string(sub)) != nil {
			return fmt.Errorf("field subject: %w", formatError("not canonical for its type"))
		}
	}
	if info.schema == SchemaDisclosure {
		if role, p := get(DisclosureRole); p == Present && string(role) == RoleAnswer {
			for _, f := range [...]Field{DisclosureContext, DisclosureObject, DisclosurePayloadKey, DisclosurePayload} {
				if _, p := get(f); p == Present {
					return formatError("field %s: not for an entry with role answer", info.fields[f].Name)
				}
			}
		}
	}
	return nil
}
