package proof

import (
	"crypto/sha256"
	"slices"
	"strings"
)

// BundleFile is a file of a policy bundle.
type BundleFile struct {
	Path  string
	Bytes []byte
}

// AppendBundle appends the bytes over which a policy bundle's digest is
// computed; they are also what is served as its blob. Paths must be distinct
// and not empty.
func AppendBundle(b []byte, files []BundleFile) ([]byte, error) {
	files = slices.Clone(files)
	slices.SortFunc(files, func(x, y BundleFile) int { return strings.Compare(x.Path, y.Path) })
	out := append(b, "regard/bundle/v1\x00"...)
	for i, f := range files {
		if f.Path == "" || i > 0 && files[i-1].Path == f.Path {
			return b, formatError("bundle: a path is empty or stands there twice")
		}
		if uint64(len(f.Path)) > 1<<32-1 || uint64(len(f.Bytes)) > 1<<32-1 {
			return b, formatError("bundle: a file is too long")
		}
		out = u32(out, uint32(len(f.Path)))
		out = append(out, f.Path...)
		out = u32(out, uint32(len(f.Bytes)))
		out = append(out, f.Bytes...)
	}
	return out, nil
}

// BundleDigest returns the digest of a policy bundle.
func BundleDigest(files []BundleFile) (Hash, error) {
	b, err := AppendBundle(nil, files)
	if err != nil {
		return Hash{}, err
	}
	return sha256.Sum256(b), nil
}
