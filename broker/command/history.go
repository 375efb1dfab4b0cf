package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/admin"
)

// person is the flag with which commands take a subject.
type person struct{ file string }

func (p *person) flag(c *cobra.Command) {
	c.Flags().StringVarP(&p.file, "file", "f", "", `the subject (JSON, as in a request's "subject"), - for standard input`)
}

func (p *person) read(c *cobra.Command) (admin.Subject, error) {
	b, err := p.bytes(c)
	if err != nil {
		return admin.Subject{}, err
	}
	s, err := admin.ParseSubject(b)
	if err != nil {
		return s, usagef("%s: %s", p.file, explainProblem(err))
	}
	return s, nil
}

// readAll takes one subject or a list.
func (p *person) readAll(c *cobra.Command) ([]admin.Subject, error) {
	b, err := p.bytes(c)
	if err != nil {
		return nil, err
	}
	s, err := admin.ParseSubjects(b)
	if err != nil {
		return nil, usagef("%s: %s", p.file, explainProblem(err))
	}
	return s, nil
}

func (p *person) bytes(c *cobra.Command) ([]byte, error) {
	if p.file == "" {
		return nil, usagef("--file is missing: the subject, or - for standard input; it is never an argument, for other users of the machine could read it")
	}
	return readInput(c, p.file, 64<<10)
}

const subjectExample = `{"type": "pivot", "birth_name": "Martin", "given_names": ["Camille"], "birth_date": "1990-01-31", "sex": "F", "birth_place": "75056", "birth_country": "99100"}`

func historyCommand() *cobra.Command {
	var who person
	var q admin.HistoryQuery
	var c *cobra.Command
	c = administer(&cobra.Command{
		Use: "history", Short: "Show a person's entries, and log that you did", Args: noArgs,
		Long: `history shows what the log holds under one identifier of a person, newest first: for the help desk, until the person can look alone. It opens what the
person may see, but for context and object. Before anything is opened, every record of the page gets an entry of its own in the log: who read it (your user id), which
fields, why. The person sees these entries, and they are part of the next history.

Entries under another identifier of the same person (pivot, person, nir, …) are a history of their own; type person has birth_name, given_names, birth_date and sex.

"Details lost": the store was restored from an older backup, and what the named entries were about is gone.
State "erased": an erasure made it unreadable. "retired": its retention has ended. "damaged": it can't be read and nothing in the log says why; that is an alarm, and exit code 1 (not with --json).
The subject is ` + subjectExample + `, or {"type": "nir", "value": "…"}.`,
		Example: `  regard history -f subject.json --reason 'call 2026-0042 of the person'
  regard history -f - --reason 'call 2026-0042 of the person' --kind disclosure --limit 20 < subject.json
  regard history -f subject.json --reason 'call 2026-0042 of the person' --before 8391 --json`,
	}, func(ctx context.Context, cl *admin.Client, _ []string) (admin.History, error) {
		if strings.TrimSpace(q.Reason) == "" {
			return admin.History{}, usagef("--reason is missing: it stands in the log, and the person sees it")
		}
		if q.Limit < 1 || q.Limit > 200 {
			return admin.History{}, usagef("--limit is not between 1 and 200")
		}
		var err error
		if q.Subject, err = who.read(c); err != nil {
			return admin.History{}, err
		}
		return cl.History(ctx, q)
	}, showHistory)
	who.flag(c)
	c.Flags().StringVar(&q.Reason, "reason", "", "why you look, on one line and without names: it stays readable after an erasure")
	c.Flags().IntVar(&q.Limit, "limit", 50, "entries, at most 200; each record that is opened costs an entry")
	c.Flags().Uint64Var(&q.Before, "before", 0, "entries below this log index (default: the newest)")
	c.Flags().StringVar(&q.Kind, "kind", "", "disclosure, access, erasure or opened (default: all)")
	c.AddCommand(historyExportCommand())
	return c
}

// historyExportCommand writes a file that the person checks with regard-audit verify-history.
func historyExportCommand() *cobra.Command {
	var who person
	var q admin.HistoryFileQuery
	var out string
	var to uint64
	var c *cobra.Command
	c = administer(&cobra.Command{
		Use: "export", Short: "Write a person's complete history for them, and log that you did", Args: noArgs,
		Long: `export writes all that the log holds under some identifiers of a person in closed epochs, with the proofs, to a file that is theirs: anybody who has the log's key
checks it with regard-audit verify-history, offline. Before anything is opened, every record gets an entry in the log: who read it (your user id), which fields, why. The person
sees these entries in the next history. Context and object stay closed: the person gets them when they fetch their history themself.

--file holds one subject, or a list of subjects in brackets: whoever these identifiers belong to gets everything that is filed under them, so make sure that they are all this
person's. The file is written for you alone to read (mode 0600) and never over another.`,
		Example: `  regard history export -f subjects.json --reason 'at the desk, 2026-0042' --out camille.regard.json
  regard history export -f subject.json --reason 'at the desk, 2026-0042' --from-epoch 365 --to-epoch 730 --out camille-2027.regard.json`,
	}, func(ctx context.Context, cl *admin.Client, _ []string) (admin.HistoryFile, error) {
		if strings.TrimSpace(q.Reason) == "" {
			return admin.HistoryFile{}, usagef("--reason is missing: it stands in the log, and the person sees it")
		}
		if out == "" {
			return admin.HistoryFile{}, usagef("--out is missing: the file to write")
		}
		if c.Flags().Changed("to-epoch") {
			q.To = &to
		}
		var err error
		if q.Subjects, err = who.readAll(c); err != nil {
			return admin.HistoryFile{}, err
		}
		// Before anything is opened and logged.
		f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return admin.HistoryFile{}, usage{err}
		}
		h, err := cl.HistoryFile(ctx, q)
		if err == nil {
			_, err = f.Write(h.File)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return h, errors.Join(err, os.Remove(out))
		}
		h.File = nil
		return h, nil
	}, func(c *cobra.Command, h admin.HistoryFile) error {
		fmt.Fprintf(c.ErrOrStderr(), "%s opened, and the log says so: by %s.\n", many(h.Logged, "record was", "records were"), h.Reader)
		_, err := fmt.Fprintf(c.OutOrStdout(), "%s: %s. Check it: regard-audit verify-history --log-key … %s\n", out, many(h.Entries, "entry", "entries"), out)
		return err
	})
	who.flag(c)
	f := c.Flags()
	f.StringVar(&q.Reason, "reason", "", "why you look, on one line and without names: it stays readable after an erasure")
	f.StringVar(&out, "out", "", "file to write, like camille.regard.json")
	f.Uint64Var(&q.From, "from-epoch", 0, "first epoch")
	f.Uint64Var(&to, "to-epoch", 0, "last epoch (default: the newest that is closed)")
	return c
}

// explainProblem is a problem's text for people.
func explainProblem(err error) string {
	var p *broker.Problem
	if !errors.As(err, &p) {
		return err.Error()
	}
	e := admin.Error{Title: p.Title, Detail: p.Detail, Parameter: p.Parameter}
	return e.Error()
}

func showHistory(c *cobra.Command, h admin.History) error {
	w := c.OutOrStdout()
	for _, l := range h.Lost {
		fmt.Fprintf(c.ErrOrStderr(), "Details lost: the store was restored from a backup. Entries %d to %d are in the log; whether some are about this person can't be told any more.\n", l.First, l.Last)
	}
	if len(h.Entries) == 0 {
		_, err := fmt.Fprintln(w, "There is no entry under this identifier.")
		return err
	}
	damaged := 0
	rows := make([][]string, len(h.Entries))
	for i, e := range h.Entries {
		rows[i] = historyRow(&e)
		if e.State == "damaged" {
			damaged++
		}
	}
	var text bytes.Buffer
	if err := table(&text, "INDEX TIME ENTRY BY ROLE PROVIDER SERVICE PURPOSE LEGAL-BASIS OUTCOME FIELDS-OR-REASON", rows); err != nil {
		return err
	}
	for i, line := range strings.SplitAfter(text.String(), "\n") {
		if i > 0 && i <= len(h.Entries) && h.Entries[i-1].State == "damaged" && colourful(w) {
			line = "\x1b[31m" + strings.TrimSuffix(line, "\n") + "\x1b[0m\n"
		}
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	e := c.ErrOrStderr()
	if h.Next > 0 {
		fmt.Fprintf(e, "There are more: --before %d\n", h.Next)
	}
	if h.Logged > 0 {
		fmt.Fprintf(e, "%s opened, and the log says so: by %s.\n", many(h.Logged, "record was", "records were"), h.Reader)
	}
	if damaged > 0 {
		return fmt.Errorf("%d of these entries can't be read, and the log doesn't say why: compare the data directory with a backup", damaged)
	}
	return nil
}

func historyRow(e *admin.HistoryEntry) []string {
	kind := e.Kind
	if kind == "" {
		kind = "?"
	}
	row := []string{strconv.FormatUint(e.Index, 10), "-", kind, "-", "-", "-", "-", "-", "-", e.State, "-"}
	when := func(t time.Time) { row[1] = t.UTC().Format("2006-01-02T15:04:05Z") }
	switch {
	case e.Disclosure != nil:
		d := e.Disclosure
		when(d.AskedAt)
		row[3], row[4], row[5], row[6], row[7], row[8], row[9] = d.Agency, d.Role, d.Provider, d.Service, d.Purpose, d.LegalBasis, d.Outcome
		if d.Cause != "" {
			row[9] += " (" + d.Cause + ")"
		}
		if len(d.Released) > 0 {
			row[10] = strings.Join(d.Released, ",")
		}
	case e.Access != nil:
		a := e.Access
		when(a.At)
		row[3], row[4], row[9], row[10] = a.Reader, a.Role, "read "+strconv.FormatUint(a.Target, 10), a.Reason
	case e.Erasure != nil:
		x := e.Erasure
		when(x.ErasedAt)
		row[9], row[10] = "erased up to "+strconv.FormatUint(x.Reach, 10), x.Ground
	}
	if d := e.Delay; d != nil {
		at := d.Month
		if !d.OpenedAt.IsZero() {
			at = d.OpenedAt.UTC().Format("2006-01-02T15:04:05Z")
		}
		row[9] += fmt.Sprintf(" (delayed until %s, %s, by %s)", at, d.Article, d.Authority)
	}
	return row
}

// colourful says whether w is a terminal whose user wants colours (https://no-color.org).
func colourful(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
