package keystore

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"filippo.io/age"

	"github.com/regard-broker/regard/keys"
)

const (
	format = "regard/keystore@v1"
	// maxFile bounds what is read: some thousand versions.
	maxFile = 1 << 20
	// maxWorkFactor bounds what opening may cost: 2^22 is 4 GiB.
	maxWorkFactor = 22
)

// content is what is sealed, as JSON.
type content struct {
	Format     string  `json:"format"`
	Wrap       rootKey `json:"wrap"`       // AES-256
	Checkpoint rootKey `json:"checkpoint"` // Ed25519 seeds
}

type rootKey struct {
	// Versions in force, increasing by one.
	Versions []version `json:"versions"`
}

type version struct {
	Version int       `json:"version"`
	Created time.Time `json:"created"`
	Secret  []byte    `json:"secret"` // 32 bytes
}

func (c *content) clear() {
	for _, r := range []*rootKey{&c.Wrap, &c.Checkpoint} {
		for i := range r.Versions {
			clear(r.Versions[i].Secret)
		}
	}
}

func (r *rootKey) add(now time.Time) (int, error) {
	v := version{Version: 1, Created: now.UTC().Truncate(time.Second), Secret: make([]byte, 32)}
	if n := len(r.Versions); n > 0 {
		v.Version = r.Versions[n-1].Version + 1
	}
	if _, err := rand.Read(v.Secret); err != nil {
		return 0, fmt.Errorf("reading randomness: %w", err)
	}
	r.Versions = append(r.Versions, v)
	return v.Version, nil
}

func (r *rootKey) retire(oldest int) error {
	if err := keys.Retirable(oldest, r.Versions[len(r.Versions)-1].Version); err != nil {
		return err
	}
	for r.Versions[0].Version < oldest {
		clear(r.Versions[0].Secret)
		r.Versions = r.Versions[1:]
	}
	return nil
}

func (r *rootKey) check() error {
	if len(r.Versions) == 0 {
		return ErrDamaged
	}
	for i, v := range r.Versions {
		if len(v.Secret) != 32 || v.Version < 1 || v.Version > 1<<30 || i > 0 && v.Version != r.Versions[i-1].Version+1 {
			return ErrDamaged
		}
	}
	return nil
}

func (c *content) state() (*state, error) {
	if err := errors.Join(c.Wrap.check(), c.Checkpoint.check()); err != nil || c.Format != format {
		return nil, ErrDamaged
	}
	s := &state{}
	for _, v := range c.Wrap.Versions {
		a, err := newAEAD(v.Secret)
		if err != nil {
			return nil, err
		}
		s.wrap = append(s.wrap, wrapVersion{v.Version, a})
	}
	for _, v := range c.Checkpoint.Versions {
		s.checkpoint = append(s.checkpoint, signVersion{v.Version, v.Created, ed25519.NewKeyFromSeed(v.Secret)})
	}
	return s, nil
}

// unlocker seals and unseals the file.
type unlocker struct {
	passphrase []byte
	identity   *age.X25519Identity
	work       int
	short      bool
}

func newUnlocker(cfg *Config) (*unlocker, error) {
	if cfg.Path == "" {
		return nil, errors.New("keystore: no path given")
	}
	given := 0
	for _, ok := range []bool{cfg.PassphraseFile != "", len(cfg.Passphrase) > 0, cfg.KeyFile != ""} {
		if ok {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("keystore %s: give exactly one of a passphrase file, a passphrase and a key file", cfg.Path)
	}
	u := &unlocker{work: cfg.WorkFactor}
	if u.work == 0 {
		u.work = 18
	}
	if u.work < 1 || u.work > maxWorkFactor {
		return nil, fmt.Errorf("keystore: a work factor of %d is not between 1 and %d", u.work, maxWorkFactor)
	}
	if cfg.KeyFile != "" {
		b, err := readPrivate(cfg.KeyFile, "key file", 1<<16)
		if err != nil {
			return nil, err
		}
		defer clear(b)
		ids, err := age.ParseIdentities(bytes.NewReader(b))
		if err == nil && len(ids) == 1 {
			if id, ok := ids[0].(*age.X25519Identity); ok {
				u.identity = id
				return u, nil
			}
		}
		// age's own error may quote the line.
		return nil, fmt.Errorf("key file %s: want one line AGE-SECRET-KEY-1…", cfg.KeyFile)
	}
	if u.passphrase = bytes.Clone(cfg.Passphrase); cfg.PassphraseFile != "" {
		b, err := readPrivate(cfg.PassphraseFile, "passphrase file", 1<<12)
		if err != nil {
			return nil, err
		}
		b = bytes.TrimSuffix(b, []byte("\n"))
		u.passphrase = bytes.TrimSuffix(b, []byte("\r"))
	}
	if len(u.passphrase) == 0 {
		return nil, fmt.Errorf("keystore %s: the passphrase is empty", cfg.Path)
	}
	u.short = len(u.passphrase) < MinPassphrase
	return u, nil
}

func (u *unlocker) clear() { clear(u.passphrase) }

func (u *unlocker) recipient() (age.Recipient, error) {
	if u.identity != nil {
		return u.identity.Recipient(), nil
	}
	r, err := age.NewScryptRecipient(string(u.passphrase))
	if err != nil {
		return nil, err
	}
	r.SetWorkFactor(u.work)
	return r, nil
}

func (u *unlocker) open() (age.Identity, error) {
	if u.identity != nil {
		return u.identity, nil
	}
	i, err := age.NewScryptIdentity(string(u.passphrase))
	if err != nil {
		return nil, err
	}
	i.SetMaxWorkFactor(maxWorkFactor)
	return i, nil
}

// readPrivate reads a file that nobody but its owner may read.
func readPrivate(path, what string, limit int64) ([]byte, error) {
	b, _, err := readPrivateInfo(path, what, limit)
	return b, err
}

func readPrivateInfo(path, what string, limit int64) ([]byte, os.FileInfo, error) {
	f, err := os.Open(path) // #nosec G304 -- the operator's path
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%s %s: %w", what, path, ErrMissing)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("opening the %s: %w", what, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("%s %s: %w", what, path, err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s %s: not a regular file", what, path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, nil, fmt.Errorf("%s %s has mode %04o: %w", what, path, info.Mode().Perm(), ErrPermissions)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, nil, fmt.Errorf("%s %s is longer than %d bytes: %w", what, path, limit, ErrDamaged)
	}
	return b, info, nil
}

func read(path string, u *unlocker) (*content, os.FileInfo, error) {
	b, info, err := readPrivateInfo(path, "keystore", maxFile)
	if err != nil {
		return nil, nil, err
	}
	id, err := u.open()
	if err != nil {
		return nil, nil, fmt.Errorf("keystore %s: %w", path, err)
	}
	c, err := unseal(b, id)
	if err != nil {
		return nil, nil, fmt.Errorf("keystore %s: %w", path, err)
	}
	return c, info, nil
}

// unseal parses a file. Its errors are this package's: those of age and JSON could quote what they read.
func unseal(b []byte, id age.Identity) (*content, error) {
	r, err := age.Decrypt(bytes.NewReader(b), id)
	var nomatch *age.NoIdentityMatchError
	switch {
	case errors.As(err, &nomatch):
		return nil, ErrPassphrase
	case err != nil:
		return nil, ErrDamaged
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxFile))
	defer clear(plain)
	if err != nil {
		return nil, ErrDamaged
	}
	c := &content{}
	d := json.NewDecoder(bytes.NewReader(plain))
	d.DisallowUnknownFields()
	if err := d.Decode(c); err != nil || c.Format != format {
		return nil, fmt.Errorf("of another format than %s: %w", format, ErrDamaged)
	}
	if err := errors.Join(c.Wrap.check(), c.Checkpoint.check()); err != nil {
		return nil, ErrDamaged
	}
	return c, nil
}

func seal(c *content, u *unlocker) ([]byte, error) {
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, errors.New("encoding the keystore")
	}
	defer clear(plain)
	rcpt, err := u.recipient()
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, rcpt)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return sealed.Bytes(), nil
}

// write puts the content at path, whole or not at all, durably.
func write(path string, c *content, u *unlocker, create bool) error {
	sealed, err := seal(c, u)
	if err != nil {
		return fmt.Errorf("sealing the keystore: %w", err)
	}
	return place(path, sealed, create)
}

// place writes a file of mode 0600 beside path, syncs it, moves it there and syncs the directory. With create it never replaces a file.
func place(path string, b []byte, create bool) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	tmp := f.Name()
	defer os.Remove(tmp) // after a rename there is nothing left
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		if create {
			// link, unlike rename, fails if the name is taken.
			if err = os.Link(tmp, path); errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s: %w", path, ErrExists)
			}
		} else {
			err = os.Rename(tmp, path)
		}
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	d, err := os.Open(dir) // #nosec G304 -- the operator's path
	if err == nil {
		err = d.Sync()
		if e := d.Close(); err == nil {
			err = e
		}
	}
	if err != nil {
		return fmt.Errorf("syncing the directory of %s: %w", path, err)
	}
	return nil
}

// CreateKeyFile writes a new age X25519 identity to path, mode 0600, and refuses to overwrite a file.
func CreateKeyFile(path string) error {
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("generating a key file: %w", err)
	}
	return place(path, []byte("# Unlocks a Regard keystore. Keep a copy apart from it.\n"+id.String()+"\n"), true)
}

func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- the operator's path
	if err != nil {
		return nil, fmt.Errorf("locking the keystore: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil { // #nosec G115 -- a descriptor
		_ = f.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
