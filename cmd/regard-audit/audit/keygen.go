package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"
)

func keygenCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "keygen NAME", Short: "Make the key with which you cosign indexes",
		Long: `keygen makes an Ed25519 key in the form of signed notes (https://c2sp.org/signed-note). The private key goes to --out, which only you can read; the verification key is printed: the operator
registers it (regard auditor add), and the public log has its digest.`,
		Example: "  regard-audit keygen cour-des-comptes.example --out cour.skey > cour.vkey",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || out == "" {
				return errors.New("keygen needs one name for the key, and --out for its private half (see regard-audit keygen --help)")
			}
			skey, vkey, err := note.GenerateKey(rand.Reader, args[0])
			if err != nil {
				return fmt.Errorf("%q can't be the name of a key: no spaces and no +", args[0])
			}
			if _, err := note.NewVerifier(vkey); err != nil {
				return fmt.Errorf("%q can't be the name of a key: no spaces and no +", args[0])
			}
			f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(f, skey)
			if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), vkey)
			return err
		},
	}
	c.Flags().StringVar(&out, "out", "", "file for the private key; it must not exist")
	return c
}

// readSigner reads a private key as keygen writes it, and returns the verification key with it.
func readSigner(c *cobra.Command, file string) (note.Signer, string, error) {
	if file == "" {
		return nil, "", errors.New("--sign-key is missing: the file with your private key (regard-audit keygen)")
	}
	b, err := read(c, file)
	if err != nil {
		return nil, "", err
	}
	skey := strings.TrimSpace(string(b))
	s, err := note.NewSigner(skey)
	if err != nil {
		return nil, "", fmt.Errorf("%s holds no private key of a signed note", file)
	}
	// PRIVATE+KEY+name+id+base64 of an algorithm byte and the seed; NewSigner has checked it.
	parts := strings.SplitN(skey, "+", 5)
	data, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
	if err != nil || len(data) != 1+ed25519.SeedSize {
		return nil, "", fmt.Errorf("%s holds no Ed25519 key", file)
	}
	public, ok := ed25519.NewKeyFromSeed(data[1:]).Public().(ed25519.PublicKey)
	if !ok {
		return nil, "", fmt.Errorf("%s holds no Ed25519 key", file)
	}
	vkey, err := note.NewEd25519VerifierKey(s.Name(), public)
	return s, vkey, err
}
