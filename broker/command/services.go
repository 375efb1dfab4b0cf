package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/regard-broker/regard/broker"
)

// owedEvery is how often a definition that the log didn't take is tried again.
const owedEvery = time.Second

// definition is a file of services.dir.
type definition struct {
	file string
	yaml []byte
}

// owed are definitions that the log didn't take when the broker started.
type owed struct {
	cancel context.CancelFunc // nil: there are none
	work   sync.WaitGroup
}

// leave has the attempts end.
func (o *owed) leave() {
	if o.cancel != nil {
		o.cancel()
	}
}

// loadServices puts the definitions of services.dir in force. What only the log doesn't take at the moment is tried again until it does: meanwhile the definitions before stay in force, and the operator's commands are there to help.
func (i *Instance) loadServices(ctx context.Context) error {
	if i.cfg.Services.Dir == "" {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(i.cfg.Services.Dir, "*.y*ml"))
	if err != nil {
		return fmt.Errorf("listing services.dir: %w", err)
	}
	slices.Sort(files)
	var later []definition
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("reading a service definition: %w", err)
		}
		d := definition{f, b}
		if again, err := i.putService(ctx, d); again {
			i.log.Error("a service definition isn't in force yet, the one before stays; it is tried again", "file", f, "error", err)
			later = append(later, d)
		} else if err != nil {
			return err
		}
	}
	if later == nil {
		return nil
	}
	ctx, i.owed.cancel = context.WithCancel(context.WithoutCancel(ctx))
	i.owed.work.Go(func() { i.retryServices(ctx, later) })
	return nil
}

// putService puts a definition in force; again: the log can't take it at the moment.
func (i *Instance) putService(ctx context.Context, d definition) (again bool, err error) {
	if _, err = i.Broker.PutService(ctx, d.yaml); err == nil {
		return false, nil
	}
	p := broker.AsProblem(err)
	return p.Code == "log.unavailable", fmt.Errorf("loading %s: %s %s: %w", d.file, p.Title, p.Detail, err)
}

// retryServices tries until each definition is in force or refused, or ctx ends.
func (i *Instance) retryServices(ctx context.Context, later []definition) {
	t := time.NewTicker(owedEvery)
	defer t.Stop()
	for len(later) > 0 {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		later = slices.DeleteFunc(later, func(d definition) bool {
			again, err := i.putService(ctx, d)
			switch {
			case again || ctx.Err() != nil:
				return false
			case err != nil:
				i.log.Error("a service definition isn't put in force", "file", d.file, "error", err)
			default:
				i.log.Info("a service definition is in force that the log didn't take at the start", "file", d.file)
			}
			return true
		})
	}
}
