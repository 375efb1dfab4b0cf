package store

import (
	"context"
	"runtime"

	"github.com/regard-broker/regard/keys"
)

// A look for the keys of somebody. Every request whose person is known begins with one: on PostgreSQL, all that wait while the server answers are one question.
type look struct {
	owner keys.Owner
	found []keys.StoredKey
	err   error
	done  chan struct{}
}

// lookers is how many questions are under way at once; maxLooks bounds what one asks for.
const (
	lookers  = 2
	maxLooks = 256
)

const keysOfOwners = selectKey + " WHERE owner = ANY (?) AND kind = '" + string(keys.KindSubject) + "' ORDER BY id"

func (s *Store) startLooking() {
	s.looks = make(chan *look, maxLooks)
	for range lookers {
		s.looking.Go(func() {
			for l := range s.looks {
				s.look(l)
			}
		})
	}
}

// look answers one, and all that wait with it.
func (s *Store) look(l *look) {
	runtime.Gosched() // whoever can run now may ask, too
	all := map[keys.Owner][]*look{l.owner: {l}}
	owners := [][]byte{l.owner[:]}
more:
	for len(owners) < maxLooks {
		select {
		case l, ok := <-s.looks:
			if !ok {
				break more
			}
			if all[l.owner] == nil {
				owners = append(owners, l.owner[:])
			}
			all[l.owner] = append(all[l.owner], l)
		default:
			break more
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	found, err := s.listKeys(ctx, keysOfOwners, owners)
	for _, k := range found {
		for _, l := range all[k.Owner] {
			l.found = append(l.found, k)
		}
	}
	for _, ls := range all {
		for _, l := range ls {
			l.err = unavailable(err)
			close(l.done)
		}
	}
}

func (s *Store) keysOf(ctx context.Context, owner keys.Owner) ([]keys.StoredKey, error) {
	l := &look{owner: owner, done: make(chan struct{})}
	s.mu.RLock()
	if s.closed.Load() {
		s.mu.RUnlock()
		return nil, ErrClosed
	}
	select {
	case s.looks <- l:
		s.mu.RUnlock()
	case <-ctx.Done():
		s.mu.RUnlock()
		return nil, ctx.Err()
	}
	select {
	case <-l.done:
		return l.found, l.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
