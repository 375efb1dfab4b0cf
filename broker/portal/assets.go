package portal

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strconv"
	"strings"
)

//go:embed assets
var assetFiles embed.FS

// assetsPath is where assets are, without the first slash.
const assetsPath = "ressources/"

// assets are files that never change under their names: the name holds a hash of the content, so browsers keep them for good.
type assets struct {
	names map[string]string // path by the name of the file
	files map[string]asset  // by the name in the path
}

// assetTypes doesn't ask the system, whose answers differ.
var assetTypes = map[string]string{".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}

type asset struct {
	contentType string
	plain, gzip []byte
}

func loadAssets() (*assets, error) {
	a := &assets{names: map[string]string{}, files: map[string]asset{}}
	err := fs.WalkDir(assetFiles, "assets", func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := assetFiles.ReadFile(file)
		if err != nil {
			return err
		}
		ext := path.Ext(file)
		sum := sha256.Sum256(b)
		name := strings.TrimSuffix(path.Base(file), ext) + "." + hex.EncodeToString(sum[:8]) + ext
		x := asset{contentType: assetTypes[ext], plain: b}
		if x.contentType == "" {
			return fmt.Errorf("asset %s: a file of an unknown type", file)
		}
		var buf bytes.Buffer
		z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(b); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		x.gzip = buf.Bytes()
		a.names[path.Base(file)], a.files[name] = "/"+assetsPath+name, x
		return nil
	})
	return a, err
}

// url of an asset, for templates.
func (a *assets) url(name string) (string, error) {
	u, ok := a.names[name]
	if !ok {
		return "", fmt.Errorf("there is no asset %s", name)
	}
	return u, nil
}

// ServeHTTP implements http.Handler.
func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x, ok := a.files[r.PathValue("name")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Type", x.contentType)
	h.Add("Vary", "Accept-Encoding")
	body := x.plain
	if acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		body = x.gzip
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}
