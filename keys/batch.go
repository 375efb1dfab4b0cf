package keys

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	maxBatch   = 500 // items of one custodian call
	maxFlights = 4   // custodian calls at a time, of one sort
)

// batcher joins the calls of many goroutines into few calls of the custodian: while some are under way, the next callers wait together and go together. No timer: a call
// on an idle batcher leaves at once.
type batcher[In, Out any] struct {
	do       func(context.Context, []In) ([]Out, error)
	timeout  time.Duration
	clearIn  func(*In)
	clearOut func(*Out)
	direct   bool // each call by itself, in its own goroutine

	mu      sync.Mutex
	queue   []*waiting[In, Out]
	flights int
}

type waiting[In, Out any] struct {
	in   In
	out  Out
	err  error
	done chan struct{}

	mu        sync.Mutex
	abandoned bool
}

func newBatcher[In, Out any](timeout time.Duration, do func(context.Context, []In) ([]Out, error), clearIn func(*In), clearOut func(*Out)) *batcher[In, Out] {
	return &batcher[In, Out]{do: do, timeout: timeout, clearIn: clearIn, clearOut: clearOut}
}

// call returns when its item was carried, or when ctx is done; the batch goes on without it then.
func (b *batcher[In, Out]) call(ctx context.Context, in In) (Out, error) {
	if err := ctx.Err(); err != nil {
		var none Out
		return none, err
	}
	if b.direct {
		return b.alone(ctx, in)
	}
	w := &waiting[In, Out]{in: in, done: make(chan struct{})}
	b.mu.Lock()
	b.queue = append(b.queue, w)
	if b.flights < maxFlights {
		b.flights++
		go b.fly()
	}
	b.mu.Unlock()
	select {
	case <-w.done:
	case <-ctx.Done():
		w.mu.Lock()
		defer w.mu.Unlock()
		select {
		case <-w.done: // it made it after all
		default:
			w.abandoned = true
			var none Out
			return none, ctx.Err()
		}
	}
	return w.out, w.err
}

func (b *batcher[In, Out]) alone(ctx context.Context, in In) (out Out, err error) {
	batch := []In{in}
	res, err := b.do(ctx, batch)
	if b.clearIn != nil {
		b.clearIn(&batch[0])
	}
	var items *BatchError
	switch {
	case errors.As(err, &items) && items.Items[0] != nil:
		err = items.Items[0]
	case err == nil && len(res) != 1:
		err = fmt.Errorf("%w: it answered %d of 1 items", ErrUnavailable, len(res))
	case err == nil:
		out = res[0]
	}
	if b.clearOut != nil && len(res) == 1 {
		b.clearOut(&res[0])
	}
	return out, err
}

func (b *batcher[In, Out]) fly() {
	for {
		b.mu.Lock()
		n := min(len(b.queue), maxBatch)
		if n == 0 {
			b.flights--
			b.mu.Unlock()
			return
		}
		batch := b.queue[:n:n]
		if b.queue = b.queue[n:]; len(b.queue) == 0 {
			b.queue = nil
		}
		b.mu.Unlock()
		b.carry(batch)
	}
}

func (b *batcher[In, Out]) carry(batch []*waiting[In, Out]) {
	// The batch belongs to all its callers: no single one's context may end it.
	ctx, cancel := context.WithTimeout(context.Background(), b.timeout)
	defer cancel()
	in := make([]In, len(batch))
	for i, w := range batch {
		in[i] = w.in
	}
	out, err := b.do(ctx, in)
	var items *BatchError
	switch {
	case errors.As(err, &items):
	case err == nil && len(out) != len(batch):
		err = fmt.Errorf("%w: it answered %d of %d items", ErrUnavailable, len(out), len(batch))
	case errors.Is(err, context.DeadlineExceeded):
		err = fmt.Errorf("%w: no answer in %v", ErrUnavailable, b.timeout)
	}
	for i, w := range batch {
		w.mu.Lock()
		switch {
		case items != nil && items.Items[i] != nil:
			w.err = items.Items[i]
		case items != nil && len(out) == len(batch):
			w.out = out[i]
		case err != nil:
			w.err = err
		default:
			w.out = out[i]
		}
		if b.clearIn != nil {
			b.clearIn(&w.in)
			b.clearIn(&in[i])
		}
		if b.clearOut != nil && i < len(out) {
			b.clearOut(&out[i])
			if w.abandoned {
				b.clearOut(&w.out)
			}
		}
		close(w.done)
		w.mu.Unlock()
	}
}
