package proof_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/regard-broker/regard/ledger/proof"
)

// refCommitment computes a commitment from the stored parts alone, as section
// 4 of docs/formats.md reads.
func refCommitment(person, admin []byte) proof.Commitment {
	schema := binary.BigEndian.Uint16(admin)
	p := map[uint16]int{1: 5, 2: 2, 3: 2}[schema]
	u16 := func(n int) []byte { return binary.BigEndian.AppendUint16(nil, uint16(n)) }
	var digests []byte
	i := 0
	for part, b := range [][]byte{person, admin} {
		seed, rest := b[3:35], b[35:]
		if part == 1 {
			rest = rest[32*p:]
		}
		for len(rest) > 0 {
			present, n := rest[0], binary.BigEndian.Uint32(rest[1:5])
			value := rest[5 : 5+n]
			salt := sha256.Sum256(slices.Concat([]byte("regard/salt/v1\x00"), u16(int(schema)), u16(i), seed))
			d := sha256.Sum256(slices.Concat([]byte("regard/field/v1\x00"), u16(int(schema)), u16(i), salt[:], []byte{present}, value))
			digests = append(digests, d[:]...)
			rest = rest[5+n:]
			i++
		}
	}
	return sha256.Sum256(slices.Concat([]byte("regard/commitment/v1\x00"), u16(int(schema)), u16(i), digests))
}

func TestCommitmentAsSpecified(t *testing.T) {
	w := newWorld()
	for _, f := range w.filed {
		if got, want := f.record.Commitment(), refCommitment(f.record.AppendPersonPart(nil), f.record.AppendAdminPart(nil)); got != want {
			t.Errorf("entry %d: commitment %v, want %v", f.index, got, want)
		}
	}
	// Values around the sizes at which the code takes another way.
	for _, n := range []int{0, 1, 54, 55, 56, 511, 512, 513, 64 << 10} {
		r := must(proof.NewRecord(proof.SchemaDisclosure, &detRand{seed: "sizes"}))
		if err := r.SetText(proof.DisclosureContext, strings.Repeat("x", n)); err != nil {
			t.Fatal(err)
		}
		if got, want := r.Commitment(), refCommitment(r.AppendPersonPart(nil), r.AppendAdminPart(nil)); got != want {
			t.Errorf("value of %d bytes: commitment %v, want %v", n, got, want)
		}
	}
}

func TestCommitmentDependsOnEverything(t *testing.T) {
	seen := map[proof.Commitment]string{}
	add := func(what string, f func(r *proof.Record) error) {
		t.Helper()
		r := disclosureRecord(&detRand{seed: "fixed"}, must(proof.SIREN("130025265")))
		if err := f(r); err != nil {
			t.Fatal(what, err)
		}
		if before, dup := seen[r.Commitment()]; dup {
			t.Errorf("%s: same commitment as %s", what, before)
		}
		seen[r.Commitment()] = what
	}
	add("as it is", func(*proof.Record) error { return nil })
	for f, v := range map[proof.Field]string{2: "x", 3: "x", 7: "x", 9: "", 10: "x", 12: "", 20: "x", 21: "empty", 22: "x", 23: "0", 25: strings.Repeat("0", 32)} {
		add(fmt.Sprint("field ", f), func(r *proof.Record) error { return r.SetText(f, v) })
	}
	other := disclosureRecord(&detRand{seed: "other"}, must(proof.SIREN("130025265")))
	if _, dup := seen[other.Commitment()]; dup {
		t.Error("the commitment does not depend on the salts")
	}
	// Absent and empty differ.
	a := must(proof.NewRecord(proof.SchemaDisclosure, &detRand{seed: "fixed"}))
	b := must(proof.NewRecord(proof.SchemaDisclosure, &detRand{seed: "fixed"}))
	if err := b.SetText(proof.DisclosureContext, ""); err != nil || a.Commitment() == b.Commitment() {
		t.Error("an empty value commits as an absent one", err)
	}
	// A value set twice counts once.
	c := must(proof.NewRecord(proof.SchemaDisclosure, &detRand{seed: "fixed"}))
	c.SetText(proof.DisclosureContext, "first")
	c.Commitment()
	c.SetText(proof.DisclosureContext, "")
	if c.Commitment() != b.Commitment() {
		t.Error("setting a field again does not replace it")
	}
}

func TestParts(t *testing.T) {
	r := disclosureRecord(&detRand{seed: "parts"}, must(proof.SIREN("130025265")))
	person, admin := r.AppendPersonPart(nil), r.AppendAdminPart(nil)
	whole, err := proof.OpenParts(person, admin)
	if err != nil {
		t.Fatal(err)
	}
	if whole.Commitment() != r.Commitment() || !bytes.Equal(whole.AppendPersonPart(nil), person) || !bytes.Equal(whole.AppendAdminPart(nil), admin) {
		t.Error("parts do not round trip")
	}
	for f := range proof.Field(27) {
		v, p := r.Value(f)
		v2, p2 := whole.Value(f)
		if !bytes.Equal(v, v2) || p != p2 {
			t.Errorf("field %d: %q %v, want %q %v", f, v2, p2, v, p)
		}
	}
	erased, err := proof.OpenParts(nil, admin)
	if err != nil {
		t.Fatal(err)
	}
	if !erased.Erased() || erased.Commitment() != r.Commitment() || erased.AppendPersonPart(nil) != nil || !bytes.Equal(erased.AppendAdminPart(nil), admin) {
		t.Error("without the person part the commitment or administrative part changes")
	}
	if _, p := erased.Value(proof.FieldSubject); p != proof.Hidden {
		t.Error("the subject of an erased record is not hidden")
	}
	if err := erased.SetText(proof.DisclosureContext, "x"); !errors.Is(err, proof.ErrHidden) {
		t.Errorf("setting an erased field: %v", err)
	}
	o := erased.Open(proof.ReaderPerson)
	if o.Commitment() != r.Commitment() {
		t.Error("opening of an erased record has another commitment")
	}
	if _, err := o.Subject(); !errors.Is(err, proof.ErrHidden) {
		t.Errorf("subject of an erased record: %v", err)
	}
	if o.Text(proof.DisclosureAgency) != "mairie-lyon" {
		t.Error("administrative fields of an erased record do not open")
	}

	other := disclosureRecord(&detRand{seed: "others"}, must(proof.SIREN("130025265")))
	if _, err := proof.OpenParts(other.AppendPersonPart(nil), admin); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("another record's person part: %v", err)
	}
	for name, c := range map[string][2][]byte{
		"swapped":            {admin, person},
		"no parts":           {nil, nil},
		"person part alone":  {person, nil},
		"empty person part":  {[]byte{}, admin},
		"cut person":         {person[:len(person)-1], admin},
		"cut admin":          {person, admin[:len(admin)-1]},
		"longer person":      {append(slices.Clone(person), 0), admin},
		"longer admin":       {person, append(slices.Clone(admin), 0)},
		"presence of 2":      {replaceAt(person, 35, 2), admin},
		"absent with length": {replaceAt(person, 35, 0), admin},
		"huge length":        {replaceAt(person, 36, 0xff), admin},
		"unknown schema":     {person, replaceAt(admin, 1, 9)},
		"another schema":     {person, replaceAt(admin, 1, 2)},
	} {
		if _, err := proof.OpenParts(c[0], c[1]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	// Every changed byte of the person part is noticed. One of the
	// administrative part changes the commitment.
	for i := range person {
		if bad, err := proof.OpenParts(replaceAt(person, i, person[i]^1), admin); err == nil && bad.Commitment() == r.Commitment() {
			t.Fatalf("person part, byte %d: change not noticed", i)
		}
	}
	for i := range admin {
		if bad, err := proof.OpenParts(nil, replaceAt(admin, i, admin[i]^1)); err == nil && bad.Commitment() == r.Commitment() {
			t.Fatalf("administrative part, byte %d: change not noticed", i)
		}
	}
}

func replaceAt(b []byte, i int, v byte) []byte {
	b = slices.Clone(b)
	b[i] = v
	return b
}

func TestOpenings(t *testing.T) {
	w := newWorld()
	for _, f := range w.filed {
		for _, reader := range []proof.Reader{proof.ReaderPerson, proof.ReaderAgency, proof.ReaderProvider, proof.ReaderAuditor} {
			o := f.record.Open(reader)
			if o.Commitment() != f.record.Commitment() {
				t.Fatalf("entry %d, %v: another commitment", f.index, reader)
			}
			b := text(t, o)
			again, err := proof.ParseOpening(b)
			if err != nil {
				t.Fatal(err)
			}
			if again.Commitment() != f.record.Commitment() || !bytes.Equal(text(t, again), b) {
				t.Errorf("entry %d, %v: round trip", f.index, reader)
			}
			for i := range proof.Field(o.Schema().Len()) {
				v, p := o.Value(i)
				want, wp := f.record.Value(i)
				switch sees := reader.Sees(o.Schema(), i); {
				case !sees && (p != proof.Hidden || v != nil):
					t.Errorf("%v sees field %s", reader, o.Schema().Name(i))
				case sees && (p != wp || !bytes.Equal(v, want)):
					t.Errorf("%v does not get field %s as it is", reader, o.Schema().Name(i))
				}
			}
			// No seed, and nothing hidden, in the text in any notation.
			for _, part := range [][]byte{f.record.AppendPersonPart(nil), f.record.AppendAdminPart(nil)} {
				if bytes.Contains(b, []byte(proof.Hash(part[3:35]).String())) {
					t.Errorf("entry %d, %v: the opening holds a seed", f.index, reader)
				}
			}
			narrow := f.record.Open(proof.ReaderPerson).Narrow(reader)
			if narrow.Commitment() != f.record.Commitment() {
				t.Errorf("Narrow(%v) changes the commitment", reader)
			}
			if _, p := narrow.Value(proof.DisclosureOfficial); o.Schema() == proof.SchemaDisclosure && p != proof.Hidden {
				t.Error("Narrow shows what was hidden")
			}
		}
	}
	if !(proof.Opening{}).Commitment().IsZero() || (proof.Opening{}).Schema() != 0 {
		t.Error("the zero opening has a commitment")
	}
	if _, err := (proof.Opening{}).AppendText(nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("zero opening: %v", err)
	}
}

// The table reader × field in docs/formats.md is the one in the code.
func TestReaderTableIsDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/formats.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| (\\d+) \\| `([a-z_]+)` \\| .* \\| (✓?) ?\\| (✓?) ?\\| (✓?) ?\\| (✓?) ?\\|$")
	rows := row.FindAllStringSubmatch(string(doc), -1)
	if len(rows) != proof.SchemaDisclosure.Len() {
		t.Fatalf("%d rows in the document, %d fields", len(rows), proof.SchemaDisclosure.Len())
	}
	for i, m := range rows {
		f := proof.Field(i)
		if m[1] != fmt.Sprint(i) || m[2] != proof.SchemaDisclosure.Name(f) {
			t.Errorf("row %d is %s %s, the code says %s", i, m[1], m[2], proof.SchemaDisclosure.Name(f))
		}
		for j, reader := range []proof.Reader{proof.ReaderPerson, proof.ReaderAgency, proof.ReaderProvider, proof.ReaderAuditor} {
			if (m[3+j] != "") != reader.Sees(proof.SchemaDisclosure, f) {
				t.Errorf("%s for %v: the document says %v", m[2], reader, m[3+j] != "")
			}
		}
	}
	for _, s := range []proof.Schema{proof.SchemaAccess, proof.SchemaErasure} {
		for _, f := range s.Fields() {
			want := proof.ReaderPerson
			if !f.Person {
				want |= proof.ReaderAuditor
			}
			if f.Readers != want || !bytes.Contains(doc, []byte("`"+f.Name+"`")) {
				t.Errorf("schema %d, %s: readers %v", s, f.Name, f.Readers)
			}
		}
	}
	if proof.Reader(0).Sees(proof.SchemaDisclosure, 5) {
		t.Error("the public sees a field")
	}
}

func TestFieldValues(t *testing.T) {
	d, a := proof.SchemaDisclosure, proof.SchemaAccess
	for _, c := range []struct {
		s     proof.Schema
		f     proof.Field
		value string
		ok    bool
	}{
		{d, proof.FieldSubjectType, "pivot", true}, {d, proof.FieldSubjectType, "Pivot", false},
		{d, proof.FieldSubject, "", false}, {d, proof.FieldSubject, "x\ny", false},
		{d, proof.DisclosureContext, "Œuvre", true}, {d, proof.DisclosureContext, "", true}, {d, proof.DisclosureContext, "\xff", false}, {d, proof.DisclosureContext, "a\nb", false},
		{d, proof.DisclosurePayloadKey, strings.Repeat("\x00", 32), true}, {d, proof.DisclosurePayloadKey, "short", false},
		{d, proof.DisclosureID, "0B6C1F0E-7d3f-4a52-9f57-0d6b3c1a2e4f", false}, {d, proof.DisclosureID, "0b6c1f0e7d3f4a529f570d6b3c1a2e4f", false},
		{d, proof.DisclosureRole, "answer", true}, {d, proof.DisclosureRole, "auditor", false}, {a, proof.AccessRole, "auditor", true}, {a, proof.AccessRole, "delegate", true}, {a, proof.AccessRole, "guardian", false}, {a, proof.AccessRole, "asked", false},
		{d, proof.DisclosureAgency, "Mairie", false}, {d, proof.DisclosureRecipient, "13002526500014", false},
		{d, proof.DisclosureService, "qf@0", false}, {d, proof.DisclosureService, "qf", false}, {d, proof.DisclosureService, "qf@12", true}, {d, proof.DisclosureService, "qf@012", false},
		{d, proof.DisclosureRequested, "", true}, {d, proof.DisclosureRequested, "/a\n/b", true}, {d, proof.DisclosureRequested, "/b\n/a", false},
		{d, proof.DisclosureRequested, "/a\n/a", false}, {d, proof.DisclosureRequested, "/a\n", false}, {d, proof.DisclosureRequested, "a", false}, {d, proof.DisclosureRequested, "\n/a", false},
		{d, proof.DisclosureReasons, "a\nb", true},
		{d, proof.DisclosurePolicy, hashOf("x").String(), true}, {d, proof.DisclosurePolicy, "x", false},
		{d, proof.DisclosureInput, `{}`, true}, {d, proof.DisclosureInput, "{\n}", false}, {d, proof.DisclosureInput, "", false},
		{d, proof.DisclosureOutcome, "ok", false},
		{d, proof.DisclosureCause, "provider/504/37002", true}, {d, proof.DisclosureCause, "/provider", false}, {d, proof.DisclosureCause, "a//b", false},
		{d, proof.DisclosureAskedAt, "01", false}, {d, proof.DisclosureAskedAt, "-1", false}, {d, proof.DisclosureAskedAt, "0", true},
		{d, proof.DisclosureTraceID, strings.Repeat("A", 32), false},
		{d, proof.DisclosureContext, strings.Repeat("x", 64<<10+1), false},
		{d, 27, "x", false}, {a, 9, "x", false},
	} {
		r := must(proof.NewRecord(c.s, rand.Reader))
		err := r.SetText(c.f, c.value)
		if (err == nil) != c.ok {
			t.Errorf("schema %d field %d %.40q: %v, want ok %v", c.s, c.f, c.value, err, c.ok)
		}
		if err != nil && len(c.value) > 3 && strings.Contains(err.Error(), c.value) {
			t.Errorf("the error holds the value: %v", err)
		}
	}
	r := must(proof.NewRecord(d, rand.Reader))
	if err := r.SetList(proof.DisclosureReasons, []string{"b", "a", "b"}); err != nil {
		t.Fatal(err)
	}
	if v, _ := r.Value(proof.DisclosureReasons); string(v) != "a\nb" {
		t.Errorf("list %q, want sorted and without repetition", v)
	}
	if d := cmp.Diff([]string{"a", "b"}, r.Open(proof.ReaderPerson).List(proof.DisclosureReasons)); d != "" {
		t.Error(d)
	}
	if err := r.SetList(proof.DisclosureReasons, []string{""}); err == nil {
		t.Error("a list with an empty item is the empty list")
	}
	if err := r.SetTime(proof.DisclosureAskedAt, -1); err == nil {
		t.Error("a time before 1970 is accepted")
	}
}

func TestRecordContradictions(t *testing.T) {
	r := must(proof.NewRecord(proof.SchemaDisclosure, rand.Reader))
	r.SetText(proof.FieldSubjectType, "siren")
	if err := r.Check(); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("a type without a subject: %v", err)
	}
	// Whoever forgets Check gets no entry.
	if c := r.Commitment(); !c.IsZero() {
		t.Error("a type without a subject has a commitment")
	}
	r.SetText(proof.FieldSubject, "LEFEVRE|||")
	if err := r.Check(); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("a name as siren: %v", err)
	}
	if _, err := proof.ParseOpening(text(t, r.Open(proof.ReaderPerson))); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("opening with a name as siren: %v", err)
	}
	r = disclosureRecord(&detRand{}, must(proof.SIREN("130025265")))
	r.SetText(proof.DisclosureRole, proof.RoleAnswer)
	if err := r.Check(); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("role answer with a payload key: %v", err)
	}
	if _, err := proof.EntryText(proof.Disclosure{Commitment: r.Commitment()}); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("role answer with a payload key is an entry: %v", err)
	}
	if _, err := proof.OpenParts(r.AppendPersonPart(nil), r.AppendAdminPart(nil)); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("role answer with a payload key, as stored: %v", err)
	}
	r.SetText(proof.DisclosureRole, proof.RoleAsked)
	if r.Check() != nil || r.Commitment().IsZero() {
		t.Error("a record that was mended has no commitment")
	}
	if err := r.SetSubject(proof.Subject{}); !errors.Is(err, proof.ErrSubject) {
		t.Errorf("zero subject: %v", err)
	}
	if _, err := proof.NewRecord(0, rand.Reader); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("schema 0: %v", err)
	}
	if _, err := proof.NewRecord(1, strings.NewReader("short")); err == nil {
		t.Error("a record without randomness")
	}
	if _, err := proof.NewRecord(1, bytes.NewReader(make([]byte, 64))); err == nil {
		t.Error("a record with two equal seeds")
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if s := fmt.Sprintf(verb, r); s != "record:[schema 1]" {
			t.Errorf("%s prints %q", verb, s)
		}
	}
}

// Records of random shape: parts and openings agree with the record, for every
// schema and reader.
func TestRecordProperties(t *testing.T) {
	rng := mrand.New(mrand.NewPCG(1, 2))
	for range 300 {
		s := proof.Schema(1 + rng.IntN(3))
		r := must(proof.NewRecord(s, rand.Reader))
		for _, f := range s.Fields() {
			if rng.IntN(2) == 0 {
				continue
			}
			for _, v := range []string{strings.Repeat("7", 32), "/p", "qf@1", "asked", "auditor", "empty", "21690123100011", "0b6c1f0e-7d3f-4a52-9f57-0d6b3c1a2e4f", hashOf("x").String()} {
				if f.Field > 1 && r.SetText(f.Field, v) == nil {
					break
				}
			}
		}
		r2, err := proof.OpenParts(r.AppendPersonPart(nil), r.AppendAdminPart(nil))
		if err != nil || r2.Commitment() != r.Commitment() {
			t.Fatalf("schema %d: %v", s, err)
		}
		reader := proof.Reader(1 << rng.IntN(4))
		o, err := proof.ParseOpening(text(t, r.Open(reader)))
		if err != nil || o.Commitment() != r.Commitment() {
			t.Fatalf("schema %d, %v: %v", s, reader, err)
		}
	}
}

func TestPartSubject(t *testing.T) {
	w := newWorld()
	for _, f := range w.filed {
		if s, err := proof.PartSubject(f.record.AppendPersonPart(nil)); err != nil || !s.Equal(f.subject) {
			t.Errorf("entry %d: %v", f.index, err)
		}
		if _, err := proof.PartSubject(f.record.AppendAdminPart(nil)); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("entry %d: an administrative part has a subject: %v", f.index, err)
		}
	}
	none := must(proof.NewRecord(proof.SchemaAccess, rand.Reader))
	if _, err := proof.PartSubject(none.AppendPersonPart(nil)); !errors.Is(err, proof.ErrSubject) {
		t.Errorf("a record without a subject: %v", err)
	}
	if _, err := proof.PartSubject(nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("no part: %v", err)
	}
}

// A record that is used again is a new one, and what it held is gone.
func TestRecordUsedAgain(t *testing.T) {
	r := disclosureRecord(&detRand{}, must(proof.SIREN("130025265")))
	first, value := r.Commitment(), r.Open(proof.ReaderAuditor)
	if r.Reset(proof.SchemaDisclosure, rand.Reader) == nil {
		t.Error("a record in use was reset")
	}
	r.Clear()
	if !r.Commitment().IsZero() || r.SetText(proof.DisclosureRole, proof.RoleAsked) == nil || len(r.AppendAdminPart(nil)) != 0 {
		t.Error("a cleared record is of use")
	}
	if v, _ := value.Value(proof.DisclosureAgency); len(v) == 0 || strings.Trim(string(v), "\x00") != "" {
		t.Errorf("what it held is still there: %q", v)
	}
	if r.Reset(0, rand.Reader) == nil || r.Reset(proof.SchemaDisclosure, bytes.NewReader(make([]byte, 64))) == nil || !r.Commitment().IsZero() {
		t.Error("a record of no schema, or without randomness")
	}
	if err := r.Reset(proof.SchemaDisclosure, &detRand{}); err != nil {
		t.Fatal(err)
	}
	want := must(proof.NewRecord(proof.SchemaDisclosure, &detRand{}))
	for _, r := range []*proof.Record{r, want} {
		if err := r.SetText(proof.DisclosureAgency, "mairie"); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.Commitment(); got != want.Commitment() || got == first {
		t.Error("it differs from a new one")
	}
}
