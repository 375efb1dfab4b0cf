package server

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	log "github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/sdk/physical"
	"github.com/hashicorp/vault/sdk/physical/file"
	"github.com/hashicorp/vault/sdk/physical/inmem"
)

func storageType(dir string) string {
	if dir == "" {
		return "inmem"
	}
	return "file"
}

func newStorage(dir string, logger log.Logger) (physical.Backend, error) {
	if dir == "" {
		return inmem.NewInmem(nil, logger)
	}
	return file.NewFileBackend(map[string]string{"path": filepath.Join(dir, "data")}, logger)
}

// lock keeps a second server off the same storage. The kernel lets go of it when the process ends, however it ends.
func lock(dir string) (unlock func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the storage: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600) // #nosec G304 -- named by the operator
	if err != nil {
		return nil, fmt.Errorf("locking the storage: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("the storage %s is in use by another devvault: stop it or take another directory", dir)
	}
	return func() { _ = f.Close() }, nil
}
