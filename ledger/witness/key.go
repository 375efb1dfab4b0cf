package witness

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// NewKey makes an Ed25519 key for cosignatures. The name stands in every signature; it is like a URL without scheme, of the body that runs the witness: witness.example.fr/w1.
func NewKey(name string) (key string, err error) {
	if !isOrigin(name) || strings.Contains(name, "+") || strings.ContainsFunc(name, unicode.IsSpace) {
		return "", errors.New("witness: the name is not usable: like a host name with a path, without spaces and plus signs")
	}
	key, _, err = note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", fmt.Errorf("making a key: %w", err)
	}
	return key, nil
}

// VKey returns the verification key that belongs to a signing key: a vkey of type 4 (c2sp.org/signed-note).
func VKey(key string) (string, error) {
	bad := errors.New("witness: this is not a signing key as regard witness init makes it")
	signer, err := fnote.NewSignerForCosignatureV1(key)
	if err != nil {
		return "", bad
	}
	// PRIVATE+KEY+<name>+<hash>+<base64 of the type and the Ed25519 seed>
	parts := strings.SplitN(key, "+", 5)
	if len(parts) != 5 {
		return "", bad
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 33 {
		return "", bad
	}
	plain, err := vkeyOfSeed(parts[2], raw[1:])
	if err != nil {
		return "", bad
	}
	vkey, err := fnote.VKeyToCosignatureV1(plain)
	if err != nil || !strings.HasPrefix(vkey, signer.Name()+"+") {
		return "", bad
	}
	return vkey, nil
}

// LoadKey reads a key file, which nobody but its owner may be able to read.
func LoadKey(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("reading the witness's key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("witness: others may read the key %s (mode %04o): chmod 600 it, and if they may have read it, make a new witness", path, info.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("reading the witness's key: %w", err)
	}
	key := strings.TrimSuffix(string(b), "\n")
	if _, err := VKey(key); err != nil {
		return "", err
	}
	return key, nil
}

// CreateKey writes a new key to a file that only its owner reads; it overwrites nothing.
func CreateKey(path, name string) (vkey string, err error) {
	key, err := NewKey(name)
	if err != nil {
		return "", err
	}
	if vkey, err = VKey(key); err != nil {
		return "", err
	}
	return vkey, writeNew(path, []byte(key+"\n"))
}

func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists already and is not overwritten: %w", path, fs.ErrExist)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// rawKey is the public key in a vkey, without its type.
func rawKey(vkey string) string {
	parts := strings.SplitN(vkey, "+", 3)
	if len(parts) != 3 {
		return ""
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) < 2 {
		return ""
	}
	return string(raw[1:])
}

// isOrigin: what can stand in the first line of a checkpoint.
func isOrigin(s string) bool {
	return s != "" && len(s) <= 255 && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// vkeyOfSeed is the plain vkey of an Ed25519 seed.
func vkeyOfSeed(name string, seed []byte) (string, error) {
	return note.NewEd25519VerifierKey(name, ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey))
}
