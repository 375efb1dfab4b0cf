package proof_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"filippo.io/torchwood"
	"github.com/google/go-cmp/cmp"
	"github.com/regard-broker/regard/ledger/proof"
	"golang.org/x/mod/sumdb/tlog"
)

func TestReceiptStates(t *testing.T) {
	w := newWorld()
	a := w.at(w.alice, 0)
	for _, c := range []struct {
		name      string
		cosigners []int
		settled   bool
		want      proof.State
		inRoll    bool
	}{
		{"log alone", nil, false, proof.Provisional, false},
		{"one of two witnesses", []int{1}, false, proof.Provisional, false},
		{"a witness and a stranger", []int{0, 3}, false, proof.Provisional, false},
		{"quorum", []int{0, 2}, false, proof.Witnessed, false},
		{"settled under the log alone", nil, true, proof.Provisional, true},
		{"settled", []int{0, 1, 2, 3}, true, proof.Settled, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.receipt(a, proof.ReaderPerson, c.cosigners, c.settled)
			v, err := r.Verify(w.policy, proof.VerifyOptions{})
			if c.want == proof.Provisional {
				if !errors.Is(err, proof.ErrNotWitnessed) {
					t.Fatalf("Verify without AllowProvisional: %v, want ErrNotWitnessed", err)
				}
				v, err = r.Verify(w.policy, proof.VerifyOptions{AllowProvisional: true})
			}
			if err != nil {
				t.Fatal(err)
			}
			if v.State != c.want || v.InRoll != c.inRoll {
				t.Errorf("state %v in roll %v, want %v %v", v.State, v.InRoll, c.want, c.inRoll)
			}
			if c.inRoll && v.RollSize != 4 {
				t.Errorf("roll size %d, want 4", v.RollSize)
			}
			if slices.Contains(c.cosigners, 3) && !slices.Equal(v.Unverified, []string{"stranger.example/witness"}) {
				t.Errorf("unverified %q: the stranger is not reported", v.Unverified)
			}
			again, err := proof.ParseReceipt(text(t, r))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(text(t, r)), string(text(t, again))); d != "" {
				t.Error("round trip:", d)
			}
		})
	}
}

// Every entry of a closed epoch settles, for the person, and the receipts of
// the agency and provider do too.
func TestEveryFiledEntrySettles(t *testing.T) {
	w := newWorld()
	n := 0
	for _, f := range w.filed {
		if !must(proof.ParseEntry(w.texts[f.index])).Kind().Filed() || f.index > w.epochs[1].closer {
			continue
		}
		readers := []proof.Reader{proof.ReaderPerson}
		if f.record.Schema() == proof.SchemaDisclosure {
			readers = append(readers, proof.ReaderAgency, proof.ReaderProvider)
		}
		for _, reader := range readers {
			v, err := w.receipt(f, reader, []int{0, 1}, true).Verify(w.policy, proof.VerifyOptions{})
			if err != nil || v.State != proof.Settled {
				t.Errorf("entry %d for %v: %v %v", f.index, reader, v.State, err)
			}
			n++
		}
	}
	if n < 30 {
		t.Errorf("only %d receipts checked", n)
	}
}

func TestSettlementNeedsSubject(t *testing.T) {
	w := newWorld()
	f := w.at(w.alice, 0)
	r := w.receipt(f, proof.ReaderAuditor, []int{0, 1}, true)
	if _, err := r.Verify(w.policy, proof.VerifyOptions{}); !errors.Is(err, proof.ErrHidden) {
		t.Errorf("settlement with a hidden subject: %v, want ErrHidden", err)
	}
	narrow, err := w.receipt(f, proof.ReaderPerson, []int{0, 1}, true).Narrow(proof.ReaderAuditor)
	if err != nil {
		t.Fatal(err)
	}
	if narrow.Settlement() != nil {
		t.Error("Narrow kept a settlement without the subject")
	}
	if v, err := narrow.Verify(w.policy, proof.VerifyOptions{}); err != nil || v.State != proof.Witnessed {
		t.Errorf("narrowed receipt: %v %v", v.State, err)
	}
}

func TestReceiptUpgrade(t *testing.T) {
	w := newWorld()
	f := w.at(w.bob, 0)
	size := int(f.index) + 1
	early := must(proof.NewReceipt(w.proven(f.index, size), f.record.Open(proof.ReaderAgency), w.checkpoint(size), nil))
	if v, err := early.Verify(w.policy, proof.VerifyOptions{AllowProvisional: true}); err != nil || v.State != proof.Provisional {
		t.Fatalf("early: %v %v", v.State, err)
	}
	late := len(w.texts)
	up, err := proof.NewReceipt(w.proven(f.index, late), early.Opening(), w.checkpoint(late, 0, 1), w.settlement(f, late))
	if err != nil {
		t.Fatal(err)
	}
	if v, err := up.Verify(w.policy, proof.VerifyOptions{}); err != nil || v.State != proof.Settled {
		t.Errorf("upgraded: %v %v", v.State, err)
	}
	// A checkpoint that doesn't cover the closing marker settles nothing.
	short := int(w.epochs[0].closer)
	s := w.settlement(f, late)
	s.Marker.Path = nil
	r := must(proof.NewReceipt(w.proven(f.index, short), f.record.Open(proof.ReaderAgency), w.checkpoint(short, 0, 1), s))
	if _, err := r.Verify(w.policy, proof.VerifyOptions{}); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("checkpoint before the closing marker: %v", err)
	}
}

// The part after the empty line is a tlog-proof for anybody.
func TestReceiptByTorchwood(t *testing.T) {
	w := newWorld()
	policy, err := torchwood.ParsePolicy([]byte(w.policyText))
	if err != nil {
		t.Fatal(err)
	}
	for i := range w.texts {
		leaf := tlog.RecordHash(w.texts[i])
		f := filed{index: proof.Index(i)}
		for _, g := range w.filed {
			if g.index == f.index {
				f = g
			}
		}
		if f.record == nil {
			continue
		}
		r := w.receipt(f, proof.ReaderPerson, []int{0, 1}, false)
		if err := torchwood.VerifyProof(policy, leaf, r.TLogProof()); err != nil {
			t.Errorf("entry %d: %v", i, err)
		}
		r = w.receipt(f, proof.ReaderPerson, []int{0}, false)
		if err := torchwood.VerifyProof(policy, leaf, r.TLogProof()); err == nil {
			t.Errorf("entry %d: torchwood accepts one witness of two", i)
		}
		r = w.receipt(f, proof.ReaderPerson, []int{0, 1}, false)
		if err := torchwood.VerifyProof(policy, tlog.RecordHash([]byte("other")), r.TLogProof()); err == nil {
			t.Errorf("entry %d: the proof holds for another entry", i)
		}
	}
}

// Whatever byte is changed, the receipt is refused; but lines of cosigners
// beyond the quorum may be damaged so that nobody's signature stands there any
// more: then the verdict names them as not verified.
func TestFlipEveryByte(t *testing.T) {
	w := newWorld()
	f := w.at(w.alice, 1)
	for _, c := range []struct {
		name string
		r    *proof.Receipt
		opt  proof.VerifyOptions
	}{
		{"provisional", w.receipt(f, proof.ReaderPerson, nil, false), proof.VerifyOptions{AllowProvisional: true}},
		{"witnessed", w.receipt(f, proof.ReaderAgency, []int{0, 1}, false), proof.VerifyOptions{}},
		{"settled", w.receipt(f, proof.ReaderPerson, []int{0, 1, 2, 3}, true), proof.VerifyOptions{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			good := text(t, c.r)
			want, err := must(proof.ParseReceipt(good)).Verify(w.policy, c.opt)
			if err != nil {
				t.Fatal(err)
			}
			// Where the witnesses' lines begin: after the log's own.
			logLine := bytes.LastIndex(good, []byte("— "+origin+" "))
			cosigned := logLine + bytes.IndexByte(good[logLine:], '\n') + 1
			accepted, step := 0, 1
			if testing.Short() {
				step = 5
			}
			for at := 0; at < len(good); at += step {
				for _, mask := range []byte{0x01, 0x20} {
					bad := bytes.Clone(good)
					bad[at] ^= mask
					r, err := proof.ParseReceipt(bad)
					if err != nil {
						if !errors.Is(err, proof.ErrFormat) {
							t.Fatalf("byte %d ^ %#x: parse error %v wraps no ErrFormat", at, mask, err)
						}
						continue
					}
					v, err := r.Verify(w.policy, c.opt)
					if err != nil {
						continue
					}
					accepted++
					if at < cosigned {
						t.Fatalf("byte %d ^ %#x (%q…) accepted", at, mask, good[at:min(len(good), at+16)])
					}
					if v.State != want.State || len(v.Witnesses)+len(v.Unverified) != len(want.Witnesses)+len(want.Unverified) || len(v.Unverified) == 0 {
						t.Fatalf("byte %d ^ %#x: accepted, and the damaged line is not reported: %+v", at, mask, v)
					}
				}
			}
			if c.name != "settled" && accepted != 0 {
				t.Errorf("%d flips accepted without spare cosignatures", accepted)
			}
			if c.name == "settled" && accepted == 0 {
				t.Error("no flip in the spare cosignatures was accepted and reported")
			}
		})
	}
}

// Cutting or inserting anywhere is refused too.
func TestReceiptCutAndGrow(t *testing.T) {
	w := newWorld()
	good := text(t, w.receipt(w.at(w.alice, 1), proof.ReaderPerson, []int{0, 1}, true))
	lines := bytes.SplitAfter(good, []byte("\n"))
	lines = lines[:len(lines)-1]
	check := func(what string, i int, bad []byte) {
		t.Helper()
		r, err := proof.ParseReceipt(bad)
		if err != nil {
			return
		}
		if v, err := r.Verify(w.policy, proof.VerifyOptions{}); err == nil && len(v.Witnesses) == 2 && len(v.Unverified) == 0 {
			t.Errorf("%s at line %d (%.40q) accepted", what, i+1, lines[i])
		}
	}
	for i := range lines {
		check("line removed", i, bytes.Join(slices.Delete(slices.Clone(lines), i, i+1), nil))
		check("line doubled", i, bytes.Join(slices.Insert(slices.Clone(lines), i, lines[i]), nil))
		check("empty line", i, bytes.Join(slices.Insert(slices.Clone(lines), i, []byte("\n")), nil))
		check("cut", i, bytes.Join(lines[:i], nil))
	}
}

func TestSettlementPartsSwapped(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	f := w.at(w.alice, 1) // epoch 0
	others := map[string]filed{
		"same roll":                    w.at(w.alice, 0),
		"other subject, same epoch":    w.at(w.corp, 0),
		"same subject, other epoch":    w.at(w.alice, 3),
		"other subject, other epoch":   w.at(w.bob, 2),
		"another kind, same roll":      w.at(w.alice, 2),
		"erasure, same subject, later": w.at(w.alice, 4),
	}
	parts := map[string]func(dst, src *proof.Settlement){
		"closing marker":       func(d, s *proof.Settlement) { d.Marker = s.Marker },
		"closing marker index": func(d, s *proof.Settlement) { d.Marker.Index = s.Marker.Index },
		"closing marker path":  func(d, s *proof.Settlement) { d.Marker.Path = s.Marker.Path },
		"closing marker text":  func(d, s *proof.Settlement) { d.Marker.Text = s.Marker.Text },
		"opener":               func(d, s *proof.Settlement) { d.Opener, d.OpenerText = s.Opener, s.OpenerText },
		"opener index":         func(d, s *proof.Settlement) { d.Opener = s.Opener },
		"opener text":          func(d, s *proof.Settlement) { d.OpenerText = s.OpenerText },
		"vrf proof":            func(d, s *proof.Settlement) { d.VRFProof = s.VRFProof },
		"bucket":               func(d, s *proof.Settlement) { d.Bucket = s.Bucket },
		"bucket items":         func(d, s *proof.Settlement) { d.Bucket.Items = s.Bucket.Items },
		"bucket and path":      func(d, s *proof.Settlement) { d.Bucket, d.BucketPath = s.Bucket, s.BucketPath },
		"bucket path":          func(d, s *proof.Settlement) { d.BucketPath = s.BucketPath },
		"leaf":                 func(d, s *proof.Settlement) { d.Leaf = s.Leaf },
		"leaf salt":            func(d, s *proof.Settlement) { d.Leaf.Salt = s.Leaf.Salt },
		"leaf position":        func(d, s *proof.Settlement) { d.Leaf.Position = s.Leaf.Position },
		"leaf path":            func(d, s *proof.Settlement) { d.Leaf.Path = s.Leaf.Path },
		"everything":           func(d, s *proof.Settlement) { *d = *s },
		"all but the markers": func(d, s *proof.Settlement) {
			d.VRFProof, d.Bucket, d.BucketPath, d.Leaf = s.VRFProof, s.Bucket, s.BucketPath, s.Leaf
		},
	}
	good := w.settlement(f, size)
	same := func(s *proof.Settlement) bool { return cmp.Equal(s, good) }
	tried := 0
	for who, other := range others {
		for what, swap := range parts {
			bad := w.settlement(f, size)
			swap(bad, w.settlement(other, size))
			if same(bad) {
				continue // both have this part in common
			}
			tried++
			r, err := proof.NewReceipt(w.proven(f.index, size), f.record.Open(proof.ReaderPerson), w.checkpoint(size, 0, 1), bad)
			if err != nil {
				continue
			}
			if v, err := r.Verify(w.policy, proof.VerifyOptions{}); err == nil {
				t.Errorf("%s of %s: accepted as %v", what, who, v.State)
			}
		}
		// And the other entry with this settlement.
		r, err := proof.NewReceipt(w.proven(other.index, size), other.record.Open(proof.ReaderPerson), w.checkpoint(size, 0, 1), good)
		if err == nil {
			if _, err = r.Verify(w.policy, proof.VerifyOptions{}); err == nil {
				t.Errorf("%s settled with another entry's settlement", who)
			}
		}
	}
	if tried < 60 {
		t.Errorf("only %d swaps tried", tried)
	}
}

func TestReceiptOpeningSwapped(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	a, b := w.at(w.alice, 0), w.at(w.bob, 0)
	r := must(proof.NewReceipt(w.proven(a.index, size), b.record.Open(proof.ReaderPerson), w.checkpoint(size, 0, 1), nil))
	if _, err := r.Verify(w.policy, proof.VerifyOptions{}); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("another record's opening: %v", err)
	}
	access := w.at(w.alice, 2)
	if _, err := proof.NewReceipt(w.proven(a.index, size), access.record.Open(proof.ReaderPerson), w.checkpoint(size), nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("opening of another schema: %v", err)
	}
	if _, err := proof.NewReceipt(w.proven(1, size), a.record.Open(proof.ReaderPerson), w.checkpoint(size), nil); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("receipt of an entry without commitment: %v", err)
	}
	if _, err := proof.NewReceipt(w.proven(a.index, size), proof.Opening{}, w.checkpoint(size), nil); err == nil {
		t.Error("zero opening accepted")
	}
	var zero *proof.Receipt
	if _, err := zero.Verify(w.policy, proof.VerifyOptions{AllowProvisional: true}); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("nil receipt: %v", err)
	}
	if _, err := new(proof.Receipt).Verify(w.policy, proof.VerifyOptions{AllowProvisional: true}); !errors.Is(err, proof.ErrUnproven) {
		t.Errorf("zero receipt: %v", err)
	}
}

// A deferred entry is in no roll.
func TestDeferredHasNoSettlement(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	var d filed
	for _, f := range w.filed {
		if must(proof.ParseEntry(w.texts[f.index])).Kind() == proof.KindDeferred {
			d = f
		}
	}
	if v, err := w.receipt(d, proof.ReaderAgency, []int{0, 1}, false).Verify(w.policy, proof.VerifyOptions{}); err != nil || v.State != proof.Witnessed {
		t.Errorf("deferred receipt: %v %v", v.State, err)
	}
	s := w.settlement(w.at(w.alice, 0), size)
	if _, err := proof.NewReceipt(w.proven(d.index, size), d.record.Open(proof.ReaderAgency), w.checkpoint(size, 0, 1), s); !errors.Is(err, proof.ErrFormat) {
		t.Errorf("deferred with a settlement: %v", err)
	}
}

func TestReceiptErrorsNameTheLine(t *testing.T) {
	w := newWorld()
	good := string(text(t, w.receipt(w.at(w.alice, 0), proof.ReaderPerson, nil, false)))
	bad := strings.Replace(good, "\n3 open ", "\n3 Open ", 1)
	_, err := proof.ParseReceipt([]byte(bad))
	if err == nil || !strings.Contains(err.Error(), "receipt line 9:") {
		t.Errorf("error %v does not say receipt line 9", err)
	}
	if err != nil && strings.Contains(err.Error(), "Lef") {
		t.Error("personal data in an error")
	}
	_, err = proof.ParseReceipt([]byte(strings.Repeat("x", 1<<20+1)))
	if !errors.Is(err, proof.ErrFormat) {
		t.Errorf("oversized: %v", err)
	}
	// Nothing of the person prints by accident.
	r := must(proof.ParseReceipt([]byte(good)))
	for _, f := range []string{"%v", "%+v", "%s", "%#v"} {
		if s := fmt.Sprintf(f, r.Opening()); strings.Contains(s, "LEFEVRE") || strings.Contains(s, "76 69") {
			t.Errorf("%s prints %q", f, s)
		}
	}
}

// NewReceipt doesn't parse what it made without a settlement: what it accepts must parse to the same receipt, and what it refuses must not be a receipt.
func TestNewReceiptAcceptsWhatParses(t *testing.T) {
	w := newWorld()
	size := len(w.texts)
	f := w.at(w.alice, 0)
	note := w.checkpoint(size)
	swapped := must(proof.NewRecord(proof.SchemaDisclosure, &detRand{seed: "swapped"}))
	for f, v := range map[proof.Field]string{proof.FieldSubjectType: "siren", proof.FieldSubject: "ALPHA"} {
		if err := swapped.SetText(f, v); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		edit   func(*proof.Proven)
		o      proof.Opening
		note   []byte
		accept bool
	}{
		{"a good one", nil, f.record.Open(proof.ReaderAgency), note, true},
		{"the longest path", func(p *proof.Proven) { p.Path = make([]proof.Hash, 63) }, f.record.Open(proof.ReaderAgency), note, true},
		{"a longer path", func(p *proof.Proven) { p.Path = make([]proof.Hash, 64) }, f.record.Open(proof.ReaderAgency), note, false},
		{"an index that can't be written", func(p *proof.Proven) { p.Index = 1 << 63 }, f.record.Open(proof.ReaderAgency), note, false},
		{"no checkpoint", nil, f.record.Open(proof.ReaderAgency), nil, false},
		{"a checkpoint without an end", nil, f.record.Open(proof.ReaderAgency), bytes.TrimRight(note, "\n"), false},
		{"a checkpoint with a NUL", nil, f.record.Open(proof.ReaderAgency), append([]byte{0}, note...), false},
		{"a huge checkpoint", nil, f.record.Open(proof.ReaderAgency), bytes.Repeat([]byte("x\n"), 1<<20), false},
		{"fields that contradict each other", nil, swapped.Open(proof.ReaderAgency), note, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := w.proven(f.index, size)
			if c.edit != nil {
				c.edit(&p)
			}
			r, err := proof.NewReceipt(p, c.o, c.note, nil)
			if !c.accept {
				if !errors.Is(err, proof.ErrFormat) || r != nil {
					t.Errorf("%v, want ErrFormat and no receipt", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := text(t, r)
			got := text(t, must(proof.ParseReceipt(want)))
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Error(d)
			}
		})
	}
}
