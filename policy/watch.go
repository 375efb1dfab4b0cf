package policy

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watch reloads the bundle whenever its files have changed and then been quiet for Config.Debounce. It returns nil when ctx ends, or an
// error if the files can't be watched. What comes of each reload is logged and stands in Status. The built-in bundle never changes.
//
// If the path of the source is itself a symbolic link that is put in place of another, Watch doesn't see it: call Reload, e.g. on SIGHUP.
func (e *Engine) Watch(ctx context.Context) error {
	if e.config.Source.path == "" {
		<-ctx.Done()
		return nil
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watching policy: %w", err)
	}
	defer w.Close()
	if err := e.config.Source.watch(w); err != nil {
		return fmt.Errorf("watching policy: %w", err)
	}
	// Changes between New and now would be missed otherwise.
	quiet := time.NewTimer(0)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-w.Events:
			if !ok {
				return nil
			}
			if event.Op != fsnotify.Chmod {
				quiet.Reset(e.config.Debounce)
			}
		case err, ok := <-w.Errors:
			if !ok {
				return nil
			}
			// Events may have been lost.
			e.log.WarnContext(ctx, "watching policy", "error", err)
			quiet.Reset(e.config.Debounce)
		case <-quiet.C:
			// Directories may have come, and one that was replaced needs a watch again.
			if err := e.config.Source.watch(w); err != nil {
				e.log.WarnContext(ctx, "watching policy", "error", err)
			}
			if err := e.Reload(ctx); err != nil && ctx.Err() == nil {
				e.log.ErrorContext(ctx, "policy not reloaded; the one in force stays", "error", err)
			}
		}
	}
}

// Retry tries again what could not be activated, whoever tried it: the log may take nothing for a while, and a bundle that takes rights away must not stay out of force until somebody touches its
// files. It reads the source anew each time, after Config.Retry at first and ten times that at most, until a bundle is in force or it is found that it can't be used. It returns when ctx ends.
func (e *Engine) Retry(ctx context.Context) {
	for wait := e.config.Retry; ; {
		select {
		case <-ctx.Done():
			return
		case <-e.failed:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !e.owed.Load() {
			continue // somebody else's is in force meanwhile
		}
		err := e.Reload(ctx)
		if !errors.Is(err, ErrActivation) {
			wait = e.config.Retry
		} else {
			wait = min(2*wait, 10*e.config.Retry)
		}
		if err != nil && ctx.Err() == nil {
			e.log.ErrorContext(ctx, "policy still not reloaded; the one in force stays", "error", err)
		}
	}
}

// watch adds the directories of the source. Editors replace files rather than write to them, so files are watched by their directory.
func (s Source) watch(w *fsnotify.Watcher) error {
	info, err := os.Stat(s.path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return w.Add(filepath.Dir(s.path))
	}
	return filepath.WalkDir(s.path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && path != s.path {
			return err
		}
		if strings.HasPrefix(d.Name(), "..") && path != s.path { // see readTree
			return fs.SkipDir
		}
		return w.Add(path)
	})
}
