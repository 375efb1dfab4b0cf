package proof_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// Vectors of section 9. Package policy reads policy.json, too: what agreements,
// inputs and bundles must hold is its affair, their bytes are that of the formats.

func canonicalVectors() vectorFile {
	v := vectorFile{Format: "canonical JSON (section 9)", Notes: "text_hex is the UTF-8 of the object; digest is its SHA-256"}
	good, bad := jsonVectors()
	for _, s := range good {
		v.Good = append(v.Good, vector{"text_hex": hex.EncodeToString([]byte(s)), "digest": hashOf(s).String()})
	}
	for _, b := range bad {
		v.Bad = append(v.Bad, vector{"text_hex": hex.EncodeToString([]byte(b[0])), "reason": b[1]})
	}
	return v
}

const (
	sampleAgreement = `{"agency":"mairie-lyon","id":"hab-1234","legal_bases":["crpa-l114-8"],"not_after":1798761599999,"not_before":1767225600000,` +
		`"obligations":["notify_person"],"purposes":["tarification-cantine","tarification-creche"],"schema":"regard/agreement@v1",` +
		`"scopes":["allocataires","quotient_familial"],"service":"quotient-familial","state":"active","version":2}`
	sampleInputHead = `{"agency":{"id":"mairie-lyon","siret":"21690123100011","state":"active"},`
	sampleInputRest = `"channel":"api","has_context":true,"has_object":true,"legal_basis":"crpa-l114-8","purpose":"tarification-cantine",` +
		`"recipient":{"siret":"21690123100011","valid":true},"recipient_is_subject":false,"schema":"regard/input@v1","scopes":["adresse","quotient_familial"],` +
		`"service":{"id":"quotient-familial","provider":"cnav","scopes":{"quotient_familial":["/data/quotient_familial/annee","/data/quotient_familial/valeur"]},` +
		`"subject_types":["person","pivot"],"version":3},"subject_type":"pivot","time":1764000001000}`
	sampleManifest = `{"revision":"2026-11-01"}`
	sampleRego     = "package regard.decision\n\nimport rego.v1\n\n# Nothing is granted.\nreasons contains {\"code\": \"no\", \"fr\": \"Non.\", \"en\": \"No.\"} if true\n"
)

// inputText is a decision input under an agreement, or without one.
func inputText(agreement string) string {
	if agreement == "" {
		return sampleInputHead + sampleInputRest
	}
	return sampleInputHead + `"agreement":` + agreement + `,"agreement_digest":"` + hashOf(agreement).String() + `",` + sampleInputRest
}

// blob writes the bytes of a bundle without looking at them.
func blob(files ...string) []byte {
	b := []byte("regard/bundle/v1\x00")
	for _, part := range files {
		b = append(b, 0, 0, byte(len(part)>>8), byte(len(part)))
		b = append(b, part...)
	}
	return b
}

func policyVectors() vectorFile {
	v := vectorFile{Format: "agreement, decision input and policy bundle with their digests (section 9)",
		Notes: "bytes are what is served at blob/<hex of the digest>: for a bundle, the hash input; an input stands in records only"}
	good := func(of string, bytes []byte) {
		sum := sha256.Sum256(bytes)
		v.Good = append(v.Good, vector{"of": of, "bytes": base64.StdEncoding.EncodeToString(bytes), "digest": proof.Hash(sum).String(), "digest_hex": hex.EncodeToString(sum[:])})
	}
	revoked := strings.NewReplacer(`"active"`, `"revoked"`, `"version":2`, `"version":3`, `["notify_person"]`, `[]`).Replace(sampleAgreement)
	unknown := strings.Replace(inputText(""), `{"id":"mairie-lyon","siret":"21690123100011","state":"active"}`, `{"id":"","siret":"","state":"unknown"}`, 1)
	good("agreement", []byte(sampleAgreement))
	good("agreement", []byte(revoked))
	deferring := strings.Replace(sampleAgreement, `"id":`, `"deferral":{"article":"CPP art. 60-1","authority":"Tribunal judiciaire de Lyon","days":90,"reference":"2026/118"},"id":`, 1)
	good("agreement", []byte(deferring))
	good("input", []byte(inputText(sampleAgreement)))
	good("input", []byte(inputText(deferring)))
	good("input", []byte(inputText("")))
	good("input", []byte(unknown))
	good("bundle", blob(".manifest", sampleManifest, "decision.rego", sampleRego))
	good("bundle", blob("decision.rego", sampleRego))
	bad := func(of string, bytes []byte, reason string) {
		v.Bad = append(v.Bad, vector{"of": of, "bytes": base64.StdEncoding.EncodeToString(bytes), "reason": reason})
	}
	agreement := func(reason, old, new string) {
		bad("agreement", []byte(strings.Replace(sampleAgreement, old, new, 1)), reason)
	}
	agreement("a member that it does not have", `"id":`, `"note":"","id":`)
	agreement("a member missing", `"obligations":["notify_person"],`, "")
	agreement("members out of order", `"agency":"mairie-lyon","id":"hab-1234"`, `"id":"hab-1234","agency":"mairie-lyon"`)
	agreement("a list out of order", `["allocataires","quotient_familial"]`, `["quotient_familial","allocataires"]`)
	agreement("an item twice", `["crpa-l114-8"]`, `["crpa-l114-8","crpa-l114-8"]`)
	agreement("no scope", `["allocataires","quotient_familial"]`, `[]`)
	agreement("version 0", `"version":2`, `"version":0`)
	agreement("a state of services", `"active"`, `"withdrawn"`)
	agreement("an obligation that is not known", `notify_person`, `notify_everybody`)
	agreement("it ends before it begins", `1767225600000`, `1798761600000`)
	delay := func(reason, old, new string) {
		bad("agreement", []byte(strings.Replace(deferring, old, new, 1)), reason)
	}
	delay("a delay of no day", `"days":90`, `"days":0`)
	delay("a delay by nobody", `"authority":"Tribunal judiciaire de Lyon"`, `"authority":""`)
	delay("a delay without a reference", `,"reference":"2026/118"`, ``)
	delay("an article that ends with a space", `60-1"`, `60-1 "`)
	agreement("a delay that is null", `"id":`, `"deferral":null,"id":`)
	agreement("another schema", `agreement@v1`, `agreement@v2`)
	input := func(reason, old, new string) {
		bad("input", []byte(strings.Replace(inputText(sampleAgreement), old, new, 1)), reason)
	}
	input("an identity", `"subject_type"`, `"subject":"LEFEVRE|ANNE|1987-04-30|F|75056|99100","subject_type"`)
	input("the digest of another agreement", hashOf(sampleAgreement).String(), hashOf("another").String())
	input("an agreement without its digest", `"agreement_digest":"`+hashOf(sampleAgreement).String()+`",`, "")
	input("a known agency without an id", `"id":"mairie-lyon","siret"`, `"id":"","siret"`)
	input("an unknown agency with an id", `"21690123100011","state":"active"}`, `"21690123100011","state":"unknown"}`)
	input("valid is not what the recipient's check digits say", `"valid":true`, `"valid":false`)
	input("a recipient that is not digits", `{"siret":"21690123100011","valid":true}`, `{"siret":"2169012310001x","valid":false}`)
	input("fields of a scope that is not asked for", `["adresse","quotient_familial"]`, `["adresse"]`)
	input("a scope without a field", `["/data/quotient_familial/annee","/data/quotient_familial/valeur"]`, `[]`)
	input("a field that is no JSON pointer", `/data/quotient_familial/annee`, `/data/~annee`)
	input("time as text", `"time":1764000001000`, `"time":"1764000001000"`)
	whole := blob(".manifest", sampleManifest, "decision.rego", sampleRego)
	bad("bundle", blob("decision.rego", sampleRego, ".manifest", sampleManifest), "paths out of order")
	bad("bundle", blob("decision.rego", sampleRego, "decision.rego", sampleRego), "a path twice")
	bad("bundle", blob("", sampleRego), "an empty path")
	bad("bundle", whole[:len(whole)-1], "cut off")
	bad("bundle", append(blob("decision.rego", sampleRego), 0), "a byte too many")
	bad("bundle", blob("../decision.rego", sampleRego), "a path that leads out")
	bad("bundle", []byte(strings.Replace(string(whole), "bundle/v1", "bundle/v2", 1)), "another domain")
	bad("bundle", blob(), "no file")
	return v
}
