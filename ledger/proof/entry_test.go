package proof_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/regard-broker/regard/ledger/proof"
)

// sampleEntries has one valid entry of each kind, and both markers.
func sampleEntries() []proof.Entry {
	c := proof.Commitment(hashOf("commitment"))
	vrf := must(proof.NewLabelKey(&detRand{seed: "entry"})).Public()
	return []proof.Entry{
		proof.Disclosure{Epoch: 812, Commitment: c},
		proof.Access{Epoch: 812, Commitment: c},
		proof.Erasure{Epoch: 0, Commitment: c},
		proof.Opened{Epoch: 812, Deferred: 4711, Commitment: c},
		proof.Deferred{Epoch: 812, Authority: "Tribunal judiciaire de Bobigny (n° 12/2026)", Article: "CPP art. 60-1", Month: "2027-02", Commitment: c},
		proof.Marker{Epoch: 0, Opened: 1_764_000_000_000, Until: 1_764_086_400_000, VRF: vrf},
		proof.Marker{Epoch: 812, Opened: 1_764_000_000_000, Until: 1_764_086_400_000, VRF: vrf, Closed: &proof.Closed{
			Previous: hashOf("previous"), First: 1000, Size: 604, Items: 9, Bits: 2, Index: hashOf("index"),
			Counts: []proof.Count{{Kind: proof.KindDisclosure, N: 600}, {Kind: proof.KindEpoch, N: 1}, {Kind: proof.KindErasure, N: 2}, {Kind: proof.KindPolicy, N: 1}},
		}},
		proof.PolicyActivated{Epoch: 812, Revision: "2026-11-23.1", Bundle: hashOf("bundle")},
		proof.AgreementChanged{Epoch: 812, Agreement: "hab-1234", Version: 2, State: proof.Active, Digest: hashOf("agreement")},
		proof.AgreementChanged{Epoch: 812, Agreement: "hab-1234", Version: 2, State: proof.Revoked, Digest: hashOf("agreement")},
		proof.ServiceChanged{Epoch: 812, Service: "quotient-familial", Version: 3, State: proof.Withdrawn, Digest: hashOf("service")},
		proof.KeyChanged{Epoch: 812, Key: "checkpoint.1", Use: proof.UseCheckpoint, State: proof.Active, Public: hashOf("public")},
		proof.KeyChanged{Epoch: 812, Key: "record.2026-11", Use: proof.UseRecord, State: proof.Destroyed, Until: 1_900_000_000_000},
		proof.KeyChanged{Epoch: 812, Key: "agency.mairie-lyon", Use: proof.UseAgency, State: proof.Revoked, Public: hashOf("spki")},
		proof.KeyChanged{Epoch: 812, Key: "intent.3", Use: proof.UseIntent, State: proof.Active, Public: hashOf("intent key")},
		proof.KeyChanged{Epoch: 812, Key: "auditor.cour-des-comptes", Use: proof.UseAuditor, State: proof.Active, Public: hashOf("auditor vkey")},
		proof.KeyChanged{Epoch: 812, Key: "label.2026-11", Use: proof.UseLabel, State: proof.Retired, Public: proof.Hash(vrf)},
		proof.Restart{Epoch: 812, Reason: "log-moved", Size: 99, Root: hashOf("root")},
		proof.Restart{Epoch: 812, Reason: "restored", Size: 99, Root: hashOf("root"), Lost: proof.Lost{From: 41, To: 98}},
		proof.Audit{Epoch: 812, Auditor: "cour-des-comptes", From: 1000, To: 1603, Reason: "yearly"},
	}
}

// laterMarker closes an epoch that holds types which this version does not know.
func laterMarker(disclosures, items uint64) proof.Marker {
	m := proof.Marker{Epoch: 812, Opened: 1_764_000_000_000, Until: 1_764_086_400_000,
		VRF: must(proof.NewLabelKey(&detRand{seed: "entry"})).Public(), Closed: &proof.Closed{
			Previous: hashOf("previous"), First: 1000, Size: disclosures + 8, Items: items, Bits: proof.BucketBits(items), Index: hashOf("index"),
			Counts: []proof.Count{{Kind: "disclosure@v10", N: 2}, {Kind: "disclosure@v2", N: 1}, {Kind: "epoch@v1", N: 1}, {Kind: "zzz.new_type-1@v1", N: 4}},
		}}
	if disclosures > 0 {
		m.Closed.Counts = append([]proof.Count{{Kind: proof.KindDisclosure, N: disclosures}}, m.Closed.Counts...)
	}
	return m
}

// fullMarker counts every kind with the largest numbers that go together.
func fullMarker() proof.Marker {
	m := proof.Marker{Epoch: 1<<63 - 1, Opened: 1<<63 - 1, Until: 1<<63 - 1, VRF: must(proof.NewLabelKey(&detRand{seed: "full"})).Public(),
		Closed: &proof.Closed{Previous: hashOf("p"), First: 1 << 62, Index: hashOf("i"), Items: 1 << 58, Bits: 56}}
	for _, k := range proof.Kinds() {
		n := uint64(1 << 58)
		if k == proof.KindEpoch {
			n = 1
		}
		m.Closed.Counts = append(m.Closed.Counts, proof.Count{Kind: k, N: n})
		m.Closed.Size += n
	}
	return m
}

func TestEntriesRoundTrip(t *testing.T) {
	for _, e := range append(sampleEntries(), fullMarker(), laterMarker(600, 9)) {
		b := text(t, e)
		if len(b) >= 1024 {
			t.Errorf("%s: %d bytes", e.Kind(), len(b))
		}
		again, err := proof.ParseEntry(b)
		if err != nil {
			t.Errorf("%s: %v\n%s", e.Kind(), err, b)
			continue
		}
		if d := cmp.Diff(e, again); d != "" {
			t.Errorf("%s: %s", e.Kind(), d)
		}
		if !strings.HasPrefix(string(b), "regard/"+string(e.Kind())+"\nepoch ") {
			t.Errorf("%s begins with %q", e.Kind(), b)
		}
		if e.Kind() == proof.KindEpoch {
			continue
		}
		moved := e.WithEpoch(7)
		if moved.In() != 7 || moved.Kind() != e.Kind() || string(text(t, moved.WithEpoch(e.In()))) != string(b) {
			t.Errorf("%s: WithEpoch changes more than the epoch", e.Kind())
		}
	}
}

func TestZeroEntriesRefused(t *testing.T) {
	for _, e := range []proof.Entry{proof.Disclosure{}, proof.Access{}, proof.Erasure{}, proof.Opened{}, proof.Deferred{}, proof.Marker{},
		proof.PolicyActivated{}, proof.AgreementChanged{}, proof.ServiceChanged{}, proof.KeyChanged{}, proof.Restart{}, proof.Audit{}} {
		if _, err := proof.EntryText(e); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("zero %T: %v, want ErrFormat", e, err)
		}
	}
	if _, err := proof.EntryText(nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("nil entry: %v", err)
	}
}

// badEntries are texts that must be refused, each with the reason. They are
// published as vectors.
func badEntries() []struct{ reason, text string } {
	var all = map[proof.Kind]string{}
	for _, e := range sampleEntries() {
		all[e.Kind()] = string(must(proof.EntryText(e)))
	}
	later := string(must(proof.EntryText(laterMarker(600, 9))))
	d, m, def, k := all[proof.KindDisclosure], all[proof.KindEpoch], all[proof.KindDeferred], all[proof.KindKey]
	restart := all[proof.KindRestart]
	r := strings.NewReplacer
	return []struct{ reason, text string }{
		{"empty", ""},
		{"no line feed at the end", strings.TrimSuffix(d, "\n")},
		{"an empty line at the end", d + "\n"},
		{"CR LF", strings.ReplaceAll(d, "\n", "\r\n")},
		{"byte order mark", "\ufeff" + d},
		{"type not known", r("disclosure@v1", "disclosure@v2").Replace(d)},
		{"capital in the type", r("disclosure", "Disclosure").Replace(d)},
		{"no prefix", strings.TrimPrefix(d, "regard/")},
		{"epoch missing", r("epoch 812\n", "").Replace(d)},
		{"epoch with a leading zero", r("812", "0812").Replace(d)},
		{"epoch with a sign", r("812", "+812").Replace(d)},
		{"epoch above 2^63-1", r("812", "9223372036854775808").Replace(d)},
		{"epoch of 2^64+1, which wraps around", r("812", "18446744073709551617").Replace(d)},
		{"two spaces", r("epoch ", "epoch  ").Replace(d)},
		{"a space at the end", r("812", "812 ").Replace(d)},
		{"a key twice", r("epoch 812\n", "epoch 812\nepoch 812\n").Replace(d)},
		{"a key that the type does not have", d + "note x\n"},
		{"commitment too short", r("commitment ", "commitment AAAA").Replace(d[:len(d)-6] + "\n")},
		{"commitment without padding", r("=\n", "\n").Replace(d)},
		{"commitment in the URL alphabet", "regard/disclosure@v1\nepoch 812\ncommitment " + strings.Repeat("-", 43) + "=\n"},
		{"commitment with trailing bits set", "regard/disclosure@v1\nepoch 812\ncommitment " + strings.Repeat("A", 42) + "B=\n"},
		{"commitment of zero", "regard/disclosure@v1\nepoch 812\ncommitment " + strings.Repeat("A", 43) + "=\n"},
		{"opened without its deferred index", r("deferred 4711\n", "").Replace(all[proof.KindOpened])},
		{"authority empty", r("Tribunal judiciaire de Bobigny (n° 12/2026)", "").Replace(def)},
		{"authority of 201 bytes", r("Tribunal judiciaire de Bobigny (n° 12/2026)", strings.Repeat("x", 201)).Replace(def)},
		{"a control character in the authority", r("Tribunal", "Tribunal\t").Replace(def)},
		{"a C1 control character in the authority", r("Tribunal", "Tribunal\u0085").Replace(def)},
		{"invalid UTF-8 in the authority", r("Tribunal", "Tribunal\xff").Replace(def)},
		{"no such month", r("2027-02", "2027-13").Replace(def)},
		{"a day as month", r("2027-02", "2027-02-01").Replace(def)},
		{"keys in another order", r("authority", "article", "article", "authority").Replace(def)},
		{"counts do not add up to size", r("size 604", "size 605").Replace(m)},
		{"a count of zero", r("count policy@v1 1", "count policy@v1 0", "size 604", "size 603").Replace(m)},
		{"counts out of order", r("count erasure@v1 2\ncount policy@v1 1", "count policy@v1 1\ncount erasure@v1 2").Replace(m)},
		{"a kind counted twice", r("count disclosure@v1 600", "count disclosure@v1 300\ncount disclosure@v1 300").Replace(m)},
		{"a count of what is no type: no version", r("policy@v1", "zzz").Replace(m)},
		{"a count of what is no type: version 0", r("policy@v1", "zzz@v0").Replace(m)},
		{"a count of what is no type: leading zero", r("policy@v1", "zzz@v01").Replace(m)},
		{"a count of what is no type: capitals", r("policy@v1", "Zzz@v1").Replace(m)},
		{"a count of what is no type: no name", r("count policy@v1 1\n", "", "count disclosure", "count @v1 1\ncount disclosure").Replace(m)},
		{"types that are not known out of order", r("disclosure@v10", "disclosure@v2", "disclosure@v2", "disclosure@v10").Replace(later)},
		{"more labels than entries that may be filed", r("items 9", "items 608", "bits 2", "bits 8").Replace(later)},
		{"no label for filed entries, and a type that is not known", r("items 9", "items 0", "bits 2", "bits 0").Replace(later)},
		{"the closed epoch's own marker not counted", r("count epoch@v1 1\n", "", "size 604", "size 603").Replace(m)},
		{"two markers in an epoch", r("count epoch@v1 1", "count epoch@v1 2", "size 604", "size 605").Replace(m)},
		{"more labels than filed entries", r("items 9", "items 603", "bits 2", "bits 8").Replace(m)},
		{"no label for filed entries", r("items 9", "items 0", "bits 2", "bits 0").Replace(m)},
		{"bits that do not follow from items", r("bits 2", "bits 1").Replace(m)},
		{"closed epoch not described", m[:strings.Index(m, "previous")]},
		{"epoch 0 that closes another", r("epoch 812", "epoch 0").Replace(m)},
		{"epoch 1 that did not begin at index 0", r("epoch 812", "epoch 1").Replace(m)},
		{"due to close before it opens", r("until 1764086400000", "until 1763999999999").Replace(m)},
		{"vrf is the identity element", r(m[strings.Index(m, "vrf "):strings.Index(m, "previous")], "vrf "+strings.Repeat("A", 43)+"=\n").Replace(m)},
		{"vrf is not an element", r(m[strings.Index(m, "vrf "):strings.Index(m, "previous")], "vrf "+strings.Repeat("/", 42)+"8=\n").Replace(m)},
		{"version 0", r("version 2", "version 0").Replace(all[proof.KindAgreement])},
		{"an agreement is revoked, not withdrawn", r("state revoked", "state withdrawn").Replace(all[proof.KindAgreement])},
		{"a service is withdrawn, not revoked", r("state withdrawn", "state revoked").Replace(all[proof.KindService])},
		{"a name that is no token", r("agreement hab", "agreement Hab").Replace(all[proof.KindAgreement])},
		{"use not known", r("use label", "use labels").Replace(k)},
		{"a label key without its public half", k[:strings.Index(k, "public")] + "public -\nuntil 0\n"},
		{"a symmetric key with a public half", r("use label", "use record").Replace(k)},
		{"a key's name without its use", r("key label.2026-11", "key 2026-11").Replace(k)},
		{"a key's name of another use", r("key label.2026-11", "key record.2026-11").Replace(k)},
		{"a label key without a month", r("key label.2026-11", "key label.1").Replace(k)},
		{"a label key of no month", r("key label.2026-11", "key label.2026-13").Replace(k)},
		{"a label key of a day", r("key label.2026-11", "key label.2026-11-01").Replace(k)},
		{"a checkpoint key without a version", r("key label.2026-11", "key checkpoint.main", "use label", "use checkpoint").Replace(k)},
		{"a checkpoint key of version 0", r("key label.2026-11", "key checkpoint.0", "use label", "use checkpoint").Replace(k)},
		{"a checkpoint key with a leading zero", r("key label.2026-11", "key checkpoint.01", "use label", "use checkpoint").Replace(k)},
		{"an agency key without the agency", r("key label.2026-11", "key agency.", "use label", "use agency").Replace(k)},
		{"access without its commitment", "regard/access@v1\nepoch 812\n"},
		{"access with what it opened in clear", all[proof.KindAccess] + "target 7\n"},
		{"erasure without its commitment", "regard/erasure@v1\nepoch 0\n"},
		{"erasure with its reach in clear", r("commitment", "reach 7\ncommitment").Replace(all[proof.KindErasure])},
		{"erasure with a commitment of zero", "regard/erasure@v1\nepoch 0\ncommitment " + strings.Repeat("A", 43) + "=\n"},
		{"policy without its revision", r("revision 2026-11-23.1\n", "").Replace(all[proof.KindPolicy])},
		{"a revision that is no token", r("2026-11-23.1", "2026 11 23").Replace(all[proof.KindPolicy])},
		{"a bundle in hex", all[proof.KindPolicy][:strings.Index(all[proof.KindPolicy], "bundle ")] + "bundle " + strings.Repeat("0a", 32) + "\n"},
		{"a bundle of zero", all[proof.KindPolicy][:strings.Index(all[proof.KindPolicy], "bundle ")] + "bundle " + strings.Repeat("A", 43) + "=\n"},
		{"restart without its reason", r("reason restored\n", "").Replace(restart)},
		{"restart from an empty log", r("size 99", "size 0", "lost 41 98\n", "").Replace(restart)},
		{"a root of zero", r(restart[strings.Index(restart, "root "):strings.Index(restart, "lost ")], "root "+strings.Repeat("A", 43)+"=\n").Replace(restart)},
		{"lost before the root", "regard/restart@v1\nepoch 812\nreason restored\nsize 99\nlost 41 98\nroot " + hashOf("root").String() + "\n"},
		{"one index lost", r("lost 41 98", "lost 41").Replace(restart)},
		{"lost 0 0, the marker of epoch 0", r("lost 41 98", "lost 0 0").Replace(restart)},
		{"lost from the marker of epoch 0", r("lost 41 98", "lost 0 98").Replace(restart)},
		{"lost up to before it begins", r("lost 41 98", "lost 41 40").Replace(restart)},
		{"lost beyond the checkpoint", r("lost 41 98", "lost 41 99").Replace(restart)},
		{"lost with a leading zero", r("lost 41 98", "lost 041 98").Replace(restart)},
		{"lost twice", restart + "lost 41 98\n"},
		{"a range that ends before it begins", r("to 1603", "to 999").Replace(all[proof.KindAudit])},
		{"an auditor that is no token", r("cour-des-comptes", "Cour des comptes").Replace(all[proof.KindAudit])},
		{"a negative time", r("until 0", "until -1").Replace(k)},
		{"1024 bytes", r("Tribunal judiciaire de Bobigny (n° 12/2026)", strings.Repeat("x", 1024-len(def)+44)).Replace(def)},
	}
}

func TestBadEntriesRefused(t *testing.T) {
	good := map[string]bool{}
	for _, e := range sampleEntries() {
		good[string(must(proof.EntryText(e)))] = true
	}
	for _, c := range badEntries() {
		if good[c.text] {
			t.Errorf("%s: the text was not changed", c.reason)
		}
		if _, err := proof.ParseEntry([]byte(c.text)); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%s: %v, want ErrFormat\n%s", c.reason, err, c.text)
		}
	}
}

// A marker may count types of later versions: which of them are filed isn't known, so items are bounded by what may be.
func TestMarkerOfLaterVersion(t *testing.T) {
	for _, c := range []struct {
		disclosures, items uint64
		ok                 bool
	}{
		{0, 0, true}, {0, 1, true}, {0, 7, true}, {0, 8, false},
		{1, 0, false}, {1, 1, true}, {1, 8, true}, {1, 9, false},
		{600, 607, true}, {600, 608, false},
	} {
		m := laterMarker(c.disclosures, c.items)
		b, err := proof.EntryText(m)
		if !c.ok {
			if !errors.Is(err, proof.ErrFormat) {
				t.Errorf("%d disclosures, %d items: %v, want ErrFormat", c.disclosures, c.items, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%d disclosures, %d items: %v", c.disclosures, c.items, err)
			continue
		}
		if again, err := proof.ParseEntry(b); err != nil || cmp.Diff(proof.Entry(m), again) != "" {
			t.Errorf("%d disclosures, %d items: %v\n%s", c.disclosures, c.items, err, cmp.Diff(proof.Entry(m), again))
		}
	}
	// As many types as fit in an entry.
	m := laterMarker(600, 9)
	for i := range 30 {
		m.Closed.Counts = append(m.Closed.Counts, proof.Count{Kind: proof.Kind(fmt.Sprintf("zzz.x%02d@v1", i)), N: 1})
		m.Closed.Size++
	}
	if _, err := proof.ParseEntry(text(t, m)); err != nil {
		t.Error(err)
	}
}

func TestUnknownType(t *testing.T) {
	for text, want := range map[string]proof.Kind{
		"regard/disclosure@v2\nepoch 7\nanything é\n": "disclosure@v2", "regard/new.thing@v12\nepoch 7\n": "new.thing@v12",
	} {
		if _, err := proof.ParseEntry([]byte(text)); !errors.Is(err, proof.ErrUnknown) || !errors.Is(err, proof.ErrFormat) {
			t.Errorf("%q: %v, want ErrUnknown, which is an ErrFormat", text, err)
		}
		if kind, epoch, err := proof.ParseHead([]byte(text)); err != nil || kind != want || epoch != 7 {
			t.Errorf("head of %q: %q %d %v", text, kind, epoch, err)
		}
	}
	// What is malformed for every version isn't merely unknown.
	for _, text := range []string{
		"", "regard/new\nepoch 7\n", "regard/New@v1\nepoch 7\n", "regard/new@v0\nepoch 7\n", "regard/new@v1x\nepoch 7\n", "regard/@v1\nepoch 7\n",
		"regard/new@v1\n", "regard/new@v1\nepoch x\n", "regard/new@v1\nepoch 7", "regard/new@v1\nepoch 7\nlast", "regard/new@v1\nepoch 7\n\x00\n",
		"regard/new@v1\nepoch 7\n" + strings.Repeat("x", 1001) + "\n", "other/new@v1\nepoch 7\n",
	} {
		if _, err := proof.ParseEntry([]byte(text)); !errors.Is(err, proof.ErrFormat) || errors.Is(err, proof.ErrUnknown) {
			t.Errorf("%q: %v, want ErrFormat alone", text, err)
		}
		if _, _, err := proof.ParseHead([]byte(text)); !errors.Is(err, proof.ErrFormat) {
			t.Errorf("head of %q: %v", text, err)
		}
	}
	// No malformed known entry is taken for one of a later version.
	for _, c := range badEntries() {
		if _, err := proof.ParseEntry([]byte(c.text)); errors.Is(err, proof.ErrUnknown) != (c.reason == "type not known") {
			t.Errorf("%s: %v", c.reason, err)
		}
	}
}

func TestKinds(t *testing.T) {
	var filed []proof.Kind
	last := proof.Kind("")
	for _, k := range proof.Kinds() {
		if k <= last {
			t.Errorf("%s is out of order", k)
		}
		last = k
		if k.Filed() {
			filed = append(filed, k)
		}
	}
	if d := cmp.Diff([]proof.Kind{"access@v1", "disclosure@v1", "erasure@v1", "opened@v1"}, filed); d != "" {
		t.Error(d)
	}
	seen := map[proof.Kind]bool{}
	for _, e := range sampleEntries() {
		seen[e.Kind()] = true
		_, ok := proof.CommitmentOf(e)
		if ok != (e.Kind().Schema() != 0) {
			t.Errorf("%s: commitment %v, schema %d", e.Kind(), ok, e.Kind().Schema())
		}
	}
	if len(seen) != len(proof.Kinds()) {
		t.Errorf("%d kinds have samples, want %d", len(seen), len(proof.Kinds()))
	}
}

func TestBucketBits(t *testing.T) {
	for items, want := range map[uint64]uint8{0: 0, 1: 0, 4: 0, 5: 1, 8: 1, 9: 2, 16: 2, 17: 3, 4096: 10, 4097: 11, 1<<63 - 1: 61} {
		if got := proof.BucketBits(items); got != want {
			t.Errorf("BucketBits(%d) = %d, want %d", items, got, want)
		}
	}
	// The definition, by search: the smallest k with 4·2^k ≥ items.
	for items := uint64(0); items < 5000; items++ {
		k := uint8(0)
		for 4<<k < items {
			k++
		}
		if got := proof.BucketBits(items); got != k {
			t.Fatalf("BucketBits(%d) = %d, want %d", items, got, k)
		}
	}
}
