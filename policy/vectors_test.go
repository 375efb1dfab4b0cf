package policy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"os"
	"testing"
)

// TestPublishedVectors reads the vectors of docs/formats.md, section 9, as another implementation would.
func TestPublishedVectors(t *testing.T) {
	text, err := os.ReadFile("../ledger/proof/testdata/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	type vector struct {
		Of, Digest, Reason string
		Bytes              []byte
	}
	var file struct{ Good, Bad []vector }
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	parse := func(v vector) (digest []byte, again []byte, err error) {
		switch v.Of {
		case "agreement":
			a, err := ParseAgreement(v.Bytes)
			if err != nil {
				return nil, nil, err
			}
			d, err := a.Digest()
			if err != nil {
				return nil, nil, err
			}
			again, err = a.Canonical()
			return d[:], again, err
		case "input":
			in, err := ParseInput(v.Bytes)
			if err != nil {
				return nil, nil, err
			}
			again, err = in.Canonical()
			return nil, again, err
		case "bundle":
			b, err := ParseBundle(v.Bytes)
			if err != nil {
				return nil, nil, err
			}
			d := b.Digest()
			return d[:], b.Bytes(), nil
		}
		t.Fatalf("vector of %q", v.Of)
		return nil, nil, nil
	}
	seen := map[string]int{}
	for i, v := range file.Good {
		seen[v.Of]++
		digest, again, err := parse(v)
		if err != nil || !bytes.Equal(again, v.Bytes) {
			t.Errorf("good %d, %s: %v", i, v.Of, err)
		}
		if digest != nil && base64.StdEncoding.EncodeToString(digest) != v.Digest {
			t.Errorf("good %d, %s: another digest", i, v.Of)
		}
	}
	for i, v := range file.Bad {
		seen[v.Of]++
		if _, _, err := parse(v); err == nil || v.Reason == "" {
			t.Errorf("bad %d, %s (%s): accepted", i, v.Of, v.Reason)
		}
	}
	if len(seen) != 3 {
		t.Errorf("vectors of %v", seen)
	}
}
