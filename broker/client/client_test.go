package client

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

const request = `{"service":"household","purpose":"cantine","legal_basis":"law","recipient":"21750001600019","context":"c","object":"o","official":"agent-7",
"subject":{"type":"pivot","birth_name":"Martin","given_names":["Camille","Zoé"],"birth_date":"1990-01-31","sex":"F","birth_place":"75056","birth_country":"99100"}}`

const id = "01935a11-2233-7444-8555-66778899aabb"

var data = []byte(`{"a": 1}`)

// record is what an honest broker records of the request; change makes it lie.
func record(t *testing.T, change map[proof.Field]string) proof.Opening {
	t.Helper()
	key := make([]byte, 32)
	key[0] = 1
	mac := hmac.New(sha256.New, key)
	mac.Write(data)
	values := map[proof.Field]string{
		proof.FieldSubjectType: "pivot", proof.FieldSubject: "MARTIN|CAMILLE ZOE|1990-01-31|F|75056|99100",
		proof.DisclosureContext: "c", proof.DisclosureObject: "o", proof.DisclosurePayloadKey: string(key), proof.DisclosureID: id, proof.DisclosureRole: "asked", proof.DisclosureAgency: "mairie",
		proof.DisclosureRecipient: "21750001600019", proof.DisclosureOfficial: "agent-7", proof.DisclosureProvider: "caisse", proof.DisclosureService: "household@1", proof.DisclosurePurpose: "cantine",
		proof.DisclosureLegalBasis: "law", proof.DisclosureOutcome: "released", proof.DisclosurePayload: string(mac.Sum(nil)),
	}
	for f, v := range change {
		if v == "" {
			delete(values, f)
			continue
		}
		values[f] = v
	}
	r, err := proof.NewRecord(proof.SchemaDisclosure, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for f, v := range values {
		if err := r.Set(f, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	return r.Open(proof.ReaderAgency)
}

// A broker that records something else than it was asked, or hands out other data, is found out.
func TestCheck(t *testing.T) {
	var a asked
	if err := json.Unmarshal([]byte(request), &a); err != nil {
		t.Fatal(err)
	}
	answer := body{ID: id, Outcome: "released", Data: data}
	if err := check(record(t, nil), &answer, &a); err != nil {
		t.Fatalf("an honest record: %v", err)
	}
	for f, v := range map[proof.Field]string{
		proof.FieldSubject: "MARTIN|CAMILLE||F|75056|99100", proof.DisclosureContext: "other", proof.DisclosureObject: "other", proof.DisclosureID: "01935a11-2233-7444-8555-66778899aabc", proof.DisclosureRole: "answer",
		proof.DisclosureRecipient: "13002526500013", proof.DisclosureOfficial: "agent-8", proof.DisclosureService: "other@1", proof.DisclosurePurpose: "other", proof.DisclosureLegalBasis: "other", proof.DisclosureOutcome: "empty",
		proof.DisclosurePayload: strings.Repeat("x", 32), proof.DisclosurePayloadKey: strings.Repeat("y", 32),
	} {
		change := map[proof.Field]string{f: v}
		if f == proof.DisclosureRole { // such a record can't hold these
			change[proof.DisclosureContext], change[proof.DisclosureObject], change[proof.DisclosurePayload], change[proof.DisclosurePayloadKey] = "", "", "", ""
		}
		if err := check(record(t, change), &answer, &a); err == nil {
			t.Errorf("%s: a lie passed", proof.SchemaDisclosure.Name(f))
		}
	}
	for _, f := range []proof.Field{proof.DisclosurePayload, proof.DisclosurePayloadKey, proof.DisclosureContext} {
		if err := check(record(t, map[proof.Field]string{f: ""}), &answer, &a); err == nil {
			t.Errorf("%s left out: passed", proof.SchemaDisclosure.Name(f))
		}
	}
	// White space alone is recorded as nothing, and the other way round by brokers of before.
	blank := a
	blank.Context, blank.Object = " ", "\u2003"
	for _, recorded := range []string{"", " "} {
		if err := check(record(t, map[proof.Field]string{proof.DisclosureContext: recorded, proof.DisclosureObject: recorded}), &answer, &blank); err != nil {
			t.Errorf("a blank text that is recorded as %q: %v", recorded, err)
		}
	}
	other := answer
	other.Data = []byte(`{"a":1}`)
	if err := check(record(t, nil), &other, &a); err == nil {
		t.Error("other bytes passed")
	}
	// Refused: no data, and nothing to compare them with.
	denied := body{ID: id, Outcome: "denied"}
	if err := check(record(t, map[proof.Field]string{proof.DisclosureOutcome: "denied", proof.DisclosurePayload: "", proof.DisclosurePayloadKey: ""}), &denied, &a); err != nil {
		t.Errorf("a refusal: %v", err)
	}
	// A record for another reader hides the subject: no proof for the agency.
	if err := check(record(t, nil).Narrow(proof.ReaderAuditor), &answer, &a); err == nil {
		t.Error("the auditor's opening passed")
	}
}

// TestCheckErased: after an erasure a repeat shows what isn't about the person, and that has to be what was asked. Nothing may be hidden beside data, of a first answer, or in part.
func TestCheckErased(t *testing.T) {
	var a asked
	if err := json.Unmarshal([]byte(request), &a); err != nil {
		t.Fatal(err)
	}
	erased := func(o proof.Opening, shown ...proof.Field) proof.Opening {
		for _, f := range proof.SchemaDisclosure.Fields() {
			if !f.Person {
				shown = append(shown, f.Field)
			}
		}
		return o.Only(shown...)
	}
	a.again = true
	gone := body{ID: id, Outcome: "released", Repeated: true}
	if err := check(erased(record(t, nil)), &gone, &a); err != nil {
		t.Errorf("an honest record: %v", err)
	}
	for f, v := range map[proof.Field]string{
		proof.DisclosureID: "01935a11-2233-7444-8555-66778899aabc", proof.DisclosureRecipient: "13002526500013", proof.DisclosureOfficial: "agent-8", proof.DisclosureService: "other@1", proof.DisclosurePurpose: "other",
		proof.DisclosureLegalBasis: "other", proof.DisclosureOutcome: "empty",
	} {
		if err := check(erased(record(t, map[proof.Field]string{f: v})), &gone, &a); err == nil {
			t.Errorf("%s: a lie passed", proof.SchemaDisclosure.Name(f))
		}
	}
	for _, f := range []proof.Field{proof.FieldSubjectType, proof.DisclosureContext, proof.DisclosurePayloadKey} {
		if err := check(erased(record(t, nil), f), &gone, &a); err == nil {
			t.Errorf("all but %s hidden: passed", proof.SchemaDisclosure.Name(f))
		}
	}
	if err := check(record(t, nil).Narrow(proof.ReaderAuditor), &gone, &a); err != nil {
		t.Errorf("what auditors see is what an erasure leaves: %v", err)
	}
	if err := check(erased(record(t, nil)).Only(proof.DisclosureID, proof.DisclosureRole, proof.DisclosureOutcome, proof.DisclosureRecipient, proof.DisclosureOfficial, proof.DisclosureService, proof.DisclosurePurpose, proof.DisclosureLegalBasis), &gone, &a); err == nil {
		t.Error("more hidden than the person part: passed")
	}
	first, given := gone, gone
	first.Repeated, given.Data = false, data
	if err := check(erased(record(t, nil)), &first, &a); err == nil {
		t.Error("hidden at the first answer: passed")
	}
	if err := check(erased(record(t, nil)), &given, &a); err == nil {
		t.Error("hidden beside data: passed")
	}
	a.again = false
	if err := check(erased(record(t, nil)), &gone, &a); err == nil {
		t.Error("hidden under a key that was drawn for this request: passed")
	}
}

func TestNew(t *testing.T) {
	for _, u := range []string{"", "http://host", "https://", "host:1", "https://a:b@host"} {
		if _, err := New(Config{URL: u}); err == nil {
			t.Errorf("%q passed", u)
		}
	}
}

// Whatever type a subject has, the client files it as the broker does.
func TestSubject(t *testing.T) {
	for text, want := range map[string]string{
		`{"type":"nir","value":"1 85 05 78 006 084"}`: "nir 185057800608491", `{"type":"siret","value":"130 025 265 00013"}`: "siren 130025265", `{"type":"siren","value":"130025265"}`: "siren 130025265",
		`{"type":"ine","value":"1234567890a"}`: "ine 1234567890A", `{"type":"france_travail","value":"Ab_1"}`: "france_travail Ab_1", `{"type":"pivot","birth_name":"Œuvray","given_names":"Léa"}`: "pivot OEUVRAY|LEA||||", `{"type":"x","value":"1"}`: "",
	} {
		var s subject
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			t.Fatal(err)
		}
		got, err := s.canonical()
		if v := string(got.Type()) + " " + got.Value(); (err == nil) != (want != "") || err == nil && v != want {
			t.Errorf("%s: %s, %v", text, v, err)
		}
	}
}
