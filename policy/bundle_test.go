package policy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// small is a policy that grants whatever is declared to an active agency.
const small = `package regard.decision

grant := {"scopes": input.scopes, "fields": input.service.scopes, "obligations": []} if active

active if input.agency.state == "active"

reasons contains {"code": "agency.inactive", "fr": "Non.", "en": "No."} if not active
`

func TestDigest(t *testing.T) {
	b, err := NewBundle(map[string][]byte{"b/p.rego": []byte(small), ".manifest": []byte(`{"revision": "7"}`), "b/a_test.rego": []byte("package regard.decision_test\n")})
	if err != nil {
		t.Fatal(err)
	}
	// docs/formats.md, section 9, by hand.
	want := []byte("regard/bundle/v1\x00")
	for _, f := range [][2]string{{".manifest", `{"revision": "7"}`}, {"b/a_test.rego", "package regard.decision_test\n"}, {"b/p.rego", small}} {
		for _, part := range f {
			want = append(binary.BigEndian.AppendUint32(want, uint32(len(part))), part...)
		}
	}
	if !bytes.Equal(b.Bytes(), want) || b.Digest() != sha256.Sum256(want) {
		t.Errorf("%q, want %q", b.Bytes(), want)
	}
	if b.Revision() != "7" {
		t.Errorf("revision %q", b.Revision())
	}
	again, err := ParseBundle(b.Bytes())
	if err != nil || again.Digest() != b.Digest() || again.Revision() != "7" || !slices.Equal(again.Paths(), b.Paths()) {
		t.Errorf("%+v (%v)", again, err)
	}
	without, err := NewBundle(map[string][]byte{"p.rego": []byte(small)})
	if err != nil || without.Revision() != without.Digest().Hex()[:16] || !isToken(without.Revision()) {
		t.Errorf("revision without manifest: %v", err)
	}
}

func TestBundleRefused(t *testing.T) {
	ok := []byte(small)
	many := map[string][]byte{}
	large := map[string][]byte{}
	for i := range maxFiles + 1 {
		name := string(appendInt(nil, int64(i))) + ".rego"
		many[name] = ok
		if i < 5 {
			large[name] = bytes.Repeat([]byte{'#'}, maxFile)
		}
	}
	for name, files := range map[string]map[string][]byte{
		"empty":            {},
		"manifest only":    {".manifest": []byte(`{"revision": "1"}`)},
		"data":             {"p.rego": ok, "data.json": []byte("{}")},
		"yaml":             {"p.rego": ok, "data.yaml": []byte("a: 1")},
		"another manifest": {"p.rego": ok, "a/.manifest": []byte("{}")},
		"signatures":       {"p.rego": ok, ".signatures.json": []byte("{}")},
		"up":               {"../p.rego": ok},
		"up inside":        {"a/../p.rego": ok},
		"absolute":         {"/p.rego": ok},
		"dot":              {"./p.rego": ok},
		"double slash":     {"a//p.rego": ok},
		"backslash":        {`a\p.rego`: ok},
		"control":          {"a\n.rego": ok},
		"long path":        {strings.Repeat("a", maxPath) + ".rego": ok},
		"long file":        {"p.rego": bytes.Repeat([]byte{'#'}, maxFile+1)},
		"not UTF-8":        {"p.rego": {'#', 0xff}},
		"many":             many,
		"large":            large,
		"no revision":      {"p.rego": ok, ".manifest": []byte(`{}`)},
		"revision":         {"p.rego": ok, ".manifest": []byte(`{"revision": "Ma version"}`)},
		"manifest key":     {"p.rego": ok, ".manifest": []byte(`{"revision": "1", "wasm": []}`)},
		"manifest tail":    {"p.rego": ok, ".manifest": []byte(`{"revision": "1"}{}`)},
		"root":             {"p.rego": ok, ".manifest": []byte(`{"revision": "1", "roots": [""]}`)},
		"Rego v0":          {"p.rego": ok, ".manifest": []byte(`{"revision": "1", "rego_version": 0}`), "q.rego": []byte("package regard.q\np { true }")},
	} {
		b, err := NewBundle(files)
		if err == nil {
			_, err = compile(t.Context(), b, true) // what only the compiler sees
		}
		if !errors.Is(err, ErrBundle) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCompileRefused(t *testing.T) {
	with := func(more string) string { return small + "\n" + more + "\n" }
	for name, test := range map[string]struct{ rego, says string }{
		"syntax":      {"package regard.decision\n\ngrant := ", "p.rego:3: rego_parse_error"},
		"type":        {with(`x := 1 + "a"`), "p.rego:9: rego_type_error"},
		"unsafe":      {with(`x if { y }`), "p.rego:9: rego_unsafe_var_error"},
		"network":     {with(`x := http.send({"method": "get", "url": "http://localhost"})`), "undefined function http.send"},
		"DNS":         {with(`x := net.lookup_ip_addr("localhost")`), "undefined function net.lookup_ip_addr"},
		"environment": {with(`x := opa.runtime()`), "undefined function opa.runtime"},
		"random":      {with(`x := rand.intn("a", 3)`), "undefined function rand.intn"},
		"clock":       {with(`x := time.now_ns()`), "undefined function time.now_ns"},
		"time zone":   {with(`x := time.clock([0, "Europe/Paris"])`), "undefined function time.clock"},
		"memory":      {with(`x := numbers.range(0, 1000000000)`), "undefined function numbers.range"},
		"uuid":        {with(`x := uuid.rfc4122("a")`), "undefined function uuid.rfc4122"},
		"strict":      {with("x if {\n\ty := 1\n}"), "p.rego:10: rego_compile_error: assigned var y unused"},
		"package":     {"package other\n", "p.rego:1: package other is not in package regard"},
		"test":        {"package regard.decision_test\n", "p.rego:1: the packages of *_test.rego files"},
		"no grant":    {"package regard.decision\n\nreasons contains 1 if input.a", "no rule data.regard.decision.grant"},
		"no reasons":  {"package regard.decision\n\ngrant := 1 if input.a", "or no rule data.regard.decision.reasons"},
		"a reason that would not refuse": {with(`reasons contains {"code": "x", "fr": "Non.", "en": "No."} if input.purpose == "x"`),
			"p.rego:9: this reason does not say `not` of a condition that every grant demands"},
		"a reason of a condition that nothing demands": {with("reasons contains {\"code\": \"x\", \"fr\": \"Non.\", \"en\": \"No.\"} if not good\n\ngood if input.purpose == \"x\""),
			"p.rego:9: this reason"},
		"a grant without the condition": {with(`grant := {"scopes": input.scopes, "fields": input.service.scopes, "obligations": []} if input.purpose == "x"`), "p.rego:7: this reason"},
		"a grant by default":            {with(`default grant := {"scopes": [], "fields": {}, "obligations": []}`), "p.rego:7: this reason"},
		"a condition by default":        {with(`default active := false`), ""},
		"a condition demanded by another": {with("active if deep\n\ndeep if input.x"),
			""},
		"a grant under another input": {strings.Replace(small, "if active", `if active with input as {"agency": {"state": "active"}}`, 1), "p.rego:7: this reason"},
	} {
		b, err := NewBundle(map[string][]byte{"p.rego": []byte(test.rego)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = compile(t.Context(), b, true)
		if test.says == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if !errors.Is(err, ErrBundle) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %q", name, err, test.says)
		}
	}
}

func TestParseBundleRefused(t *testing.T) {
	b := builtin(t).Bytes()
	one := func(parts ...string) []byte {
		out := []byte(bundlePrefix)
		for _, p := range parts {
			out = appendSized(out, []byte(p))
		}
		return out
	}
	for name, data := range map[string][]byte{
		"nothing":      nil,
		"prefix":       []byte(bundlePrefix),
		"no prefix":    b[1:],
		"cut":          b[:len(b)-1],
		"trailing":     append(slices.Clone(b), 0),
		"no content":   one("a.rego"),
		"twice":        one("a.rego", small, "a.rego", small),
		"not in order": one("b.rego", small, "a.rego", small),
		"length":       append([]byte(bundlePrefix), 0xff, 0xff, 0xff, 0xff),
		"too large":    append(slices.Clone(b), make([]byte, MaxBundle)...),
	} {
		if _, err := ParseBundle(data); !errors.Is(err, ErrBundle) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseBundle(f *testing.F) {
	f.Add(appendSized(appendSized([]byte(bundlePrefix), []byte("p.rego")), []byte(small)))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBundle(data)
		if err != nil {
			if !errors.Is(err, ErrBundle) {
				t.Errorf("%v does not wrap ErrBundle", err)
			}
			return
		}
		if !bytes.Equal(b.Bytes(), data) {
			t.Errorf("%q became %q", data, b.Bytes())
		}
	})
}

// tarball writes entries as they are, so that it can be wrong.
func tarball(t *testing.T, headers []tar.Header, content []byte) string {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		h.Mode = 0o600
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestSources(t *testing.T) {
	b := builtin(t)
	dir, err := FromPath("bundle").Load()
	if err != nil || dir.Digest() != b.Digest() {
		t.Errorf("the directory gives another bundle than what is built in (%v)", err)
	}
	want := map[string][]byte{"a/p.rego": []byte(small), "q.rego": []byte(small)}
	packed, err := FromPath(tarball(t, []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir}, {Name: "./q.rego", Typeflag: tar.TypeReg}, {Name: "a/p.rego", Typeflag: tar.TypeReg},
	}, []byte(small))).Load()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, packed.files); diff != "" {
		t.Error(diff)
	}
	// As Kubernetes mounts a ConfigMap.
	mount := t.TempDir()
	if err := errors.Join(
		os.Mkdir(filepath.Join(mount, "..2026"), 0o700), os.WriteFile(filepath.Join(mount, "..2026", "p.rego"), []byte(small), 0o600),
		os.Symlink("..2026", filepath.Join(mount, "..data")), os.Symlink("..data/p.rego", filepath.Join(mount, "p.rego")),
	); err != nil {
		t.Fatal(err)
	}
	mounted, err := FromPath(mount).Load()
	if err != nil || !slices.Equal(slices.Collect(maps.Keys(mounted.files)), []string{"p.rego"}) {
		t.Errorf("%v", err)
	}
}

func TestSourcesRefused(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "p.rego")
	link, data := t.TempDir(), t.TempDir()
	notGzip := filepath.Join(t.TempDir(), "bundle.tar.gz")
	if err := errors.Join(os.WriteFile(outside, []byte(small), 0o600), os.Symlink(outside, filepath.Join(link, "p.rego")),
		os.WriteFile(filepath.Join(data, "data.json"), []byte("{}"), 0o600), os.WriteFile(notGzip, []byte(small), 0o600)); err != nil {
		t.Fatal(err)
	}
	pack := func(h ...tar.Header) string { return tarball(t, h, []byte(small)) }
	for name, path := range map[string]string{
		"nothing there": filepath.Join(t.TempDir(), "none"),
		"empty":         t.TempDir(),
		"link outside":  link,
		"data":          data,
		"not gzip":      notGzip,
		"up":            pack(tar.Header{Name: "../p.rego", Typeflag: tar.TypeReg}),
		"absolute":      pack(tar.Header{Name: "/p.rego", Typeflag: tar.TypeReg}),
		"twice":         pack(tar.Header{Name: "p.rego", Typeflag: tar.TypeReg}, tar.Header{Name: "./p.rego", Typeflag: tar.TypeReg}),
		"symbolic link": pack(tar.Header{Name: "p.rego", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}),
		"hard link":     pack(tar.Header{Name: "p.rego", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"}),
		"data in a tar": pack(tar.Header{Name: "p.rego", Typeflag: tar.TypeReg}, tar.Header{Name: "data.json", Typeflag: tar.TypeReg}),
		"decompresses":  tarball(t, slices.Repeat([]tar.Header{{Name: strings.Repeat("d/", 80), Typeflag: tar.TypeDir}}, 20000), nil),
		"large file":    tarball(t, []tar.Header{{Name: "p.rego", Typeflag: tar.TypeReg}}, make([]byte, maxFile+1)),
	} {
		if _, err := FromPath(path).Load(); !errors.Is(err, ErrBundle) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
