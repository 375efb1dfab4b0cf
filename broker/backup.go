package broker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// A backup is a directory: manifest.json, store.db, blob/ with what governance entries of the public log point to, and audit/ with what auditors stated. It holds no checkpoint store (an old one would let a log fork), no
// keystore, no passphrase and no Trillian database (that is made again from the order in the store).

// ManifestFile is written last, so that a backup without one is unfinished.
const ManifestFile = "manifest.json"

const (
	backupFormat = "regard/backup@v1"
	backupStore  = "store.db"
	blobDir      = "blob"
	auditDir     = "audit"
)

// SharedBackup says what to back up of brokers that share a store.
const SharedBackup = "Back up the store's database (archived write-ahead log with base backups, or pg_dump), Vault's storage, and the public directory by a mirror. Never the database of the signed checkpoint, which an older copy would let fork the log; " +
	"nor Trillian's, which is made again. After the store was put back: regard restore. See docs/production.md, Backup and restore."

// A Manifest describes a backup.
type Manifest struct {
	Format     string       `json:"format"`
	Origin     string       `json:"origin"`
	Time       time.Time    `json:"time"`       // when it was begun
	Size       uint64       `json:"size"`       // entries in its order
	Checkpoint string       `json:"checkpoint"` // the last one that was signed when it was begun, as a signed note
	Files      []BackupFile `json:"files"`
}

// BackupFile is one file of a backup.
type BackupFile struct {
	Name   string `json:"name"` // with slashes
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hexadecimal
}

// Backup writes a consistent copy of everything that can't be made again to dir, which must not exist, while requests go on. When it returns without an error all of it is on the disk.
// Whoever has it and the root keys can read everything up to then, people who are erased later included: destroy old backups.
func (b *Broker) Backup(ctx context.Context, dir string) (_ *Manifest, err error) {
	ctx, cancel := b.untilStopping(ctx)
	defer cancel()
	if b.cfg.Shared != nil {
		return nil, conflict("backup.shared", "The store is on PostgreSQL, whose own means back it up.", SharedBackup)
	}
	if !filepath.IsAbs(dir) {
		return nil, invalid("/dir", "The backup's directory is not an absolute path.", "Give an absolute path.")
	}
	if inside, err := within(b.cfg.DataDir, dir); err != nil {
		return nil, &Problem{Status: 409, Code: "backup.failed", Title: "The backup's directory can't be made.", Detail: "The directory in which it is to be must be there, and the broker's user must be able to write in it.", err: err}
	} else if inside {
		return nil, invalid("/dir", "The backup's directory is in the data directory.", "It would be lost with it, or be published: choose one on another disk.")
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil, conflict("backup.exists", "There is something at this path already; a backup overwrites nothing.", "Choose another directory.")
	} else if err != nil {
		return nil, &Problem{Status: 409, Code: "backup.failed", Title: "The backup's directory can't be made.", Detail: "The broker's user must be able to write in the directory in which it is to be.", err: err}
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir) // this call made it
			if !errors.As(err, new(*Problem)) {
				err = &Problem{Status: 500, Code: "backup.failed", Title: "The backup failed; what there was of it is removed.", Detail: "Repeat it once the cause is gone.", err: err}
			}
		}
	}()
	if err := b.keysAhead(ctx); err != nil {
		return nil, err
	}
	// The checkpoint first: what it covers is in the copy.
	note, err := b.signed.Last(ctx)
	if err != nil {
		return nil, err
	}
	m := &Manifest{Format: backupFormat, Origin: b.cfg.Origin, Time: b.now(), Checkpoint: string(note)}
	path := filepath.Join(dir, backupStore)
	if err := b.store.Copy(ctx, path); err != nil {
		return nil, err
	}
	if m.Size, err = store.SizeOf(ctx, path); err != nil {
		return nil, fmt.Errorf("reading the copy: %w", err)
	}
	f, err := describe(dir, backupStore)
	if err != nil {
		return nil, err
	}
	m.Files = append(m.Files, f)
	if err := b.copyBlobs(ctx, dir, m); err != nil {
		return nil, fmt.Errorf("copying what the log points to: %w", err)
	}
	if err := b.copyStatements(ctx, dir, m); err != nil {
		return nil, fmt.Errorf("copying the statements of auditors: %w", err)
	}
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, ManifestFile), append(text, '\n')); err != nil {
		return nil, err
	}
	if err := errors.Join(tiles.SyncDir(dir), tiles.SyncDir(filepath.Dir(dir))); err != nil {
		return nil, err
	}
	b.log.Info("made a backup", "entries", m.Size)
	return m, nil
}

// within says whether a path that is to be made is in a directory, whatever links lead there.
func within(dir, path string) (bool, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return false, err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return false, err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(dir, filepath.Join(parent, filepath.Base(path)))
	return err == nil && filepath.IsLocal(rel), err
}

// keysAhead makes the label keys of the next month now: the open epoch of a log that is restored must have its keys in the backup.
func (b *Broker) keysAhead(ctx context.Context) error {
	now := b.now()
	for _, t := range []time.Time{now, time.Date(now.Year(), now.Month()+1, 1, 0, 0, 0, 0, time.UTC)} {
		name, _, err := b.ring.Labels().CurrentKey(ctx, t)
		if err == nil {
			_, err = b.ring.Labels().RollSeed(ctx, name, 0) // and the secret of the rolls with it
		}
		if err != nil {
			return keysProblem(err)
		}
	}
	return nil
}

func (b *Broker) copyBlobs(ctx context.Context, dir string, m *Manifest) error {
	list, err := os.ReadDir(filepath.Join(b.PublicDir(), blobDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	to := filepath.Join(dir, blobDir)
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !isDigest(e.Name()) {
			continue // one that is being written
		}
		data, err := os.ReadFile(filepath.Join(b.PublicDir(), blobDir, e.Name()))
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != e.Name() {
			return fmt.Errorf("the published blob %s is damaged", e.Name())
		}
		if err := writeNew(filepath.Join(to, e.Name()), data); err != nil {
			return err
		}
		m.Files = append(m.Files, BackupFile{blobDir + "/" + e.Name(), int64(len(data)), e.Name()})
	}
	return tiles.SyncDir(to)
}

// copyStatements copies what auditors stated about the indexes of closed epochs: nobody but they could make it again.
func (b *Broker) copyStatements(ctx context.Context, dir string, m *Manifest) error {
	public := os.DirFS(b.PublicDir())
	to := filepath.Join(dir, auditDir)
	err := fs.WalkDir(public, auditDir, func(name string, d fs.DirEntry, err error) error {
		switch {
		case name == auditDir && errors.Is(err, fs.ErrNotExist):
			return fs.SkipAll
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir():
			return os.Mkdir(filepath.Join(dir, filepath.FromSlash(name)), 0o700)
		case !tiles.IsStatement(name):
			return nil // one that is being written
		}
		data, err := fs.ReadFile(public, name)
		if err != nil {
			return err
		}
		if err := writeNew(filepath.Join(dir, filepath.FromSlash(name)), data); err != nil {
			return err
		}
		f, err := describe(dir, name)
		m.Files = append(m.Files, f)
		return err
	})
	if err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		switch {
		case path == to && errors.Is(err, fs.ErrNotExist):
			return fs.SkipAll
		case err != nil || !d.IsDir():
			return err
		}
		return tiles.SyncDir(path)
	})
}

func isDigest(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == sha256.Size && strings.ToLower(name) == name
}

func describe(dir, name string) (BackupFile, error) {
	f, err := os.Open(filepath.Join(dir, filepath.FromSlash(name)))
	if err != nil {
		return BackupFile{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return BackupFile{name, n, hex.EncodeToString(h.Sum(nil))}, err
}

func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// ReadBackup reads a backup's manifest and checks that all of it is there as it was written.
func ReadBackup(dir string) (*Manifest, error) {
	text, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("this is no backup, or an unfinished one: %w", err)
	}
	m := &Manifest{}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil || m.Format != backupFormat {
		return nil, fmt.Errorf("%s is not the manifest of a backup of this version: %v", ManifestFile, err)
	}
	if !slices.ContainsFunc(m.Files, func(f BackupFile) bool { return f.Name == backupStore }) {
		return nil, errors.New("the backup has no store")
	}
	for _, f := range m.Files {
		if digest, ok := strings.CutPrefix(f.Name, blobDir+"/"); f.Name != backupStore && !tiles.IsStatement(f.Name) && (!ok || !isDigest(digest) || digest != f.SHA256) {
			return nil, fmt.Errorf("%s names a file that no backup has: %q", ManifestFile, f.Name)
		}
		got, err := describe(dir, f.Name)
		if err != nil {
			return nil, fmt.Errorf("the backup is not complete: %w", err)
		}
		if got != f {
			return nil, fmt.Errorf("the backup is damaged: %s isn't what its manifest says", f.Name)
		}
	}
	return m, nil
}

// restorePublic publishes again what is missing of a backup's blobs and statements.
func restorePublic(from, public string, m *Manifest) error {
	for _, f := range m.Files {
		if f.Name == backupStore {
			continue
		}
		if _, err := os.Stat(filepath.Join(public, filepath.FromSlash(f.Name))); err == nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, filepath.FromSlash(f.Name)))
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != f.SHA256 {
			return fmt.Errorf("%s changed meanwhile", f.Name)
		}
		if err := tiles.WriteFile(public, f.Name, data); err != nil {
			return err
		}
	}
	return nil
}

// blob reads what a governance entry points to.
func blob(public string, digest proof.Hash) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(public, blobDir, hex.EncodeToString(digest[:])))
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(data) != digest {
		return nil, fmt.Errorf("the published blob %x is damaged", digest)
	}
	return data, nil
}
