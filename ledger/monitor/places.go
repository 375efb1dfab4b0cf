package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// watched is a place that remembers which of its files could not be read, whoever asked for it: a place that serves its checkpoint and nothing else is away as well.
type watched struct {
	reader.Source

	mu   sync.Mutex
	name string // of the first one in this look
	err  error
}

func (w *watched) Get(ctx context.Context, name string, limit int) ([]byte, error) {
	b, err := w.Source.Get(ctx, name, limit)
	if errors.Is(err, reader.ErrUnavailable) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.err == nil {
			w.name, w.err = name, err
		}
	}
	return b, err
}

// unread returns the file that could not be read, and why.
func (w *watched) unread() (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.name, w.err
}

// again begins a look. A file that could not be read then is asked for once more: otherwise a place that was left for another would count as well again.
func (w *watched) again(ctx context.Context, name string) {
	w.mu.Lock()
	w.name, w.err = "", nil
	w.mu.Unlock()
	if name != "" {
		_, _ = w.Get(ctx, name, reader.MaxBlob) // only whether it can be read
	}
}

// view is what one place serves.
type view struct {
	src *watched
	cp  proof.Checkpoint
	err error // of the checkpoint
}

// failing reports whether some file of the place could not be read.
func (v view) failing() bool { _, err := v.src.unread(); return err != nil }

// views asks all places at once.
func (m *Monitor) views(ctx context.Context) []view {
	out := make([]view, len(m.places))
	var wait sync.WaitGroup
	for i, s := range m.places {
		wait.Go(func() {
			out[i].src = s
			out[i].cp, out[i].err = reader.Checkpoint(ctx, s.Source, m.cfg.Policy)
			s.again(ctx, m.state.Unread[s.String()])
		})
	}
	wait.Wait()
	return out
}

// reached notes whether a place could be read, and whether what it has is the log's.
func (m *Monitor) reached(v view, now time.Time) Place {
	s, name := &m.state, v.src.String()
	file, err := v.src.unread()
	err = cmp.Or(v.err, err)
	p := Place{Place: name, Size: v.cp.Size()}
	switch {
	case err == nil:
		delete(s.Away, name)
		delete(s.Unread, name)
		return p
	case errors.Is(v.err, proof.ErrSignature), errors.Is(v.err, proof.ErrFormat), errors.Is(v.err, reader.ErrRefused), v.err != nil && v.cp.Origin() != "":
		s.Book.raise(Invalid, name, clean(err.Error()))
	default:
		since, ok := s.Away[name]
		if !ok {
			since = now.UTC()
			s.Away[name] = since
		}
		if file != "" {
			s.Unread[name] = file
		}
		if now.Sub(since) >= m.cfg.Away {
			s.Book.raise(Unreachable, name, fmt.Sprintf("since %s: %s", at(since), clean(err.Error())))
		}
	}
	p.Problem = clean(err.Error())
	return p
}
