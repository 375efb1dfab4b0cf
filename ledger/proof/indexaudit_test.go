package proof

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

func TestIndexAudit(t *testing.T) {
	skey, vkey, err := note.GenerateKey(rand.Reader, "auditor.example/cour")
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := note.GenerateKey(rand.Reader, "auditor.example/cour")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(skey)
	if err != nil {
		t.Fatal(err)
	}
	want := IndexAudit{Origin: "regard.example/log", Epoch: 4, Marker: 90, Root: Hash{7}, Items: 3, Entries: 5}
	text, err := want.AppendText(nil)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
	if err != nil {
		t.Fatal(err)
	}
	got, err := VerifyIndexAudit(signed, vkey)
	if err != nil || got != want {
		t.Fatalf("got %v, %v", got, err)
	}
	if _, err := VerifyIndexAudit(signed, other); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
	for i := range signed {
		bad := bytes.Clone(signed)
		bad[i] ^= 1
		if _, err := VerifyIndexAudit(bad, vkey); err == nil {
			t.Errorf("byte %d flipped: accepted", i)
		}
	}
	closing := Marker{Epoch: 5, Opened: 2, Until: 3, VRF: LabelPublicKey{1}, Closed: &Closed{First: 80, Size: 10, Items: 3, Index: Hash{7}}}
	if !want.Agrees("regard.example/log", closing) {
		t.Error("it doesn't agree with its marker")
	}
	for name, change := range map[string]func(*IndexAudit){
		"origin": func(a *IndexAudit) { a.Origin += "x" },
		"epoch":  func(a *IndexAudit) { a.Epoch++ },
		"marker": func(a *IndexAudit) { a.Marker++ },
		"root":   func(a *IndexAudit) { a.Root[1]++ },
		"items":  func(a *IndexAudit) { a.Items-- },
	} {
		a := want
		change(&a)
		if a.Agrees("regard.example/log", closing) {
			t.Errorf("%s: agrees", name)
		}
	}
	for name, a := range map[string]IndexAudit{
		"no origin":         {Marker: 9, Root: Hash{7}},
		"no root":           {Origin: "o", Marker: 9},
		"epoch closed by 0": {Origin: "o", Root: Hash{7}},
		"an empty roll":     {Origin: "o", Marker: 9, Root: Hash{7}, Items: 2, Entries: 1},
	} {
		if _, err := a.AppendText(nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
