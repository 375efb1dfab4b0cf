package policy

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of a bundle.
const (
	MaxBundle = 4 << 20 // bytes of all files and their paths
	maxFile   = 1 << 20
	maxFiles  = 256
	maxPath   = 255
)

// manifestName is the one file of a bundle that is not Rego.
const manifestName = ".manifest"

// bundlePrefix begins the bytes that a bundle's digest is taken of: docs/formats.md, section 9.
const bundlePrefix = "regard/bundle/v1\x00"

// A Bundle is the files of a policy: Rego modules, their tests, and optionally a manifest that names the revision. It holds no data, so
// nothing but the input and the code decides.
type Bundle struct {
	files    map[string][]byte
	bytes    []byte
	digest   Digest
	revision string
}

// Digest returns the digest that stands in the log.
func (b *Bundle) Digest() Digest { return b.digest }

// Bytes returns the bytes that the digest is taken of, from which ParseBundle makes the same bundle. They must not be changed.
func (b *Bundle) Bytes() []byte { return b.bytes }

// Revision returns the revision in the manifest, a token. Without one it is the beginning of the digest.
func (b *Bundle) Revision() string { return b.revision }

// Paths returns the paths of the files in increasing order.
func (b *Bundle) Paths() []string { return slices.Sorted(maps.Keys(b.files)) }

func bundleError(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrBundle)
}

// NewBundle makes a bundle of files by slash-separated path. It returns an error that wraps ErrBundle for anything but Rego
// modules and a manifest, for paths that are not plain, and beyond the limits. It does not compile.
func NewBundle(files map[string][]byte) (*Bundle, error) {
	b := &Bundle{files: files}
	if len(files) == 0 || len(files) > maxFiles {
		return nil, bundleError("%d files, want 1 to %d", len(files), maxFiles)
	}
	b.bytes = append(b.bytes, bundlePrefix...)
	modules := 0
	for _, name := range b.Paths() {
		content := files[name]
		if err := checkFile(name, len(content)); err != nil {
			return nil, err
		}
		if !utf8.Valid(content) {
			return nil, bundleError("%s: not UTF-8", name)
		}
		if name != manifestName {
			modules++
		}
		b.bytes = appendSized(appendSized(b.bytes, []byte(name)), content)
		if len(b.bytes) > MaxBundle {
			return nil, bundleError("more than %d bytes", MaxBundle)
		}
	}
	if modules == 0 {
		return nil, bundleError("no Rego module (*.rego)")
	}
	b.digest = sha256.Sum256(b.bytes)
	var err error
	b.revision, err = revision(files[manifestName], b.digest)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// ParseBundle parses the bytes that a bundle's digest is taken of, as they are served, and refuses everything that is not
// canonical with an error that wraps ErrBundle.
func ParseBundle(data []byte) (*Bundle, error) {
	if len(data) > MaxBundle {
		return nil, bundleError("%d bytes, at most %d", len(data), MaxBundle)
	}
	rest, ok := bytes.CutPrefix(data, []byte(bundlePrefix))
	if !ok {
		return nil, bundleError("does not begin with %q", bundlePrefix)
	}
	files := map[string][]byte{}
	for last := ""; len(rest) > 0; {
		var name, content []byte
		if name, rest, ok = cutSized(rest); ok {
			content, rest, ok = cutSized(rest)
		}
		if !ok {
			return nil, bundleError("cut off in file %d", len(files))
		}
		if string(name) <= last {
			return nil, bundleError("paths do not increase at file %d", len(files))
		}
		last = string(name)
		files[last] = content
	}
	return NewBundle(files)
}

func appendSized(b, part []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(part))) //nolint:gosec // bounded by checkFile
	return append(b, part...)
}

func cutSized(b []byte) (part, rest []byte, ok bool) {
	if len(b) < 4 {
		return nil, nil, false
	}
	n := uint64(binary.BigEndian.Uint32(b))
	if b = b[4:]; n > uint64(len(b)) {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// checkFile says whether a file may be part of a bundle, before it is read.
func checkFile(name string, size int) error {
	switch {
	case len(name) > maxPath || !fs.ValidPath(name) || name == "." || path.Clean(name) != name || strings.Contains(name, `\`) || !isText(name):
		return bundleError("%q: not a plain relative path", name)
	case name != manifestName && !strings.HasSuffix(name, ".rego"):
		return bundleError("%s: a bundle holds code only: *.rego and %s", name, manifestName)
	case size > maxFile:
		return bundleError("%s: %d bytes, at most %d", name, size, maxFile)
	}
	return nil
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.rego") }

// revision reads the manifest, which may hold what OPA's documentation of bundles calls revision, roots and rego_version.
// Roots are what compile demands anyway.
func revision(manifest []byte, digest Digest) (string, error) {
	if manifest == nil {
		return digest.Hex()[:16], nil
	}
	var m struct {
		Revision    string   `json:"revision"`
		Roots       []string `json:"roots"`
		RegoVersion int      `json:"rego_version"`
	}
	d := json.NewDecoder(bytes.NewReader(manifest))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return "", bundleError("%s: %v", manifestName, err)
	}
	if d.More() {
		return "", bundleError("%s: more than one JSON value", manifestName)
	}
	if !isToken(m.Revision) {
		return "", bundleError("%s: revision is not a token ([a-z0-9][a-z0-9._-]{0,63})", manifestName)
	}
	if m.RegoVersion != 0 && m.RegoVersion != 1 {
		return "", bundleError("%s: rego_version %d, want 1", manifestName, m.RegoVersion)
	}
	for _, root := range m.Roots {
		if root != rootPackage {
			return "", bundleError("%s: root %q, want %q", manifestName, root, rootPackage)
		}
	}
	return m.Revision, nil
}
