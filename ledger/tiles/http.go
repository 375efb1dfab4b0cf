package tiles

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/regard-broker/regard/ledger/proof"
)

// Handler serves a log's directory: checkpoint, tile/…, index/<epoch>/tile/…, audit/<epoch>/<auditor> and blob/<hex>, and nothing else. A path is parsed and must be the one canonical
// spelling of what it names, so no request reaches another file. Tiles, blobs and statements of auditors never change and say so; the checkpoint is always asked for again.
//
// Anybody may read it, from any web page too: all of it is public.
func Handler(dir string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		if !served(name) {
			http.NotFound(w, r)
			return
		}
		file := filepath.Join(dir, filepath.FromSlash(name))
		data, err := os.ReadFile(file) // #nosec G703 -- served() admits the names of the log's files only
		var info fs.FileInfo
		if err == nil {
			info, err = os.Stat(file) // #nosec G703 -- as above
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			http.NotFound(w, r)
			return
		case err != nil:
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		if name == layout.CheckpointPath {
			h.Set("Content-Type", "text/plain; charset=utf-8")
			h.Set("Cache-Control", "no-cache")
		} else {
			h.Set("Content-Type", "application/octet-stream")
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		sum := sha256.Sum256(data)
		h.Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
		http.ServeContent(w, r, "", info.ModTime(), bytes.NewReader(data))
	})
}

var blobName = regexp.MustCompile(`^[0-9a-f]{64}$`)

func served(name string) bool {
	if name == layout.CheckpointPath {
		return true
	}
	if hash, ok := strings.CutPrefix(name, "blob/"); ok {
		return blobName.MatchString(hash)
	}
	if rest, ok := strings.CutPrefix(name, "index/"); ok {
		epoch, tile, ok := strings.Cut(rest, "/")
		return ok && isEpoch(epoch) && isTile(tile)
	}
	return IsStatement(name) || isTile(name)
}

// IsStatement reports whether a name is that of an auditor's statement: audit/<epoch>/<auditor>.
func IsStatement(name string) bool {
	rest, ok := strings.CutPrefix(name, "audit/")
	epoch, auditor, ok2 := strings.Cut(rest, "/")
	return ok && ok2 && isEpoch(epoch) && proof.IsToken(auditor)
}

func isEpoch(s string) bool {
	n, err := strconv.ParseUint(s, 10, 63)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// isTile reports whether name is the canonical path of a tile or bundle.
func isTile(name string) bool {
	rest, ok := strings.CutPrefix(name, "tile/")
	if !ok {
		return false
	}
	level, index, ok := strings.Cut(rest, "/")
	if !ok {
		return false
	}
	if level == "entries" {
		n, p, err := layout.ParseTileIndexPartial(index)
		return err == nil && layout.EntriesPath(n, p) == name
	}
	l, n, p, err := layout.ParseTileLevelIndexPartial(level, index)
	return err == nil && layout.TilePath(l, n, p) == name
}
