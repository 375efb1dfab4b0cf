package proof_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

var update = flag.Bool("update", false, "rewrite testdata/*.json from the code")

// The published vectors. Binary values are in hex ("…_hex") or, where the
// formats use it, in base64. Each bad example names the reason.

type vector map[string]any

type vectorFile struct {
	Format string   `json:"format"`
	Notes  string   `json:"notes,omitempty"`
	Common vector   `json:"common,omitempty"`
	Good   []vector `json:"good"`
	Bad    []vector `json:"bad"`
}

func vectors() map[string]vectorFile {
	w := newWorld()
	return map[string]vectorFile{
		"subjects.json": subjectVectors(), "entries.json": entryVectors(), "records.json": recordVectors(),
		"openings.json": openingVectors(w), "labels.json": labelVectors(), "rolls.json": rollVectors(),
		"index.json": indexVectors(), "checkpoints.json": checkpointVectors(w), "receipts.json": receiptVectors(w),
		"sets.json": setVectors(), "epochs.json": epochVectors(w), "explanations.json": explanationVectors(),
		"history.json": historyVectors(), "canonical.json": canonicalVectors(), "policy.json": policyVectors(),
		"intents.json": intentVectors(),
	}
}

func subjectVectors() vectorFile {
	v := vectorFile{Format: "subject (section 5)", Notes: "Unicode 15.0.0 (U+0897 is a mark in later versions, and separates here). good: input parts and the canonical form, or the canonical form alone; fold: names and their folded form; bad: no canonical forms"}
	for _, p := range []proof.Pivot{
		{BirthName: "Lefèvre-Œuvrard", GivenNames: "Anne, Élise", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056", BirthCountry: "99100"},
		{BirthName: "d’Artagnan", GivenNames: "Charles", BirthDate: "1900-02", Sex: "M", BirthPlace: "2B033"},
		{BirthName: "Groß", GivenNames: "", BirthDate: "", Sex: "", BirthCountry: "99109"},
	} {
		s := must(p.Subject())
		v.Good = append(v.Good, vector{"type": s.Type(), "canonical": s.Value(), "complete": p.Complete(), "input": []string{p.BirthName, p.GivenNames, p.BirthDate, p.Sex, p.BirthPlace, p.BirthCountry}})
	}
	for typ, values := range map[string][]string{
		"person": {"D ALEMBERT|JEAN|1990-02|M", "X|||"}, "nir": {"255081416802538", "184052A004001" + must(proof.NIR("184052A004001")).Value()[13:]},
		"ine": {"0123456789A"}, "france_travail": {"dupont-42_X"}, "siren": {"130025265", "356000000"},
	} {
		for _, c := range values {
			v.Good = append(v.Good, vector{"type": typ, "canonical": c})
		}
	}
	slices.SortStableFunc(v.Good, func(a, b vector) int { return strings.Compare(fmt.Sprint(a["type"]), fmt.Sprint(b["type"])) })
	fold := []vector{}
	for _, n := range []string{"Lefe\u0300vre", "cœur", "Ægidius", "Groß", "d'Artagnan", "Jean\u00a0Paul", "Søren", "李 Wei", "محمد", "A1B2", "ﬁn", "A\u0378B", "A\u0897B", "A\u200dB"} {
		fold = append(fold, vector{"name": n, "folded": proof.FoldName(n)})
	}
	v.Common = vector{"fold": fold}
	for _, b := range [][3]string{
		{"pivot", "LEFEVRE|ANNE|1987-04-30|F|75056", "five parts"},
		{"pivot", "Lefevre|ANNE|1987-04-30|F|75056|99100", "lower case"},
		{"pivot", "LEFEVRE|ANNE  ELISE|1987-04-30|F|75056|99100", "two spaces"},
		{"pivot", "LEFEVRE|ANNE|1987-02-29|F|75056|99100", "no such day"},
		{"pivot", "LEFEVRE|ANNE|1987-04-30|F|75056|", "a French commune without its country"},
		{"pivot", "LEFEVRE|ANNE|1987-04-30|F|75056|99132", "a French commune in another country"},
		{"pivot", "LEFEVRE|ANNE|1987-04-30|F|96001|99100", "no such department"},
		{"pivot", "|ANNE|1987-04-30|F|75056|99100", "no birth name"},
		{"person", "LEFEVRE|ANNE|1987-04-30|X", "sex is M, F or empty"},
		{"nir", "255081416802539", "key does not match"},
		{"nir", "184052C00400142", "2C is no department"},
		{"ine", "0123456789a", "lower case"},
		{"france_travail", "", "empty"},
		{"siren", "130025266", "check digit"},
		{"siret", "13002526500013", "no such type: a SIRET is filed under its SIREN"},
	} {
		v.Bad = append(v.Bad, vector{"type": b[0], "canonical": b[1], "reason": b[2]})
	}
	return v
}

func entryVectors() vectorFile {
	v := vectorFile{Format: "entry (section 3)", Notes: "bad: refused by a reader of entries; one of them is of a type that is not known, which a reader that only hashes and counts accepts"}
	for _, e := range append(sampleEntries(), fullMarker(), laterMarker(600, 9)) {
		b := must(proof.EntryText(e))
		v.Good = append(v.Good, vector{"text": string(b), "filed": e.Kind().Filed(), "leaf_hash": proof.LeafHash(b).String()})
	}
	for _, c := range badEntries() {
		v.Bad = append(v.Bad, vector{"text_hex": hex.EncodeToString([]byte(c.text)), "reason": c.reason})
	}
	return v
}

func recordVectors() vectorFile {
	v := vectorFile{Format: "record: parts as stored and commitment (section 4)"}
	w := &world{rand: &detRand{seed: "record vectors"}}
	s := must(proof.SIREN("130025265"))
	for _, k := range []proof.Kind{proof.KindDisclosure, proof.KindAccess, proof.KindErasure} {
		r := w.record(k, s)
		v.Good = append(v.Good, vector{"schema": k.Schema(), "person_part_hex": hex.EncodeToString(r.AppendPersonPart(nil)), "admin_part_hex": hex.EncodeToString(r.AppendAdminPart(nil)), "commitment": r.Commitment().String()})
	}
	empty := must(proof.NewRecord(proof.SchemaErasure, w.rand))
	v.Good = append(v.Good, vector{"schema": 3, "person_part_hex": hex.EncodeToString(empty.AppendPersonPart(nil)), "admin_part_hex": hex.EncodeToString(empty.AppendAdminPart(nil)), "commitment": empty.Commitment().String()})
	for _, x := range obtainedRecords(w.rand) {
		v.Good = append(v.Good, vector{"schema": 1, "person_part_hex": hex.EncodeToString(x.record.AppendPersonPart(nil)), "admin_part_hex": hex.EncodeToString(x.record.AppendAdminPart(nil)), "commitment": x.record.Commitment().String(), "note": x.note})
	}
	answer := disclosureRecord(w.rand, s, proof.DisclosureRole, proof.DisclosureContext, proof.DisclosureObject, proof.DisclosurePayloadKey)
	if err := answer.SetText(proof.DisclosureRole, proof.RoleAnswer); err != nil {
		panic(err)
	}
	half := must(proof.NewRecord(proof.SchemaErasure, w.rand))
	if err := half.SetText(proof.FieldSubjectType, "siren"); err != nil {
		panic(err)
	}
	r, o := w.record(proof.KindErasure, s), w.record(proof.KindErasure, s)
	p, a := r.AppendPersonPart(nil), r.AppendAdminPart(nil)
	for _, b := range []struct {
		person, admin []byte
		reason        string
	}{
		{o.AppendPersonPart(nil), a, "person part of another record"},
		{p[:len(p)-1], a, "person part cut off"},
		{append(slices.Clone(p), 0), a, "a byte too many"},
		{replaceAt(p, 35, 2), a, "presence is 0 or 1"},
		{replaceAt(p, 35, 0), a, "an absent field with a value"},
		{p, replaceAt(a, 1, 9), "schema not known"},
		{a, p, "parts swapped"},
		{answer.AppendPersonPart(nil), answer.AppendAdminPart(nil), "role answer with a payload"},
		{half.AppendPersonPart(nil), half.AppendAdminPart(nil), "a subject's type without the subject"},
	} {
		v.Bad = append(v.Bad, vector{"person_part_hex": hex.EncodeToString(b.person), "admin_part_hex": hex.EncodeToString(b.admin), "reason": b.reason})
	}
	return v
}

func openingVectors(w *world) vectorFile {
	v := vectorFile{Format: "opening (section 4)"}
	f := w.at(w.alice, 0)
	for _, r := range []proof.Reader{proof.ReaderPerson, proof.ReaderAgency, proof.ReaderProvider, proof.ReaderAuditor} {
		v.Good = append(v.Good, vector{"reader": r.String(), "text": string(must(f.record.Open(r).AppendText(nil))), "commitment": f.record.Commitment().String()})
	}
	for _, x := range obtainedRecords(&detRand{seed: "opening vectors"}) {
		v.Good = append(v.Good, vector{"reader": proof.ReaderPerson.String(), "text": string(must(x.record.Open(proof.ReaderPerson).AppendText(nil))), "commitment": x.record.Commitment().String(), "note": x.note})
	}
	for _, r := range []*proof.Record{w.at(w.alice, 2).record, w.at(w.alice, 4).record} {
		for _, reader := range []proof.Reader{proof.ReaderPerson, proof.ReaderAuditor} {
			v.Good = append(v.Good, vector{"reader": reader.String(), "text": string(must(r.Open(reader).AppendText(nil))), "commitment": r.Commitment().String()})
		}
	}
	e := w.at(w.alice, 4).record
	good := string(must(e.Open(proof.ReaderPerson).AppendText(nil)))
	lines := strings.SplitAfter(good, "\n")
	swap := func(old, new string) string { return strings.Replace(good, old, new, 1) }
	for _, b := range [][2]string{
		{swap("opening 3 7", "opening 3 6"), "not the number of fields of the schema"},
		{swap("opening 3 7", "opening 9 7"), "schema not known"},
		{swap("opening 3 7", "opening 03 7"), "leading zero"},
		{strings.Join(slices.Concat(lines[:2], lines[3:]), ""), "a line missing"},
		{strings.Join(slices.Concat(lines[:1], lines[2:3], lines[1:2], lines[3:]), ""), "lines out of order"},
		{swap("2 open ", "2 hidden "), "a value on a hidden line"},
		{swap("2 open ", "2 OPEN "), "not open, none or hidden"},
		{swap("=\n", "\n"), "base64 without padding"},
		{good + "\n", "an empty line at the end"},
		{strings.TrimSuffix(good, "\n"), "no line feed at the end"},
		{swap(lines[4], strings.Join(strings.Split(lines[4], " ")[:3], " ")+" \n"), "an empty value is written -"},
		{swap(lines[4], strings.Join(strings.Split(lines[4], " ")[:3], " ")+" MDA3\n"), "an integer with a leading zero as value"},
		{swap(lines[2], strings.Join(strings.Split(lines[2], " ")[:3], " ")+" eA==\n"), "a subject that is not canonical for its type"},
		{swap(lines[1], strings.Replace(strings.Join(strings.Split(lines[1], " ")[:3], " ")+"\n", "open", "none", 1)), "a subject without its type"},
	} {
		v.Bad = append(v.Bad, vector{"text": b[0], "reason": b[1]})
	}
	disclosure := string(must(f.record.Open(proof.ReaderPerson).AppendText(nil)))
	field := func(i int, value string) string {
		at := strings.Index(disclosure, fmt.Sprintf("\n%d open ", i)) + 1
		end := at + strings.IndexByte(disclosure[at:], '\n')
		words := strings.Split(disclosure[at:end], " ")
		return disclosure[:at] + strings.Join(words[:3], " ") + " " + base64.StdEncoding.EncodeToString([]byte(value)) + disclosure[end:]
	}
	for _, b := range []struct {
		field  int
		value  string
		reason string
	}{
		{6, "answer", "role answer with context, object, payload key and payload"}, {6, "Asked", "a role that is none"}, {8, "21690123100012", "a SIRET whose check digit does not match"},
		{11, "quotient-familial", "a service without its version"}, {12, "data", "no JSON pointer: no slash"}, {12, "/data/a~2b", "no JSON pointer: ~ stands before 0 or 1"}, {12, "/data/a~", "no JSON pointer: ~ at the end"},
		{13, "/b\n/a", "a list out of order"}, {13, "/a\n/a", "an item twice"}, {14, "/a\n", "an empty item"}, {14, "\n", "two empty items"},
		{19, `{"b":0,"a":0}`, "an input that is not canonical JSON: keys out of order"}, {19, `{"a": 0}`, "an input that is not canonical JSON: white space"}, {19, "text", "an input that is no JSON"},
		{22, "provider//504", "a cause with an empty token"}, {5, "0B6C1F0E-7D3F-4A52-9F57-0D6B3C1A2E4F", "a UUID in upper case"}, {25, "0af7651916cd43dd8448eb211c80319", "a trace id of 31 digits"},
	} {
		v.Bad = append(v.Bad, vector{"text": field(b.field, b.value), "reason": b.reason})
	}
	return v
}

// obtainedRecords are disclosures that say what is known of the provider's
// answer: nothing, that it held nothing, or which fields it held.
func obtainedRecords(rand *detRand) (out []struct {
	record *proof.Record
	note   string
}) {
	for _, x := range []struct {
		note string
		set  []string
	}{{"interrupted: obtained is absent, for nobody knows what the provider said", nil}, {"denied: obtained is present and empty, for the provider was not asked", []string{}}} {
		r := disclosureRecord(rand, must(proof.SIREN("130025265")), proof.DisclosureObtained, proof.DisclosureReleased, proof.DisclosureOutcome, proof.DisclosurePayload, proof.DisclosurePayloadKey)
		errs := []error{r.SetList(proof.DisclosureReleased, nil)}
		if x.set == nil {
			errs = append(errs, r.SetText(proof.DisclosureOutcome, proof.OutcomeFailed), r.SetText(proof.DisclosureCause, "interrupted"))
		} else {
			errs = append(errs, r.SetText(proof.DisclosureOutcome, proof.OutcomeDenied), r.SetList(proof.DisclosureObtained, x.set), r.SetList(proof.DisclosureReasons, []string{"scope.outside"}))
		}
		if err := errors.Join(errs...); err != nil {
			panic(err)
		}
		out = append(out, struct {
			record *proof.Record
			note   string
		}{r, x.note})
	}
	return out
}

func labelVectors() vectorFile {
	v := vectorFile{Format: "label (section 6)", Notes: "bad: the proof is refused under this key, epoch and subject"}
	k := must(proof.NewLabelKey(&detRand{seed: "label vectors"}))
	other := must(proof.NewLabelKey(&detRand{seed: "other label vectors"}))
	pivot := must(proof.Pivot{BirthName: "Lefèvre", GivenNames: "Anne", BirthDate: "1987-04-30", Sex: "F", BirthPlace: "75056"}.Subject())
	row := func(pub proof.LabelPublicKey, e proof.Epoch, s proof.Subject, p []byte) vector {
		return vector{"public": pub.String(), "epoch": e, "type": s.Type(), "subject": s.Value(), "proof": hex.EncodeToString(p)}
	}
	for _, s := range []proof.Subject{pivot, must(proof.SIREN("130025265"))} {
		for _, e := range []proof.Epoch{0, 812} {
			z, p := k.Prove(s, e)
			g := row(k.Public(), e, s, p)
			g["secret_hex"], g["alpha_hex"], g["label"] = hex.EncodeToString(k.Bytes()), hex.EncodeToString(proof.LabelInput(s, e)), z.String()
			v.Good = append(v.Good, g)
		}
	}
	_, p := k.Prove(pivot, 812)
	bad := func(g vector, reason string) { g["reason"] = reason; v.Bad = append(v.Bad, g) }
	bad(row(k.Public(), 813, pivot, p), "another epoch")
	bad(row(other.Public(), 812, pivot, p), "another key")
	bad(row(k.Public(), 812, must(proof.SIREN("130025265")), p), "another subject")
	bad(row(k.Public(), 812, pivot, replaceAt(p, 79, p[79]^1)), "a changed bit")
	bad(row(k.Public(), 812, pivot, p[:79]), "79 bytes")
	bad(row(proof.LabelPublicKey{}, 812, pivot, make([]byte, 80)), "the identity element as key: everything would verify")
	return v
}

type leafVector struct {
	Index proof.Index `json:"index"`
	Salt  string      `json:"salt"`
}

func leafVectors(leaves []proof.OpenLeaf) []leafVector {
	out := []leafVector{}
	for _, l := range leaves {
		out = append(out, leafVector{l.Index, proof.Hash(l.Salt).String()})
	}
	return out
}

func rollVectors() vectorFile {
	v := vectorFile{Format: "roll, opened as a whole (section 6)", Notes: "index 18446744073709551615 is a dummy; indexes above 2^53 do not fit in a double"}
	z := proof.Label(hashOf("roll vector"))
	for _, indexes := range [][]proof.Index{{7}, {1, 2, 3, 4}, {9, 5, 8, 1, 1 << 40}} {
		r := must(proof.NewRoll(hashOf("secret"), z, indexes))
		p := must(r.Leaf(indexes[0]))
		path := []string{}
		for _, h := range p.Path {
			path = append(path, h.String())
		}
		v.Good = append(v.Good, vector{"leaves": leafVectors(r.Open()), "root": r.Root().String(),
			"leaf": vector{"index": indexes[0], "position": p.Position, "size": p.Size, "salt": proof.Hash(p.Salt).String(), "path": path}})
	}
	good := must(proof.NewRoll(hashOf("secret"), z, []proof.Index{7})).Open()
	swapped := slices.Clone(good)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	dummies := slices.DeleteFunc(slices.Clone(must(proof.NewRoll(hashOf("secret"), z, []proof.Index{1, 2, 3, 4, 5})).Open()), func(l proof.OpenLeaf) bool { return !l.Dummy() })
	v.Bad = []vector{
		{"leaves": leafVectors(swapped), "reason": "not in increasing order"},
		{"leaves": leafVectors(good[:2]), "reason": "fewer than 4 leaves"},
		{"leaves": leafVectors(good[:3]), "reason": "not a power of two"},
		{"leaves": leafVectors(append(dummies, good[0])), "reason": "no entry, or not padded as it should be"},
	}
	return v
}

func indexVectors() vectorFile {
	v := vectorFile{Format: "index of an epoch (section 6)", Notes: "items are label and roll root, 64 bytes in base64; with a marker: what the index that it names says about a label, whose roll_root is empty if it has none; bad: leaves that are not well-formed, or that do not show anything about the label"}
	for _, n := range []int{0, 3, 9, 40} {
		items := make([]proof.Item, n)
		list := []string{}
		for i := range items {
			items[i] = proof.Item{Label: proof.Label(hashOf(fmt.Sprint("label ", i))), Root: hashOf(fmt.Sprint("root ", i))}
		}
		sortItems(items)
		for _, it := range items {
			list = append(list, it.Label.String()+" "+it.Root.String())
		}
		leaves := []string{}
		s := must(proof.BuildIndex(812, uint64(n), seq(items), func(_ uint64, leaf []byte) error {
			leaves = append(leaves, hex.EncodeToString(leaf))
			return nil
		}))
		v.Good = append(v.Good, vector{"epoch": 812, "items": list, "bits": s.Bits, "leaves_hex": leaves, "root": s.Root.String()})
	}
	b := proof.Bucket{Epoch: 812, Bits: 1, Number: 1, Items: []proof.Item{{Label: proof.Label{0x80}, Root: hashOf("a")}, {Label: proof.Label{0xff}, Root: hashOf("b")}}}
	leaf := must(b.Leaf())
	head := len(leaf) - 128
	swapped := slices.Concat(leaf[:head], leaf[head+64:], leaf[head:head+64])
	for _, x := range []struct {
		leaf   []byte
		reason string
	}{
		{swapped, "labels not increasing"},
		{slices.Concat(leaf[:head+64], leaf[head:head+64]), "a label twice"},
		{replaceAt(leaf, head-1, 0), "labels of another bucket"},
		{replaceAt(leaf, head-1, 2), "bucket number beyond 2^k"},
		{leaf[:len(leaf)-1], "cut off"},
		{replaceAt(leaf, 0, 'R'), "another domain"},
		{leaf[:head-1], "head cut off"},
	} {
		v.Bad = append(v.Bad, vector{"leaf_hex": hex.EncodeToString(x.leaf), "reason": x.reason})
	}
	good, bad := lookupVectors()
	v.Good, v.Bad = append(v.Good, good...), append(v.Bad, bad...)
	return v
}

func checkpointVectors(w *world) vectorFile {
	size := len(w.texts)
	v := vectorFile{Format: "signed checkpoint (section 2) under a policy (c2sp.org/tlog-policy)", Common: vector{"policy": w.policyText}}
	for _, cosigners := range [][]int{nil, {0}, {0, 2}, {0, 1, 2, 3}} {
		cp := w.verified(size, cosigners...)
		v.Good = append(v.Good, vector{"note": string(w.checkpoint(size, cosigners...)), "size": cp.Size(), "root": cp.Root().String(), "witnessed": cp.Witnessed(),
			"witnesses": strings.Join(cp.Witnesses(), " "), "unverified": strings.Join(cp.Unverified(), " ")})
	}
	for _, c := range badCheckpoints(w) {
		v.Bad = append(v.Bad, vector{"note": c.note, "reason": c.reason})
	}
	return v
}

func setVectors() vectorFile {
	v := vectorFile{Format: "set (section 8)", Bad: []vector{{"commitments": []string{}, "reason": "no entries"}}}
	for _, n := range []int{1, 2, 17} {
		var cs []proof.Commitment
		list := []string{}
		for i := range n {
			cs = append(cs, proof.Commitment(hashOf(fmt.Sprint("set ", i))))
			list = append(list, cs[i].String())
		}
		v.Good = append(v.Good, vector{"commitments": list, "set": proof.SetDigest(cs).String()})
	}
	return v
}

func receiptVectors(w *world) vectorFile {
	v := vectorFile{Format: "receipt (section 7) under a policy", Common: vector{"policy": w.policyText},
		Notes: "state is what a verifier says that accepts provisional receipts; bad: refused by it too"}
	size := len(w.texts)
	a, b := w.at(w.alice, 0), w.at(w.bob, 0)
	all := []int{0, 1, 2, 3}
	for _, g := range []struct {
		f         filed
		reader    proof.Reader
		cosigners []int
		settled   bool
	}{
		{a, proof.ReaderPerson, nil, false}, {a, proof.ReaderAgency, []int{0, 1}, false}, {a, proof.ReaderAuditor, []int{1, 2}, false},
		{a, proof.ReaderPerson, all, true}, {b, proof.ReaderProvider, []int{0, 2}, true}, {a, proof.ReaderPerson, []int{0}, true},
		{w.at(w.alice, 2), proof.ReaderPerson, all, true}, {w.at(w.alice, 4), proof.ReaderPerson, all, true},
		{w.at(w.bob, 1), proof.ReaderAgency, all, false}, {w.at(w.bob, 3), proof.ReaderPerson, all, true},
	} {
		r := w.receipt(g.f, g.reader, g.cosigners, g.settled)
		verdict := must(r.Verify(w.policy, proof.VerifyOptions{AllowProvisional: true}))
		v.Good = append(v.Good, vector{"text": string(must(r.AppendText(nil))), "reader": g.reader.String(), "kind": verdict.Kind, "index": verdict.Index,
			"state": verdict.State.String(), "in_roll": verdict.InRoll, "unverified": strings.Join(verdict.Unverified, " ")})
	}
	delayed, _, access := newDelayedWorld()
	opened := delayed.receipt(access, proof.ReaderPerson, all, true)
	verdict := must(opened.Verify(w.policy, proof.VerifyOptions{AllowProvisional: true}))
	v.Good = append(v.Good, vector{"text": string(must(opened.AppendText(nil))), "reader": proof.ReaderPerson.String(), "kind": verdict.Kind, "index": verdict.Index,
		"state": verdict.State.String(), "in_roll": verdict.InRoll, "unverified": strings.Join(verdict.Unverified, " "), "note": "an access that was delayed with what it was to"})
	settled := string(must(w.receipt(a, proof.ReaderPerson, all, true).AppendText(nil)))
	bad := func(reason, text string) {
		if text == settled {
			panic(reason + ": not changed")
		}
		v.Bad = append(v.Bad, vector{"text": text, "reason": reason})
	}
	swap := func(old, new string) string { return strings.Replace(settled, old, new, 1) }
	parts := func(change func(*proof.Settlement)) string {
		s := w.settlement(a, size)
		change(s)
		return string(must(must(proof.NewReceipt(w.proven(a.index, size), a.record.Open(proof.ReaderPerson), w.checkpoint(size, all...), s)).AppendText(nil)))
	}
	bs := w.settlement(b, size)
	plain := string(must(w.receipt(a, proof.ReaderPerson, all, false).AppendText(nil)))
	bad("another header", swap("receipt@v1", "receipt@v2"))
	bad("CR LF", strings.ReplaceAll(settled, "\n", "\r\n"))
	bad("an extra line in the tlog-proof", swap("\nindex ", "\nextra AA==\nindex "))
	bad("settlement cut short", settled[:strings.Index(settled, "vrf-proof")]+settled[strings.Index(settled, "\nc2sp.org"):])
	bad("another log index", swap(fmt.Sprintf("\nindex %d\n", a.index), fmt.Sprintf("\nindex %d\n", a.index+1)))
	bad("a field's value changed, the subject's type", swap(" cGl2b3Q=\n", " cGVyc29u\n"))
	bad("the opening of another record", string(must(must(proof.NewReceipt(w.proven(a.index, size), b.record.Open(proof.ReaderPerson), w.checkpoint(size, all...), nil)).AppendText(nil))))
	bad("a hash of the inclusion proof missing", plain[:strings.Index(plain, "\nindex ")+9]+plain[strings.Index(plain, "\nindex ")+9+45:])
	bad("roll of another subject", parts(func(s *proof.Settlement) { s.Leaf = bs.Leaf }))
	bad("label of another subject", parts(func(s *proof.Settlement) { s.VRFProof = bs.VRFProof }))
	bad("an item left out of the bucket", parts(func(s *proof.Settlement) { s.Bucket.Items = s.Bucket.Items[1:] }))
	bad("the closing marker of the next epoch", parts(func(s *proof.Settlement) {
		later := w.settlement(w.at(w.alice, 3), size)
		s.Marker = later.Marker
		s.Bucket, s.BucketPath = later.Bucket, later.BucketPath
	}))
	bad("an opener at another index", parts(func(s *proof.Settlement) { s.Opener++ }))
	bad("leaf at another position", parts(func(s *proof.Settlement) { s.Leaf.Position ^= 1 }))
	hidden := must(proof.NewReceipt(w.proven(a.index, size), a.record.Open(proof.ReaderAuditor), w.checkpoint(size, all...), w.settlement(a, size)))
	bad("a settlement with the subject hidden", string(must(hidden.AppendText(nil))))
	return v
}

func TestVectors(t *testing.T) {
	for name, v := range vectors() {
		var buf bytes.Buffer
		enc := json.NewEncoder(&buf)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", " ")
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", name)
		if *update {
			if err := os.MkdirAll("testdata", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, buf.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		published, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(published, buf.Bytes()) {
			t.Errorf("%s is not what the code makes: a format changed, or run with -update if it was meant to", name)
		}
		if len(v.Good) == 0 || len(v.Bad) == 0 {
			t.Errorf("%s: %d good, %d bad", name, len(v.Good), len(v.Bad))
		}
	}
}
