package signer

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// File is the configuration of a signer, signer.yaml. Paths are absolute after LoadFile; relative ones are meant from the file's directory.
type File struct {
	// Database is a file with the connection string of Trillian's database, as the owner of its tables. It is secret if it holds a password.
	Database string `yaml:"database"`
	// Tree is the log's id; 0: the only one that the database has.
	Tree int64 `yaml:"tree"`
	// Listen is where the log server of this process serves brokers: host:port, for which Cert, Key and ClientCA are needed, or unix:/path. Empty: nowhere.
	Listen   string `yaml:"listen"`
	Cert     string `yaml:"cert"`      // PEM chain
	Key      string `yaml:"key"`       // PEM, secret
	ClientCA string `yaml:"client_ca"` // PEM
	// Clients are DNS names of which a broker's certificate has to have one; empty: whoever ClientCA named.
	Clients []string `yaml:"clients"`
	// Ops serves /healthz and /metrics, plain HTTP; empty: nowhere.
	Ops string `yaml:"ops"`
	// KeepRoots is how many of the tree's newest roots are kept; 0: 1000.
	KeepRoots int `yaml:"keep_roots"`
}

// ErrConfig: the configuration is at fault.
var ErrConfig = errors.New("the signer's configuration")

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}

const maxFile = 1 << 20

// LoadFile reads a configuration. Unknown and repeated keys are refused.
func LoadFile(path string) (*File, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, configError("%v", err)
	}
	f, err := parseFile(b)
	if err != nil {
		return nil, configError("%s: %v", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, configError("%v", err)
	}
	for _, p := range []*string{&f.Database, &f.Cert, &f.Key, &f.ClientCA} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return f, f.Check()
}

func parseFile(b []byte) (*File, error) {
	f := &File{}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(f); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return f, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

// Check says what is wrong with a configuration, without opening anything.
func (f *File) Check() error {
	socket := strings.HasPrefix(f.Listen, "unix:")
	secure := f.Cert != "" && f.Key != "" && f.ClientCA != ""
	switch {
	case f.Database == "":
		return configError("database is missing: a file with the connection string of Trillian's database")
	case f.Tree < 0:
		return configError("tree is negative: it is the id that regard signer init printed, or 0")
	case f.KeepRoots < 0:
		return configError("keep_roots is negative")
	case socket && !filepath.IsAbs(strings.TrimPrefix(f.Listen, "unix:")):
		return configError("listen is not unix: and an absolute path")
	case f.Listen != "" && !socket && !secure:
		return configError("listen is a port, and whoever reaches it can write to the log: give cert, key and client_ca, or listen on unix:/path")
	case !secure && (f.Cert != "" || f.Key != "" || f.ClientCA != "" || len(f.Clients) > 0):
		return configError("cert, key and client_ca go together, and clients with them")
	case secure && (f.Listen == "" || socket):
		return configError("cert, key and client_ca have no meaning without a port to listen on")
	}
	for _, l := range []struct{ key, addr string }{{"listen", f.Listen}, {"ops", f.Ops}} {
		if l.addr == "" || l.key == "listen" && socket {
			continue
		}
		if _, port, err := net.SplitHostPort(l.addr); err != nil || port == "" {
			return configError("%s is not host:port, for example 127.0.0.1:7390", l.key)
		}
	}
	return nil
}

// DSN reads the connection string.
func (f *File) DSN() (string, error) {
	b, err := readBounded(f.Database)
	if err != nil {
		return "", configError("reading database: %v", err)
	}
	return strings.TrimSpace(string(b)), nil
}
