package witness

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/witness/config"
	"go.yaml.in/yaml/v3"
)

// File is the configuration of a witness, witness.yaml. Paths are absolute after LoadFile; relative ones are meant from the file's directory.
type File struct {
	// Listen is where logs send checkpoints: host:port. Without Cert and Key it has to be a loopback address, for a proxy in front of it.
	Listen string `yaml:"listen"`
	Cert   string `yaml:"cert"` // PEM chain
	Key    string `yaml:"key"`  // PEM, secret
	// Ops serves /healthz and /metrics, plain HTTP; empty: none.
	Ops string `yaml:"ops"`
	// SigningKey, State and Logs are the witness's own files.
	SigningKey string `yaml:"signing_key"`
	State      string `yaml:"state"`
	Logs       string `yaml:"logs"`
	// ClientRate: requests a second of one address, ClientBurst: at once. 0: 20 and 60.
	ClientRate  float64 `yaml:"client_rate"`
	ClientBurst int     `yaml:"client_burst"`
	// Connections at once; 0: 256.
	Connections int `yaml:"connections"`
}

// ErrConfig: the configuration is at fault.
var ErrConfig = errors.New("the witness's configuration")

func configError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrConfig, fmt.Sprintf(format, args...))
}

const maxFile = 1 << 20

// LoadFile reads a configuration. Unknown and repeated keys are refused.
func LoadFile(path string) (*File, error) {
	b, err := readBounded(path)
	if err != nil {
		return nil, configError("%v (make one with: regard witness init)", err)
	}
	f := &File{}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(f); err != nil {
		return nil, configError("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, configError("%s: more than one document", path)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return nil, configError("%v", err)
	}
	for _, p := range []*string{&f.Cert, &f.Key, &f.SigningKey, &f.State, &f.Logs} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	return f, f.Check()
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
	if f.SigningKey == "" || f.State == "" || f.Logs == "" {
		return configError("signing_key, state and logs are all needed")
	}
	if (f.Cert == "") != (f.Key == "") {
		return configError("cert and key go together: give both, or neither behind a proxy on this machine")
	}
	if f.ClientRate < 0 || f.ClientRate > 1e6 || f.ClientBurst < 0 || f.ClientBurst > 1e6 || f.Connections < 0 || f.Connections > 1e6 {
		return configError("client_rate, client_burst or connections is out of range: at most 1000000")
	}
	for _, l := range []struct {
		key, addr string
		public    bool
	}{{"listen", f.Listen, f.Cert != ""}, {"ops", f.Ops, false}} {
		if l.addr == "" && l.key == "ops" {
			continue
		}
		host, port, err := net.SplitHostPort(l.addr)
		if err != nil || port == "" {
			return configError("%s is not host:port, for example 127.0.0.1:7380", l.key)
		}
		if !l.public && !loopback(host) {
			return configError("%s is reachable from other machines, without TLS: use 127.0.0.1 behind a proxy, or give cert and key", l.key)
		}
	}
	return nil
}

// loopback is strict: a name other than localhost could resolve to anything later.
func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// ParseLogs reads a list of logs in the form of the public witness network (https://github.com/transparency-dev/witness-network/blob/main/log-list-format.md): "logs/v0", then for each log
// a line "vkey …" and, as far as needed, "origin …" (if it isn't the key's name), "qpd …" (checkpoints a day) and "contact …". A log whose key is being replaced has two.
func ParseLogs(text []byte) ([]Log, error) {
	if len(text) > maxFile {
		return nil, configError("the list of logs is larger than %d bytes", maxFile)
	}
	list, err := config.ParsePublicWitnessConfig(bytes.NewReader(text))
	if err != nil {
		return nil, configError("the list of logs: %v", err)
	}
	logs := make([]Log, len(list))
	for i, l := range list {
		if !isOrigin(l.Origin) {
			return nil, configError("the list of logs: %q is no origin", l.Origin)
		}
		if !(l.QPD >= 0 && l.QPD <= 1e9) {
			return nil, configError("the list of logs: qpd of %q is out of range", l.Origin)
		}
		logs[i] = Log{Origin: l.Origin, VKey: l.VKey, PerDay: l.QPD}
	}
	return logs, nil
}

// LogList writes such a list.
func LogList(vkeys ...string) []byte {
	var b bytes.Buffer
	b.WriteString("# The logs that this witness cosigns, and how many checkpoints a day of each (qpd). Read again at SIGHUP.\nlogs/v0\n")
	for _, k := range vkeys {
		fmt.Fprintf(&b, "\nvkey %s\nqpd %d\n", k, defaultPerDay)
	}
	return b.Bytes()
}
