package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/mirror"
	"github.com/regard-broker/regard/ledger/tiles"
)

// copied is what a Sync did, as it is shown.
type copied struct {
	Log     string           `json:"log"`
	Dir     string           `json:"dir"`
	Size    uint64           `json:"size"`
	Added   uint64           `json:"added"`
	Audits  int              `json:"audits_added"`
	Behind  bool             `json:"log_is_behind"`
	Missing []mirror.Missing `json:"missing"`
	Problem string           `json:"problem,omitempty"`
}

func mirrorCommand() *cobra.Command {
	var look logFlags
	var cfg mirror.Config
	var auditors []string
	var serve string
	var follow, asJSON bool
	var every time.Duration
	c := &cobra.Command{
		Use: "mirror URL|DIR DIR", Short: "Keep a full, verified copy of a log, and serve it", Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%s needs the address of a log and a directory (see %s --help)", c.Name(), c.CommandPath())
			}
			return nil
		},
		Long: `mirror copies a log: tiles, entries, indexes, what governance refers to, statements of auditors, and the checkpoint last. Everything is verified before it is kept. It goes on where it was cut
off, mends what was damaged, and never replaces what it has by something that contradicts it: if the log shows another history, both signed checkpoints are kept in DIR/evidence and nothing else of it.

--follow keeps the copy up to date until Ctrl-C. --serve answers as the log does; any static file server may serve the directory as well. A broker that names the mirror under mirrors asks it where the log stands before
it signs anything.

Exit codes: 0 the copy is whole, 1 the log forked, serves something else than it signed, or lacks what it refers to, 2 it could not be read.`,
		Example: `  regard-audit mirror https://log.regard.example.fr /srv/mirror --policy log.policy
  regard-audit mirror https://log.regard.example.fr /srv/mirror --policy log.policy --follow --serve :8080`,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if cfg.Policy, err = look.readPolicy(c); err != nil {
				return err
			}
			if cfg.Source, err = look.source(args[0]); err != nil {
				return err
			}
			if every <= 0 {
				return errors.New("--every must be positive")
			}
			cfg.Dir = args[1]
			for _, name := range auditors {
				k, err := readKey(c, name)
				if err != nil {
					return err
				}
				cfg.AuditorKeys = append(cfg.AuditorKeys, k)
			}
			ctx, stop := interruptible(c)
			defer stop()
			var end func()
			cfg.Progress, end = progress(c.ErrOrStderr())
			m, err := mirror.Open(ctx, cfg)
			if err != nil {
				return err
			}
			defer m.Close()
			var served <-chan error
			if serve != "" {
				if served, err = serveDir(ctx, serve, cfg.Dir); err != nil {
					return err
				}
			}
			said := map[string]bool{}
			for {
				r, err := m.Sync(ctx)
				end()
				if ctx.Err() != nil {
					return nil // Ctrl-C: whatever is there is whole
				}
				said = show(c, asJSON, follow, args[0], cfg.Dir, r, err, said)
				forked := errors.Is(err, mirror.ErrFork)
				if !forked && follow {
					select {
					case <-ctx.Done():
						return nil
					case err := <-served:
						return err
					case <-time.After(every):
						continue
					}
				}
				if served != nil { // a fork doesn't end what others rely on
					if err := <-served; err != nil {
						return err
					}
				}
				switch {
				case forked, refutes(err), err == nil && len(r.Missing) > 0:
					return errRefused
				case err != nil:
					return errSaid
				}
				return nil
			}
		},
	}
	look.keys(c, "")
	look.patience(c)
	f := c.Flags()
	f.StringSliceVar(&auditors, "auditor-key", nil, "verification keys of auditors, or files with them")
	f.IntVar(&cfg.Workers, "workers", 8, "files read at the same time")
	f.BoolVar(&follow, "follow", false, "keep the copy up to date until Ctrl-C")
	f.DurationVar(&every, "every", 10*time.Second, "between two looks at the log, with --follow")
	f.StringVar(&serve, "serve", "", "address to serve the copy at over HTTP, until Ctrl-C")
	f.BoolVar(&asJSON, "json", false, "write JSON, a line a look")
	return c
}

// show says what a look brought, one that follows others only if it brought something; and what is wrong with the log only if the look before didn't say so, and returns that.
func show(c *cobra.Command, asJSON, follow bool, log, dir string, r mirror.Result, err error, said map[string]bool) map[string]bool {
	out := copied{Log: log, Dir: dir, Size: r.Size, Added: r.Size - r.Before, Audits: r.Audits, Behind: r.Behind, Missing: append([]mirror.Missing{}, r.Missing...)}
	if err != nil {
		out.Problem = err.Error()
	}
	if asJSON {
		_ = json.NewEncoder(c.OutOrStdout()).Encode(out) // a closed pipe must not end a mirror
		return nil
	}
	now := time.Now().UTC().Format(time.RFC3339)
	if err == nil && (out.Added > 0 || out.Audits > 0 || !follow) {
		fmt.Fprintf(c.OutOrStdout(), "%s %s: %d entries, %d of them new, %d new statements of auditors\n", now, dir, out.Size, out.Added, out.Audits)
	}
	var wrong []string
	if err != nil {
		wrong = append(wrong, out.Problem)
	}
	if out.Behind {
		wrong = append(wrong, "it serves an older tree than the mirror has, of the same history")
	}
	for _, x := range out.Missing {
		wrong = append(wrong, fmt.Sprintf("it doesn't serve %s as it should: %s", x.Name, x.Why))
	}
	saying := map[string]bool{}
	for _, text := range wrong {
		if saying[text] = true; !said[text] {
			fmt.Fprintf(c.ErrOrStderr(), "%s %s: %s\n", now, log, text)
		}
	}
	return saying
}

// serveDir serves a directory until ctx ends. What it returns gets an error if it can't any more, or is closed at the end.
func serveDir(ctx context.Context, addr, dir string) (<-chan error, error) {
	return serveHTTP(ctx, addr, tiles.Handler(dir))
}

func serveHTTP(ctx context.Context, addr string, h http.Handler) (<-chan error, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 2 * time.Minute, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	out := make(chan error, 1)
	go func() {
		defer close(out)
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			out <- err
			return
		}
		<-ctx.Done()
	}()
	context.AfterFunc(ctx, func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
	})
	return out, nil
}
