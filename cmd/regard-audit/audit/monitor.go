package audit

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/monitor"
)

// maxPlaces of one log.
const maxPlaces = 32

func monitorCommand() *cobra.Command {
	var look logFlags
	var cfg monitor.Config
	var receipts, acks []string
	var listen, webhook, secret string
	var once, asJSON bool
	var every time.Duration
	c := &cobra.Command{
		Use: "monitor URL|DIR…", Short: "Follow a log at several places, and raise alarms", Args: logPlaces(maxPlaces),
		Long: `monitor follows a log: itself and any mirrors of it, all of which must show one history. It checks every entry, marker and index as it comes, the quorum of witnesses, times, and that epochs end when they
are due; and it keeps what it knows in --state, so that it goes on after a crash.

An alarm has a code, a severity, a place and what to do about it. It is said when it is raised and when it is cleared, on the standard output and to --webhook. Alarms about something that happened (a fork, an entry that breaks
the rules) stand until --acknowledge. The two checkpoints of a fork are kept in the directory evidence of --state.

--receipt takes receipts, answers of the API or signed checkpoints that somebody else was given, and proves them to be of the same history.

--webhook gets each event as JSON by POST. The header Regard-Signature is "sha256=" and the hex HMAC-SHA256, under the secret, of the header Regard-Timestamp, a dot, and the body.

Exit codes with --once: 0 no alarm, 1 alarms, 2 the log could not be followed.`,
		Example: `  regard-audit monitor https://log.regard.example.fr https://mirror.example.org/regard --policy log.policy --state /var/lib/regard-monitor --listen localhost:9100
  regard-audit monitor https://log.regard.example.fr --policy log.policy --state /var/lib/regard-monitor --once --receipt answer.receipt
  regard-audit monitor https://log.regard.example.fr --policy log.policy --state /var/lib/regard-monitor --acknowledge 'restart.seen@entry 4711' --once`,
		RunE: func(c *cobra.Command, args []string) (err error) {
			if cfg.Dir == "" {
				return errors.New("give --state: the directory in which the monitor keeps what it knows")
			}
			switch {
			case every <= 0:
				return errors.New("--every must be positive")
			case once && listen != "":
				return errors.New("--listen is for a monitor that keeps running, not for --once")
			}
			if cfg.Policy, err = look.readPolicy(c); err != nil {
				return err
			}
			for _, place := range args {
				s, err := look.source(place)
				if err != nil {
					return err
				}
				cfg.Sources = append(cfg.Sources, s)
			}
			if (webhook == "") != (secret == "") {
				return errors.New("--webhook and --webhook-secret go together")
			}
			if webhook != "" {
				b, err := read(c, secret)
				if err != nil {
					return err
				}
				cfg.Webhook = &monitor.Webhook{URL: webhook, Secret: bytes.TrimRight(b, "\r\n")}
			}
			heard, err := checkpointsOf(c, receipts)
			if err != nil {
				return err
			}
			if !once { // which says itself what went wrong
				cfg.Logger = slog.New(slog.NewTextHandler(c.ErrOrStderr(), nil))
			}
			m, err := monitor.Open(cfg)
			if len(acks) > 0 && errors.Is(err, monitor.ErrLocked) {
				if err := monitor.Acknowledge(cfg.Dir, acks...); err != nil {
					return err
				}
				fmt.Fprintln(c.OutOrStdout(), "A monitor is running; it takes this up at its next look.")
				return nil
			}
			if err != nil {
				return err
			}
			defer m.Close()
			if err := acknowledge(m, cfg.Dir, acks); err != nil {
				return err
			}
			for name, note := range heard {
				if err := m.Hear(note); err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			ctx, stop := interruptible(c)
			defer stop()
			if once {
				return lookOnce(ctx, c, m, asJSON)
			}
			return keepLooking(ctx, c, m, every, listen, asJSON)
		},
	}
	look.keys(c, "")
	look.patience(c)
	f := c.Flags()
	f.StringVar(&cfg.Dir, "state", "", "directory for what the monitor knows, and for evidence")
	f.BoolVar(&once, "once", false, "look once and end, for cron")
	f.DurationVar(&every, "every", time.Minute, "between two looks")
	f.StringVar(&listen, "listen", "", "address for /metrics, /healthz and /status")
	f.StringVar(&webhook, "webhook", "", "address that gets each event by POST")
	f.StringVar(&secret, "webhook-secret", "", "file with the secret that signs them, 32 bytes or more")
	f.StringSliceVar(&receipts, "receipt", nil, "receipts, answers or signed checkpoints that somebody was given")
	f.StringArrayVar(&acks, "acknowledge", nil, "an alarm that somebody has seen, as code@place")
	f.DurationVar(&cfg.Tolerance, "tolerance", 5*time.Minute, "that clocks may differ")
	f.DurationVar(&cfg.Late, "late", 10*time.Minute, "that an epoch's end, or the publication of what was shown, may be late")
	f.DurationVar(&cfg.Quorum, "quorum-after", 10*time.Minute, "that a published tree may lack the quorum")
	f.DurationVar(&cfg.Silent, "silent-after", time.Hour, "that a witness may not be seen")
	f.DurationVar(&cfg.Away, "away-after", 10*time.Minute, "that a place may be unreachable")
	f.IntVar(&cfg.Workers, "workers", 4, "files read at the same time")
	f.BoolVar(&asJSON, "json", false, "write JSON: with --once what the look showed, otherwise a line an event")
	return c
}

// acknowledge takes up what somebody has seen. A name that no alarm has is a mistake, and would leave the alarm as it is.
func acknowledge(m *monitor.Monitor, dir string, keys []string) error {
	for _, key := range keys {
		if !slices.ContainsFunc(m.Status().Alarms, func(a monitor.Alarm) bool { return a.Key() == key }) {
			return fmt.Errorf("no alarm %q is raised: give it as it was said, code@place", key)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	return monitor.Acknowledge(dir, keys...)
}

// checkpointsOf reads signed checkpoints out of receipts, answers, or files that are checkpoints.
func checkpointsOf(c *cobra.Command, names []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range names {
		r, err := readReceipt(c, name)
		if err == nil {
			out[name] = r.Checkpoint()
			continue
		}
		if name == "-" {
			return nil, err // it can't be read twice
		}
		b, readErr := read(c, name)
		if readErr != nil {
			return nil, readErr
		}
		if !bytes.Contains(b, []byte("\n\n— ")) || bytes.HasPrefix(b, []byte("regard/")) {
			return nil, err
		}
		out[name] = b
	}
	return out, nil
}

func lookOnce(ctx context.Context, c *cobra.Command, m *monitor.Monitor, asJSON bool) error {
	st, err := m.Look(ctx)
	if asJSON {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		if err := e.Encode(st); err != nil {
			return err
		}
	} else {
		printStatus(c.OutOrStdout(), st, err == nil)
	}
	if sent := m.Deliver(ctx); sent != nil {
		fmt.Fprintf(c.ErrOrStderr(), "regard-audit: %v\n", sent)
	}
	if err != nil {
		err = fmt.Errorf("the log could not be followed: %w", err)
	}
	if st.Active() > 0 {
		if err != nil {
			fmt.Fprintf(c.ErrOrStderr(), "regard-audit: %v\n", err)
		}
		return errRefused
	}
	return err
}

func keepLooking(ctx context.Context, c *cobra.Command, m *monitor.Monitor, every time.Duration, listen string, asJSON bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var served <-chan error
	if listen != "" {
		var err error
		if served, err = serveHTTP(ctx, listen, monitorHandler(m, every)); err != nil {
			return err
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx, every, func(st monitor.Status, _ error) { // errors are in the log
			for _, e := range st.Events {
				if asJSON {
					_ = json.NewEncoder(c.OutOrStdout()).Encode(e) // a closed pipe must not end a monitor
				} else {
					printEvent(c.OutOrStdout(), e)
				}
			}
		})
	}()
	select {
	case <-done:
	case err, failed := <-served:
		cancel()
		<-done
		if failed {
			return err
		}
	}
	return nil
}

// monitorHandler serves what a monitor knows: metrics, whether it sees the log, and its last status.
func monitorHandler(m *monitor.Monitor, every time.Duration) http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.Collector())
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if last := m.Status().At; time.Since(last) > 3*every+time.Minute {
			http.Error(w, "no look was finished since "+last.Format(time.RFC3339), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(m.Status()) // the client is gone then
	})
	return mux
}

func printEvent(w io.Writer, e monitor.Event) {
	fmt.Fprintf(w, "%s %s %s %s: %s\n", e.At.Format(time.RFC3339), strings.ToUpper(e.Event), e.Severity, e.Key(), e.What)
	if e.Event == "raised" {
		fmt.Fprintf(w, "  what to do: %s\n", e.Do)
	}
}

// printStatus writes what a look showed; one in which nothing could be followed says nothing of the log, least of all that it is quiet.
func printStatus(w io.Writer, st monitor.Status, followed bool) {
	verdict := "QUIET"
	switch n := st.Active(); {
	case n > 0:
		verdict = fmt.Sprintf("ALARMS: %d", n)
	case !followed:
		verdict = "NOT FOLLOWED"
	}
	fmt.Fprintf(w, "%s: %s\n", cmp.Or(st.Origin, "the log"), verdict)
	if st.Size == 0 {
		fmt.Fprintln(w, "  nothing of it could be followed yet")
	} else {
		fmt.Fprintf(w, "  %d entries followed, root %s, epoch %d is open\n", st.Size, st.Root, st.Epoch)
		if !st.Witnessed {
			fmt.Fprintln(w, "  without a quorum of witnesses: others may be shown another history")
		}
	}
	for _, p := range st.Places {
		if p.Problem != "" {
			fmt.Fprintf(w, "  %s: %s\n", p.Place, p.Problem)
			continue
		}
		fmt.Fprintf(w, "  %s: %d entries\n", p.Place, p.Size)
	}
	for _, a := range st.Alarms {
		seen := ""
		if a.Acknowledged {
			seen = ", acknowledged"
		}
		fmt.Fprintf(w, "%s %s, since %s%s\n  %s\n  what to do: %s\n", strings.ToUpper(string(a.Severity)), a.Key(), a.Raised.Format(time.RFC3339), seen, a.What, a.Do)
	}
}
