package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/reader"
)

// Where a portal serves its verifier, and how large it may be.
const (
	verifierPath = "verificateur/"
	verifierList = "verifier.sha256"
	maxListSize  = 4 << 10
	maxVerifier  = 32 << 20
)

type verifierFlags struct {
	url, file, hash, ca string
	asJSON              bool
	timeout             time.Duration
	attempts            int
}

// verifierFinding is what is said about the verifier of a portal.
type verifierFinding struct {
	URL   string         `json:"url"`
	Hash  string         `json:"hash"` // SHA-256 of the list that is served
	Want  string         `json:"want"` // and of the one that was built or stated
	Same  bool           `json:"same"`
	Files []verifierFile `json:"files"`
}

type verifierFile struct {
	Name string `json:"name"`
	Hash string `json:"sha256"`
	Same bool   `json:"same"` // as the list says
}

func verifierCommand() *cobra.Command {
	f := verifierFlags{}
	c := &cobra.Command{
		Use: "verifier --url https://portal", Short: "Compare the verifier that a portal serves to browsers with one that was built", Args: cobra.NoArgs,
		Long: `verifier fetches the list of the files with which a portal has browsers verify histories, and each of these files, and compares them with a list that you
built from the source (make build: bin/verifier/verifier.sha256), or with the hash of one that somebody else stated. The same commit and the same version of Go give the same bytes.

It shows what the portal serves to you, now, at these addresses. A server can serve something else to somebody else: the addresses of the scripts in a page begin
with the first 32 digits of the hash, for whoever looks at its source. verify-history needs no server at all.

Exit codes: 0 it is the same, 1 it is another or not what its list says, 2 it could not be fetched, or there is nothing to compare it with.`,
		Example: "  regard-audit verifier --url https://regard.example.fr --file bin/verifier/verifier.sha256",
		RunE:    func(c *cobra.Command, _ []string) error { return f.run(c) },
	}
	x := c.Flags()
	x.StringVar(&f.url, "url", "", "address of the portal")
	x.StringVar(&f.file, "file", "", "list of a verifier that you built")
	x.StringVar(&f.hash, "hash", "", "SHA-256 of such a list, in hex")
	x.StringVar(&f.ca, "ca", "", "certificates that the portal's must be signed by (PEM; default: those of the system)")
	x.DurationVar(&f.timeout, "timeout", 30*time.Second, "of one attempt at a file")
	x.IntVar(&f.attempts, "attempts", 4, "at a file that can't be read, with growing pauses")
	x.BoolVar(&f.asJSON, "json", false, "write JSON")
	return c
}

func (f *verifierFlags) run(c *cobra.Command) error {
	if f.url == "" {
		return errors.New("--url is missing: the address of the portal")
	}
	want, err := f.want(c)
	if err != nil {
		return err
	}
	src, err := f.source()
	if err != nil {
		return err
	}
	found := verifierFinding{URL: f.url, Want: want}
	if err := found.fetch(c.Context(), src); err != nil {
		return err
	}
	if f.asJSON {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		err = e.Encode([]verifierFinding{found})
	} else {
		err = found.print(c)
	}
	if err == nil && !found.Same {
		err = errRefused
	}
	return err
}

var hexDigest = regexp.MustCompile(`^[0-9a-f]{64}$`)

// want is the hash that the portal's list must have.
func (f *verifierFlags) want(c *cobra.Command) (string, error) {
	switch {
	case (f.file == "") == (f.hash == ""):
		return "", errors.New("give --file (a list that you built) or --hash: with what shall it be compared?")
	case f.hash != "":
		h := strings.ToLower(strings.TrimSpace(f.hash))
		if !hexDigest.MatchString(h) {
			return "", errors.New("--hash is not a SHA-256 in hex")
		}
		return h, nil
	}
	b, err := readUpTo(c, f.file, maxListSize)
	if err != nil {
		return "", err
	}
	if _, err := parseList(b); err != nil {
		return "", fmt.Errorf("%s: %w", f.file, err)
	}
	return digest(b), nil
}

func digest(b []byte) string {
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

func (f *verifierFlags) source() (reader.Source, error) {
	if f.timeout <= 0 || f.attempts < 1 {
		return nil, errors.New("--timeout and --attempts must be positive")
	}
	o := reader.Options{Timeout: f.timeout, Attempts: f.attempts}
	if f.ca != "" {
		b, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s holds no certificate", f.ca)
		}
		o.Client = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, DisableCompression: true, ResponseHeaderTimeout: f.timeout}}
	}
	src, err := reader.HTTP(f.url, o)
	if err != nil {
		return nil, fmt.Errorf("--url: %q is not the address of a portal: want https://host", f.url)
	}
	return src, nil
}

// fetch reads the portal's list and each file in it.
func (v *verifierFinding) fetch(ctx context.Context, src reader.Source) error {
	list, err := src.Get(ctx, verifierPath+verifierList, maxListSize)
	if err != nil {
		return fmt.Errorf("fetching the list of the verifier: %w", err)
	}
	v.Hash = digest(list)
	files, err := parseList(list)
	if err != nil {
		return refuted{fmt.Errorf("the list that the portal serves: %w", err)}
	}
	v.Same = v.Hash == v.Want
	for _, file := range files {
		b, err := src.Get(ctx, verifierPath+v.Hash[:32]+"/"+file.Name, maxVerifier)
		if err != nil {
			return fmt.Errorf("fetching the verifier: %w", err)
		}
		file.Same = digest(b) == file.Hash
		v.Same = v.Same && file.Same
		v.Files = append(v.Files, file)
	}
	return nil
}

var listLine = regexp.MustCompile(`^([0-9a-f]{64})  ([a-z][a-z_.]{0,63})$`)

// parseList reads what sha256sum wrote: few lines, each of a hash, two spaces and a name.
func parseList(b []byte) (files []verifierFile, err error) {
	rest, ok := bytes.CutSuffix(b, []byte("\n"))
	for line := range strings.SplitSeq(string(rest), "\n") {
		m := listLine.FindStringSubmatch(line)
		if !ok || m == nil || len(files) == 16 {
			return nil, errors.New("it is no list of a verifier: want lines of a SHA-256, two spaces and a name")
		}
		files = append(files, verifierFile{Name: m[2], Hash: m[1]})
	}
	return files, nil
}

func (v *verifierFinding) print(c *cobra.Command) error {
	word := "THE SAME"
	if !v.Same {
		word = "ANOTHER"
	}
	_, err := fmt.Fprintf(c.OutOrStdout(), "%s: %s\n  served    %s\n  expected  %s\n", v.URL, word, v.Hash, v.Want)
	for _, f := range v.Files {
		if !f.Same && err == nil {
			_, err = fmt.Fprintf(c.OutOrStdout(), "  %s is not what the list says\n", f.Name)
		}
	}
	if !v.Same && err == nil {
		_, err = fmt.Fprintln(c.OutOrStdout(), "  Build the very commit and with the very version of Go that the operator states. If it stays another, don't rely on what browsers say about this portal:\n  download histories and check them with regard-audit verify-history, and tell the supervisory authority.")
	}
	return err
}
