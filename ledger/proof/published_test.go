package proof_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// readVectors reads a published file as another implementation would.
func readVectors(t *testing.T, name string) (common map[string]json.RawMessage, good, bad []map[string]json.RawMessage) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var f struct {
		Common    map[string]json.RawMessage
		Good, Bad []map[string]json.RawMessage
	}
	if err := json.Unmarshal(b, &f); err != nil {
		t.Fatal(err)
	}
	return f.Common, f.Good, f.Bad
}

func str(m map[string]json.RawMessage, key string) string {
	var s string
	if raw, ok := m[key]; ok && json.Unmarshal(raw, &s) != nil {
		s = string(raw) // a number or boolean
	}
	return s
}

func unhex(m map[string]json.RawMessage, key string) []byte {
	return must(hex.DecodeString(str(m, key)))
}

func TestPublishedVectors(t *testing.T) {
	run := func(name string, good, bad func(common, v map[string]json.RawMessage) error) {
		t.Run(name, func(t *testing.T) {
			common, gs, bs := readVectors(t, name)
			if common == nil {
				common = map[string]json.RawMessage{}
			}
			common["good"] = must(json.Marshal(gs)) // to which bad ones may refer
			for i, v := range gs {
				if err := good(common, v); err != nil {
					t.Errorf("good %d: %v", i, err)
				}
			}
			for i, v := range bs {
				if str(v, "reason") == "" {
					t.Errorf("bad %d has no reason", i)
				}
				if bad(common, v) == nil {
					t.Errorf("bad %d (%s): accepted", i, str(v, "reason"))
				}
			}
		})
	}
	type m = map[string]json.RawMessage
	same := func(what, got, want string) error {
		if got != want {
			return fmt.Errorf("%s is %q, want %q", what, got, want)
		}
		return nil
	}
	subject := func(_, v m) error {
		s, err := proof.ParseSubject(str(v, "type"), str(v, "canonical"))
		if err != nil {
			return err
		}
		return same("canonical", s.Value(), str(v, "canonical"))
	}
	run("subjects.json", func(c, v m) error {
		var fold []struct{ Name, Folded string }
		if err := json.Unmarshal(c["fold"], &fold); err != nil || len(fold) == 0 {
			return errors.New("no names to fold")
		}
		for _, f := range fold {
			if err := same(f.Name, proof.FoldName(f.Name), f.Folded); err != nil {
				return err
			}
		}
		if raw, ok := v["input"]; ok {
			var in []string
			if err := json.Unmarshal(raw, &in); err != nil {
				return err
			}
			s, err := proof.Pivot{BirthName: in[0], GivenNames: in[1], BirthDate: in[2], Sex: in[3], BirthPlace: in[4], BirthCountry: in[5]}.Subject()
			if err != nil || s.Value() != str(v, "canonical") {
				return fmt.Errorf("input becomes %q, %v", s.Value(), err)
			}
		}
		return subject(c, v)
	}, subject)
	run("entries.json", func(_, v m) error {
		e, err := proof.ParseEntry([]byte(str(v, "text")))
		if err != nil {
			return err
		}
		return errors.Join(same("leaf hash", proof.LeafHash([]byte(str(v, "text"))).String(), str(v, "leaf_hash")), same("filed", fmt.Sprint(e.Kind().Filed()), str(v, "filed")))
	}, func(_, v m) error { _, err := proof.ParseEntry(unhex(v, "text_hex")); return err })
	run("records.json", func(_, v m) error {
		r, err := proof.OpenParts(unhex(v, "person_part_hex"), unhex(v, "admin_part_hex"))
		if err != nil {
			return err
		}
		return same("commitment", r.Commitment().String(), str(v, "commitment"))
	}, func(_, v m) error {
		_, err := proof.OpenParts(unhex(v, "person_part_hex"), unhex(v, "admin_part_hex"))
		return err
	})
	run("openings.json", func(_, v m) error {
		o, err := proof.ParseOpening([]byte(str(v, "text")))
		if err != nil {
			return err
		}
		return same("commitment", o.Commitment().String(), str(v, "commitment"))
	}, func(_, v m) error { _, err := proof.ParseOpening([]byte(str(v, "text"))); return err })
	label := func(_, v m) error {
		pub, err := proof.ParseHash(str(v, "public"))
		if err != nil {
			return err
		}
		s, err := proof.ParseSubject(str(v, "type"), str(v, "subject"))
		if err != nil {
			return err
		}
		var e proof.Epoch
		if err := json.Unmarshal(v["epoch"], &e); err != nil {
			return err
		}
		z, err := proof.VerifyLabel(proof.LabelPublicKey(pub), s, e, unhex(v, "proof"))
		if err != nil {
			return err
		}
		return same("label", z.String(), str(v, "label"))
	}
	run("history.json", historyVector, historyVector)
	run("labels.json", label, label)
	openLeaves := func(v m) ([]proof.OpenLeaf, error) {
		var in []leafVector
		err := json.Unmarshal(v["leaves"], &in)
		var out []proof.OpenLeaf
		for _, l := range in {
			out = append(out, proof.OpenLeaf{Index: l.Index, Salt: must(proof.ParseHash(l.Salt))})
		}
		return out, err
	}
	roll := func(_, v m) error {
		leaves, err := openLeaves(v)
		if err != nil {
			return err
		}
		root, _, err := proof.CheckRoll(leaves)
		if err != nil {
			return err
		}
		return same("root", root.String(), str(v, "root"))
	}
	run("rolls.json", roll, roll)
	lookup := func(v m) error {
		e, err := proof.ParseEntry([]byte(str(v, "marker")))
		if err != nil {
			return err
		}
		b, err := proof.ParseBucket(unhex(v, "leaf_hex"))
		if err != nil {
			return err
		}
		path, err := hashes(v, "path")
		if err != nil {
			return err
		}
		root, ok, err := proof.VerifyIndex(e.(proof.Marker), proof.Label(must(proof.ParseHash(str(v, "label")))), b, path)
		if err != nil {
			return err
		}
		if want := str(v, "roll_root"); !ok {
			return same("absence", "", want)
		}
		return same("roll root", root.String(), str(v, "roll_root"))
	}
	run("index.json", func(_, v m) error {
		if _, ok := v["marker"]; ok {
			return lookup(v)
		}
		var leaves []string
		if err := json.Unmarshal(v["leaves_hex"], &leaves); err != nil {
			return err
		}
		var hashes []proof.Hash
		for _, l := range leaves {
			leaf := must(hex.DecodeString(l))
			if _, err := proof.ParseBucket(leaf); err != nil {
				return err
			}
			hashes = append(hashes, proof.LeafHash(leaf))
		}
		return same("root", refRoot(hashes).String(), str(v, "root"))
	}, func(_, v m) error {
		if _, ok := v["marker"]; ok {
			return lookup(v)
		}
		_, err := proof.ParseBucket(unhex(v, "leaf_hex"))
		return err
	})
	checkpoint := func(c, v m) error {
		cp, err := proof.VerifyCheckpoint([]byte(str(v, "note")), must(proof.ParsePolicy([]byte(str(c, "policy")))))
		if err != nil {
			return err
		}
		return errors.Join(same("root", cp.Root().String(), str(v, "root")), same("witnessed", fmt.Sprint(cp.Witnessed()), str(v, "witnessed")),
			same("unverified", strings.Join(cp.Unverified(), " "), str(v, "unverified")))
	}
	run("checkpoints.json", checkpoint, checkpoint)
	run("sets.json", func(_, v m) error {
		var list []string
		if err := json.Unmarshal(v["commitments"], &list); err != nil {
			return err
		}
		var cs []proof.Commitment
		for _, c := range list {
			cs = append(cs, proof.Commitment(must(proof.ParseHash(c))))
		}
		return same("set", proof.SetDigest(cs).String(), str(v, "set"))
	}, func(_, v m) error {
		if proof.SetDigest(nil).IsZero() {
			return proof.ErrFormat
		}
		return nil
	})
	receipt := func(c, v m) error {
		r, err := proof.ParseReceipt([]byte(str(v, "text")))
		if err != nil {
			return err
		}
		verdict, err := r.Verify(must(proof.ParsePolicy([]byte(str(c, "policy")))), proof.VerifyOptions{AllowProvisional: true})
		if err != nil {
			return err
		}
		return errors.Join(same("state", verdict.State.String(), str(v, "state")), same("in roll", fmt.Sprint(verdict.InRoll), str(v, "in_roll")),
			same("unverified", strings.Join(verdict.Unverified, " "), str(v, "unverified")))
	}
	run("receipts.json", receipt, receipt)
	epoch := func(c, v m) error {
		p, err := proof.ParseEpochProof([]byte(str(v, "text")))
		if err != nil {
			return err
		}
		cp := must(proof.VerifyCheckpoint([]byte(str(c, "note")), must(proof.ParsePolicy([]byte(str(c, "policy"))))))
		e, err := p.Verify(cp, must(proof.ParseSubject(str(v, "type"), str(v, "subject"))))
		if err != nil {
			return err
		}
		var want []proof.Index
		if err := json.Unmarshal(v["indexes"], &want); err != nil || !slices.Equal(e.Indexes, want) {
			return fmt.Errorf("indexes are %v, want %v, %v", e.Indexes, want, err)
		}
		return errors.Join(same("epoch", e.Epoch.String(), str(v, "epoch")), same("label", e.Label.String(), str(v, "label")))
	}
	run("epochs.json", epoch, epoch)
	run("canonical.json", func(_, v m) error {
		text := unhex(v, "text_hex")
		if !proof.IsCanonicalJSON(text) {
			return proof.ErrFormat
		}
		return same("digest", proof.Hash(sha256.Sum256(text)).String(), str(v, "digest"))
	}, func(_, v m) error {
		if !proof.IsCanonicalJSON(unhex(v, "text_hex")) {
			return proof.ErrFormat
		}
		return nil
	})
	explanation := func(_, v m) error {
		explained, err := explained(v)
		if err == nil && !explained {
			err = errors.New("not explained")
		}
		return err
	}
	run("explanations.json", explanation, explanation)
	t.Run("policy.json", func(t *testing.T) { // bad ones are package policy's to refuse
		_, good, _ := readVectors(t, "policy.json")
		for i, v := range good {
			var b []byte
			if err := json.Unmarshal(v["bytes"], &b); err != nil {
				t.Fatal(err)
			}
			digest := proof.Hash(sha256.Sum256(b))
			switch of := str(v, "of"); {
			case of != "bundle" && !proof.IsCanonicalJSON(b):
				t.Errorf("good %d, %s: not canonical JSON", i, of)
			case of == "bundle":
				digest = must(proof.BundleDigest(bundleFiles(b)))
			}
			if digest.String() != str(v, "digest") {
				t.Errorf("good %d: digest %s, want %s", i, digest, str(v, "digest"))
			}
		}
	})
}

// explained asks the code about a vector of explanations.json.
func explained(v map[string]json.RawMessage) (bool, error) {
	var index proof.Index
	if err := json.Unmarshal(v["index"], &index); err != nil {
		return false, err
	}
	if str(v, "by") == "loss" {
		e, err := proof.ParseEntry([]byte(str(v, "restart")))
		if err != nil {
			return false, err
		}
		return e.(proof.Restart).Lost.Explains(index, proof.Kind(str(v, "kind"))), nil
	}
	var in []noticeVector
	if err := json.Unmarshal(v["notices"], &in); err != nil {
		return false, err
	}
	var notices []proof.KeyNotice
	for _, n := range in {
		notices = append(notices, proof.KeyNotice{Index: n.Index, Opened: n.Opened, Key: must(proof.ParseEntry([]byte(n.Text))).(proof.KeyChanged)})
	}
	marker := func(key string) proof.Marker {
		return must(proof.ParseEntry([]byte(str(v, key)))).(proof.Marker)
	}
	return proof.RetentionOver(index, marker("opener"), marker("closing"), notices), nil
}

// bundleFiles takes the bytes of a bundle apart.
func bundleFiles(b []byte) (files []proof.BundleFile) {
	cut := func() (part []byte) {
		n := binary.BigEndian.Uint32(b)
		part, b = b[4:4+n], b[4+n:]
		return part
	}
	for b = bytes.TrimPrefix(b, []byte("regard/bundle/v1\x00")); len(b) > 0; {
		files = append(files, proof.BundleFile{Path: string(cut()), Bytes: cut()})
	}
	slices.Reverse(files) // their order is the digest's affair
	return files
}

func hashes(m map[string]json.RawMessage, key string) (out []proof.Hash, err error) {
	err = json.Unmarshal(m[key], &out)
	return out, err
}
