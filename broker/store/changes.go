package store

import (
	"context"
	"errors"
)

// Changes say how often something changed that processes keep in memory: in one whose numbers are these, nothing is older than that. All are 0 on SQLite, whose only process changes it itself.
type Changes struct {
	// Registry is of who may ask for what: the registry, and the policy bundle in force.
	Registry int64
	// Keys is of which keys there are: some were destroyed (but for those of answers, whose end is in their period), or came into force.
	Keys int64
	// Barrier is of those that wait until all has ended that processes had begun, see package cluster.
	Barrier int64
}

// ErrStale: who may ask for what has changed since Intent.Registry. Nothing was written: take up the change, decide anew, and begin again.
var ErrStale = errors.New("store: who may ask for what has changed")

// What is counted.
const (
	changedRegistry = "registry"
	changedKeys     = "keys"
)

// Changes reads the numbers. What is read afterwards is at least as new.
func (s *Store) Changes(ctx context.Context) (c Changes, err error) {
	if !s.pg {
		return c, nil
	}
	err = s.each(ctx, "SELECT what, number FROM changes", func(scan func(...any) error) error {
		var what string
		var number int64
		err := scan(&what, &number)
		switch what {
		case changedRegistry:
			c.Registry = number
		case changedKeys:
			c.Keys = number
		case "barrier":
			c.Barrier = number
		}
		return err
	})
	return c, err
}

// changed counts a change with the transaction that makes it, and tells the other processes when that is durable.
func (t *tx) changed(what string) {
	if t.pg == nil {
		return
	}
	if t.pg.changes == nil {
		t.pg.changes = map[string]bool{}
	}
	t.pg.changes[what] = true
}
