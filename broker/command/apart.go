package command

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/regard-broker/regard/broker/config"
)

// apart demands, in production, that something outside the disk of the data directory knows where the log stands: a mirror, signed_dir on another file system, or, for brokers that share a store, the database of ledger.signed_url_file. One on the same disk comes back with
// its snapshots, and then nothing shows that the log is an old copy.
func apart(cfg *config.Config) error {
	if !cfg.Production || len(cfg.Mirrors) > 0 || cfg.Store.Postgres.On() && cfg.Ledger.SignedURLFile != "" {
		return nil
	}
	if err := os.MkdirAll(cfg.SignedDir, 0o700); err != nil {
		return fmt.Errorf("making signed_dir: %w", err)
	}
	var device [2]uint64
	for i, dir := range []string{cfg.DataDir, cfg.SignedDir} {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("finding the device of a directory: %w", err)
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("this system doesn't say on which device a directory is: name a copy of the published checkpoint under mirrors")
		}
		device[i] = st.Dev
	}
	if device[0] == device[1] {
		return usagef("signed_dir (%s) is on the same file system as data_dir: an old copy of the disk that is put back would fork the log unnoticed. Put it on another disk, or name a copy of the published checkpoint under mirrors", cfg.SignedDir)
	}
	return nil
}
