package reader

import (
	"context"
	"iter"
)

// Stream gives results in order until the first error, which is its last.
type Stream[T any] = iter.Seq2[T, error]

// Ordered calls fetch for each number from first up to but not including last, workers at the same time and no further ahead of the consumer than that, and gives the results in order. It ends with
// the first error. When the consumer stops, so do the calls.
func Ordered[T any](ctx context.Context, first, last uint64, workers int, fetch func(context.Context, uint64) (T, error)) Stream[T] {
	type result struct {
		value T
		err   error
	}
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		queue := make(chan chan result, max(1, workers)-1)
		go func() {
			defer close(queue)
			for n := first; n < last; n++ {
				out := make(chan result, 1)
				select {
				case queue <- out:
				case <-ctx.Done():
					return
				}
				go func() {
					v, err := fetch(ctx, n)
					out <- result{v, err}
				}()
			}
		}()
		for out := range queue {
			r := <-out
			if !yield(r.value, r.err) || r.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			var none T
			yield(none, err)
		}
	}
}
