package command

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/keys/keystore"
)

//go:embed regard.yaml.tmpl
var configTemplate string

// Setup is what regard init makes.
type Setup struct {
	Dir    string // absolute
	Origin string
	// Listeners: host:port.
	API, Public, Ops string
	Epoch            time.Duration
}

// Init makes a directory with everything that a broker for trying out needs: configuration, keystore, a TLS certificate for this machine, the broker's certificate for providers. It overwrites nothing. It returns the path of the configuration.
func Init(s Setup) (made string, err error) {
	file := filepath.Join(s.Dir, "regard.yaml")
	if _, err := os.Lstat(file); err == nil {
		return "", usagef("%s exists already: choose another directory", file)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	var files []string
	defer func() {
		if err != nil { // so that init can be repeated
			for _, f := range files {
				_ = os.Remove(f)
			}
		}
	}()
	for _, d := range []string{"data", "secrets", "services"} {
		if err := os.MkdirAll(filepath.Join(s.Dir, d), 0o700); err != nil {
			return "", fmt.Errorf("making %s: %w", d, err)
		}
	}
	keyFile := filepath.Join(s.Dir, "secrets", "keystore.key")
	if err := keystore.CreateKeyFile(keyFile); err != nil {
		return "", err
	}
	files = append(files, keyFile)
	store := filepath.Join(s.Dir, "data", "keystore")
	if err := keystore.Create(keystore.Config{Path: store, KeyFile: keyFile}); err != nil {
		return "", err
	}
	files = append(files, store)
	identity := filepath.Join(s.Dir, "secrets", "server")
	if err := newIdentity(identity, &x509.Certificate{
		Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotAfter: time.Now().AddDate(1, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return "", err
	}
	files = append(files, identity+".key", identity+".pem")
	identity = filepath.Join(s.Dir, "secrets", "broker")
	if err := newIdentity(identity, &x509.Certificate{
		Subject: pkix.Name{CommonName: "broker of " + s.Origin}, NotAfter: time.Now().AddDate(1, 0, 0), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return "", err
	}
	files = append(files, identity+".key", identity+".pem")
	t, err := template.New("").Parse(configTemplate)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	if err := t.Execute(&text, s); err != nil {
		return "", err
	}
	if err := create(file, []byte(text.String())); err != nil {
		return "", err
	}
	files = append(files, file)
	// Whatever init writes has to be good.
	if _, err := config.Load(config.Source{File: file}); err != nil {
		return "", err
	}
	return file, nil
}

// create writes a new file that only the owner reads.
func create(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s exists already and is not overwritten", path)
	}
	if errors.Is(err, fs.ErrNotExist) { // its directory
		return usage{err}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

// newIdentity makes a key (path.key) and a certificate that it signed itself (path.pem).
func newIdentity(path string, tmpl *x509.Certificate) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if tmpl.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	tmpl.NotBefore = time.Now().Add(-time.Hour)
	tmpl.KeyUsage, tmpl.BasicConstraintsValid = x509.KeyUsageDigitalSignature, true
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := create(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})); err != nil {
		return err
	}
	return create(path+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func initCommand() *cobra.Command {
	s := Setup{}
	c := &cobra.Command{
		Use: "init", Short: "Make what a broker for trying out needs", Args: noArgs,
		Long: `init makes a directory with a commented configuration, a keystore, a TLS certificate for this machine, and the certificate by which providers
know the broker. It overwrites nothing.

For production: put the keys into Vault (regard vault init), a certificate that agencies trust into api.cert, and production: true.`,
		Example: "  regard init --dir ./regard --origin regard.example.fr/trial\n  regard serve --config ./regard/regard.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if s.Dir, err = filepath.Abs(s.Dir); err != nil {
				return err
			}
			if s.Origin == "" {
				return usagef("--origin is missing: the name of the log, for example regard.example.fr/trial; it can't change afterwards")
			}
			file, err := Init(s)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.ErrOrStderr(), `Made %s. Keep copies of secrets/keystore.key and data/keystore apart from each other: without them every record is lost.
Start: regard serve --config %s
Agencies need: https://%s, the certificate %s (regard request --ca), and the log's key (regard status --log-key).
Providers need: the certificate %s, by which they know the broker.
`, s.Dir, file, s.API, filepath.Join(s.Dir, "secrets", "server.pem"), filepath.Join(s.Dir, "secrets", "broker.pem"))
			return err
		},
	}
	c.Flags().StringVar(&s.Dir, "dir", "regard", "directory to make")
	c.Flags().StringVar(&s.Origin, "origin", "", "name of the log")
	c.Flags().StringVar(&s.API, "api", "127.0.0.1:8443", "address for agencies")
	c.Flags().StringVar(&s.Public, "public", "127.0.0.1:8080", "address for readers of the log")
	c.Flags().StringVar(&s.Ops, "ops", "127.0.0.1:9090", "address for monitoring")
	c.Flags().DurationVar(&s.Epoch, "epoch", 24*time.Hour, "length of an epoch of the log")
	return c
}

func keygenCommand() *cobra.Command {
	var name, out string
	var days int
	var hosts []string
	c := &cobra.Command{
		Use: "keygen", Short: "Make a key and a certificate for an agency, or for a server", Args: noArgs,
		Long: `keygen makes an ECDSA P-256 key (OUT.key, which never leaves you) and a certificate that it signs itself (OUT.pem, which the operator registers).
Brokers know agencies by their key, so no authority has to sign the certificate; one that an authority signed does as well.

With --host the certificate is a server's, for trying out: who connects has to be given OUT.pem.`,
		Example: "  regard keygen --name 'CCAS de Saint-Lary' --out ccas\n  # then send ccas.pem to the operator, who runs:\n  regard agency add ccas-saint-lary --name 'CCAS de Saint-Lary' --siret 13002526500013 --cert ccas.pem",
		RunE: func(c *cobra.Command, _ []string) error {
			if name == "" || out == "" || days < 1 || days > 1200 {
				return usagef("--name and --out are needed, and --days from 1 to 1200")
			}
			cert, who := &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().AddDate(0, 0, days), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, "the operator"
			if len(hosts) > 0 {
				cert.ExtKeyUsage, who = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, "whoever connects"
			}
			for _, h := range hosts {
				if ip := net.ParseIP(h); ip != nil {
					cert.IPAddresses = append(cert.IPAddresses, ip)
				} else {
					cert.DNSNames = append(cert.DNSNames, h)
				}
			}
			if err := newIdentity(out, cert); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "Made %s.key (keep it) and %s.pem (for %s).\n", out, out, who)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "name in the certificate")
	c.Flags().StringVar(&out, "out", "", "path without ending")
	c.Flags().IntVar(&days, "days", 365, "validity in days")
	c.Flags().StringArrayVar(&hosts, "host", nil, "a server's certificate, for this host name or address (repeatable)")
	return c
}
