package sqlite

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/trillian"
	"github.com/transparency-dev/merkle/compact"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func tryOpen(t testing.TB, path string) error {
	t.Helper()
	s, err := Open(context.Background(), Config{Path: path})
	if err == nil {
		s.Close()
	}
	return err
}

func wantErr(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one with %q", words)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q doesn't say %q", err, w)
		}
	}
}

func TestSecondOpenerIsRefused(t *testing.T) {
	if path := os.Getenv("REGARD_TEST_OPEN"); path != "" { // the second process
		if err := tryOpen(t, path); err != nil {
			t.Fatal(err)
		}
		return
	}
	s := open(t)
	err := tryOpen(t, s.path)
	if !errors.Is(err, ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	wantErr(t, err, s.path+".lock", "stop it first")

	// Another process, too.
	cmd := exec.Command(os.Args[0], "-test.run=^TestSecondOpenerIsRefused$", "-test.v")
	cmd.Env = append(os.Environ(), "REGARD_TEST_OPEN="+s.path)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("a second process: %v, %s", err, out)
	}
	s.Close()
	cmd = exec.Command(cmd.Path, cmd.Args[1:]...)
	cmd.Env = append(os.Environ(), "REGARD_TEST_OPEN="+s.path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("a second process after Close: %v, %s", err, out)
	}
	if err := tryOpen(t, s.path); err != nil {
		t.Errorf("opening again after Close: %v", err)
	}
}

func TestFailedOpenReleasesTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantErr(t, tryOpen(t, path), path, "damaged")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(t, path); err != nil {
		t.Error(err)
	}
}

func TestPermissions(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "by", "open")
	s := open(t, func(c *Config) { c.Path = filepath.Join(dir, "log.db") })
	add(t, s, newTree(t, s), leaves(0, 10))
	if err := s.Log().CheckDatabaseAccessible(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{
		dir: 0o700, s.path: 0o600, s.path + "-wal": 0o600, s.path + "-shm": 0o600, s.path + ".lock": 0o600,
	} {
		fi, err := os.Stat(name)
		if err != nil {
			t.Error(err)
		} else if got := fi.Mode().Perm(); got != want {
			t.Errorf("%s has mode %v, want %v", name, got, want)
		}
	}
	s.Close()
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o666} {
		if err := os.Chmod(s.path, mode); err != nil {
			t.Fatal(err)
		}
		wantErr(t, tryOpen(t, s.path), s.path, "chmod 600")
	}
	if err := os.Chmod(s.path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	wantErr(t, tryOpen(t, s.path), dir, "chmod go-w")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := tryOpen(t, s.path); err != nil {
		t.Error(err)
	}
	wantErr(t, tryOpen(t, dir), "directory")
}

func TestPathsWithOddNames(t *testing.T) {
	for _, name := range []string{"log db", "log?vfs=none&mode=memory", "log#1%41.db", "journal é.db"} {
		path := filepath.Join(t.TempDir(), name)
		s := open(t, func(c *Config) { c.Path = path })
		tree := newTree(t, s)
		add(t, s, tree, leaves(0, 3))
		s = reopen(t, s)
		if n := count(t, s, `SELECT count(*) FROM Leaf`); n != 3 {
			t.Errorf("%s: %d leaves after reopening, want 3", name, n)
		}
		if fi, err := os.Stat(path); err != nil || fi.Size() == 0 {
			t.Errorf("%s was not used: %v", path, err)
		}
	}
}

func TestOtherFiles(t *testing.T) {
	pragma := func(sql ...string) func(t *testing.T, path string) {
		return func(t *testing.T, path string) {
			c, err := openConn(connOptions{path: path})
			if err != nil {
				t.Fatal(err)
			}
			defer c.close()
			for _, q := range sql {
				if _, err := c.exec(q); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, tt := range []struct {
		what   string
		change func(t *testing.T, path string)
		words  []string
	}{
		{"a newer version", pragma(`PRAGMA user_version = 2`), []string{"newer version", "schema 2"}},
		{"an older version", pragma(`PRAGMA user_version = 0`), []string{"schema 0"}},
		{"another program's", pragma(`PRAGMA application_id = 7`), []string{"not a Regard log", "another path"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			s := open(t)
			s.Close()
			tt.change(t, s.path)
			before, err := os.ReadFile(s.path)
			if err != nil {
				t.Fatal(err)
			}
			wantErr(t, tryOpen(t, s.path), append(tt.words, s.path)...)
			after, err := os.ReadFile(s.path)
			if err != nil {
				t.Fatal(err)
			}
			if string(before) != string(after) {
				t.Error("the file was changed")
			}
		})
	}
	t.Run("an unknown one with tables", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "other.db")
		pragma(`CREATE TABLE Something(x)`)(t, path)
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		wantErr(t, tryOpen(t, path), "not a Regard log", path)
	})
	t.Run("an empty one, as a crash leaves it", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "log.db")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := tryOpen(t, path); err != nil {
			t.Error(err)
		}
	})
}

func TestDamagedFiles(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	add(t, s, tree, leaves(0, 500))
	integrate(t, s, tree)
	s.Close()
	good, err := os.ReadFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	if len(good) < 10*page {
		t.Fatalf("only %d bytes", len(good))
	}
	try := func(what string, b []byte) {
		t.Helper()
		path := filepath.Join(t.TempDir(), "log.db")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), Config{Path: path})
		if err == nil {
			// The structure can be whole without the content; reading finds out.
			err = readTiles(t, s, tree, 500)
			s.Close()
			if err == nil {
				t.Errorf("%s: opened and read", what)
				return
			}
			wantErr(t, err, "damaged", "restore")
			return
		}
		wantErr(t, err, path, "damaged", "restore")
		if got := status.Code(err); got != codes.DataLoss {
			t.Errorf("%s: code %v, want DataLoss", what, got)
		}
	}
	for at := 0; at < len(good); at += page {
		for _, fill := range []byte{0x00, 0xff} {
			b := append([]byte(nil), good...)
			for i := range page {
				b[at+i] = fill
			}
			if bytes.Equal(b, good) {
				continue // the unused end of a tile
			}
			try(fmt.Sprintf("page %d of %d filled with %#x", at/page+1, len(good)/page, fill), b)
		}
	}
	try("cut in half", good[:len(good)/2/page*page])
	try("last page missing", good[:len(good)-page])
	try("random text", []byte(strings.Repeat("Lorem ipsum dolor sit amet ", 500)))
}

// readTiles asks for a node in each tile.
func readTiles(t *testing.T, s *Storage, tree *trillian.Tree, size uint64) error {
	t.Helper()
	tx, err := s.Log().SnapshotForTree(t.Context(), tree)
	if err != nil {
		return err
	}
	defer tx.Close()
	var ids []compact.NodeID
	for i := uint64(0); i < size; i += tileWidth {
		ids = append(ids, compact.NewNodeID(0, i))
	}
	_, err = tx.GetMerkleNodes(t.Context(), append(ids, compact.NewNodeID(tileHeight, 0)))
	return err
}

// Damage that shows only later is an error then, never a wrong answer.
func TestDamageFoundByReading(t *testing.T) {
	s := open(t)
	tree := newTree(t, s)
	add(t, s, tree, leaves(0, 300))
	integrate(t, s, tree)
	c, err := s.acquire(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`UPDATE Leaf SET Hashes = x'00' WHERE Id & 255 = 7`,
		`DELETE FROM Leaf WHERE Id & 1023 = 200`,
		`UPDATE Tile SET Hashes = zeroblob(8200) WHERE Id & 255 = 1`,
	} {
		if _, err := c.exec(q); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.finish(c, true, true); err != nil {
		t.Fatal(err)
	}
	tx, err := s.Log().SnapshotForTree(t.Context(), tree)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Close()
	for _, start := range []int64{0, 195, 200} {
		if _, err := tx.GetLeavesByRange(t.Context(), start, 20); status.Code(err) != codes.DataLoss {
			t.Errorf("reading from %d: %v, want DataLoss", start, err)
		}
	}
	if err := tryIntegrate(s, tree); err != nil {
		t.Errorf("integrating nothing: %v", err)
	}
	add(t, s, tree, leaves(300, 1))
	if err := tryIntegrate(s, tree); err == nil {
		t.Error("integrated on top of a damaged tile")
	}
}
