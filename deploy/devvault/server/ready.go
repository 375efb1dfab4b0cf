package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Keys command a server: the root token, and the shares (hexadecimal) that unseal it.
type Keys struct {
	RootToken  string   `json:"root_token"`
	UnsealKeys []string `json:"unseal_keys"`
}

// Ready is the content of the ready file.
type Ready struct {
	// Address is the base URL, for example http://127.0.0.1:41234.
	Address string `json:"address"`
	Keys
}

// keysFile lies beside Vault's data and not in the ready file, which goes away with the server.
func keysFile(storage string) string { return filepath.Join(storage, "keys.json") }

func readKeys(storage string) (Keys, error) {
	var keys Keys
	raw, err := os.ReadFile(keysFile(storage)) // #nosec G304 -- the operator of a test server names its directory
	if err == nil {
		err = json.Unmarshal(raw, &keys)
	}
	if err == nil && (keys.RootToken == "" || len(keys.UnsealKeys) == 0) {
		err = errors.New("no root token or no unseal key in it")
	}
	if err != nil {
		return Keys{}, fmt.Errorf("the storage is initialised but its keys can't be read (remove the directory to start anew): %w", err)
	}
	return keys, nil
}

func writeKeys(storage string, keys Keys) error {
	if storage == "" {
		return nil // in memory, a next start begins anew
	}
	return writeJSON(keysFile(storage), keys)
}

func writeReady(path string, ready Ready) error {
	if path == "" {
		return nil
	}
	return writeJSON(path, ready)
}

func removeReady(path string) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the ready file: %w", err)
	}
	return nil
}

// writeJSON replaces path as a whole, so that a reader never sees half of it. The mode is 0600 (os.CreateTemp's).
func writeJSON(path string, v any) (err error) {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
			err = fmt.Errorf("writing %s: %w", path, err)
		}
	}()
	_, err = f.Write(append(raw, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
