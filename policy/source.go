package policy

import (
	"archive/tar"
	"compress/gzip"
	"embed"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
)

//go:embed all:bundle
var embedded embed.FS

// A Source is where a bundle comes from. The zero value is the bundle that is built in.
type Source struct {
	path string
}

// Embedded is the bundle that is built into the program.
func Embedded() Source { return Source{} }

// FromPath is a bundle in a directory or in a gzipped tar file.
func FromPath(path string) Source { return Source{path} }

// String names the source for an operator.
func (s Source) String() string {
	if s.path == "" {
		return "built-in bundle"
	}
	return s.path
}

// Load reads the bundle. Errors wrap ErrBundle.
func (s Source) Load() (*Bundle, error) {
	files, err := s.files()
	if err != nil {
		if !errors.Is(err, ErrBundle) {
			err = bundleError("reading %s: %v", s, err)
		}
		return nil, err
	}
	return NewBundle(files)
}

func (s Source) files() (map[string][]byte, error) {
	if s.path == "" {
		sub, err := fs.Sub(embedded, "bundle")
		if err != nil {
			return nil, err
		}
		return readTree(sub)
	}
	info, err := os.Stat(s.path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		// A Root does not follow symbolic links out of the directory.
		root, err := os.OpenRoot(s.path)
		if err != nil {
			return nil, err
		}
		defer root.Close()
		return readTree(root.FS())
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readTar(f)
}

func readTree(tree fs.FS) (map[string][]byte, error) {
	c := collector{files: map[string][]byte{}}
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case name == ".":
			return nil
		case strings.HasPrefix(d.Name(), ".."):
			// Kubernetes keeps the versions of a mounted ConfigMap in directories of such names and links the files to them.
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return nil
		}
		f, err := tree.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return bundleError("%s: not a regular file", name)
		}
		return c.add(name, info.Size(), f)
	})
	return c.files, err
}

func readTar(r io.Reader) (map[string][]byte, error) {
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	// Room for the headers of as many files as may be, so that a small file can't unpack into a large one.
	unpacked := &io.LimitedReader{R: z, N: MaxBundle + (maxFiles+2)*4096}
	t := tar.NewReader(unpacked)
	c := collector{files: map[string][]byte{}}
	for {
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return c.files, nil
		case err != nil && unpacked.N <= 0:
			return nil, bundleError("unpacks into more than %d bytes", MaxBundle)
		case err != nil:
			return nil, err
		case h.Typeflag == tar.TypeDir:
			continue
		case h.Typeflag != tar.TypeReg:
			return nil, bundleError("%q: not a regular file", h.Name)
		}
		if err := c.add(strings.TrimPrefix(h.Name, "./"), h.Size, t); err != nil {
			return nil, err
		}
	}
}

// collector reads files within the limits of a bundle.
type collector struct {
	files map[string][]byte
	total int
}

func (c *collector) add(name string, size int64, r io.Reader) error {
	if size > maxFile {
		size = maxFile + 1 // says "too large" below, whatever an int is
	}
	if err := checkFile(name, int(size)); err != nil {
		return err
	}
	if _, ok := c.files[name]; ok {
		return bundleError("%s: is there twice", name)
	}
	content, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return err
	}
	// The file may have grown since its size was read.
	if err := checkFile(name, len(content)); err != nil {
		return err
	}
	if c.total += len(content); c.total > MaxBundle || len(c.files) >= maxFiles {
		return bundleError("more than %d bytes or %d files", MaxBundle, maxFiles)
	}
	c.files[name] = content
	return nil
}
