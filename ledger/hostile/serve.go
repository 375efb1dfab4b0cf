package hostile

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/transparency-dev/tessera/api/layout"
	"golang.org/x/mod/sumdb/tlog"
)

// Files returns what the operator publishes: the files of a tlog-tiles log with its checkpoint, the index trees of closed epochs, and the blobs.
func (o *Operator) Files() map[string][]byte {
	out := map[string][]byte{layout.CheckpointPath: o.Checkpoint(o.Size())}
	o.log.files(out, "")
	for _, e := range o.Epochs {
		if e.Closed() {
			e.index.files(out, path.Join("index", e.Number.String())+"/")
		}
	}
	for name, b := range o.Blobs {
		out[name] = b
	}
	return out
}

// files adds the tiles and bundles of a tree.
func (t *tree) files(out map[string][]byte, under string) {
	size := int64(t.size())
	for _, tile := range tlog.NewTiles(layout.TileHeight, 0, size) {
		out[under+layout.TilePath(uint64(tile.L), uint64(tile.N), uint8(tile.W%layout.TileWidth))] = must(tlog.ReadTileData(tile, t))
	}
	for n := uint64(0); n*layout.EntryBundleWidth < t.size(); n++ {
		var bundle []byte
		end := min((n+1)*layout.EntryBundleWidth, t.size())
		for _, text := range t.texts[n*layout.EntryBundleWidth : end] {
			bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(text))), text...)
		}
		out[under+layout.EntriesPath(n, uint8(end%layout.EntryBundleWidth))] = bundle
	}
}

// WriteTo writes what is published to a directory.
func (o *Operator) WriteTo(dir string) error {
	for name, data := range o.Files() {
		file := filepath.Join(dir, filepath.FromSlash(name))
		// #nosec G301 -- what is published is for everybody
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
		// #nosec G306 -- as above
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return fmt.Errorf("publishing: %w", err)
		}
	}
	return nil
}

// ServeHTTP serves what is published now.
func (o *Operator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	data, ok := o.Files()[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(data)
}
