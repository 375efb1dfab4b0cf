package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
)

// openedEntry is one entry as POST /v1/audit/openings and /v1/audit/erased answer it, and as open writes it.
type openedEntry struct {
	Index        uint64 `json:"index"`
	Kind         string `json:"kind"`
	State        string `json:"state"`
	Code         string `json:"code,omitempty"`
	Access       uint64 `json:"access,omitempty"`
	Opened       uint64 `json:"opened,omitempty"` // of a deferred@v1 entry whose delay is over: where its record is
	Audit        uint64 `json:"audit,omitempty"`  // of the answer that it came with
	ReceiptState string `json:"receipt_state,omitempty"`
	Receipt      string `json:"receipt,omitempty"`
}

// stateOpen is that of an entry with a receipt; the others are those of docs/api.md.
const stateOpen = "open"

// answer of the broker: a page.
type answer struct {
	Audit   uint64        `json:"audit"`
	Next    uint64        `json:"next"`
	Entries []openedEntry `json:"entries"`
}

// openFlags say which records are opened, and why.
type openFlags struct {
	brokerFlags
	indexes    []string
	from, to   int64
	disclosure string
	erased     string
	reason     string
}

func (f *openFlags) flags(c *cobra.Command) {
	f.brokerFlags.flags(c)
	s := c.Flags()
	s.StringSliceVar(&f.indexes, "index", nil, "log indexes of entries")
	s.Int64Var(&f.from, "from", -1, "or: all records from this log index …")
	s.Int64Var(&f.to, "to", -1, "… to this one, both included")
	s.StringVar(&f.disclosure, "disclosure", "", "or: all entries of a disclosure, by its id")
	s.StringVar(&f.erased, "erased-epochs", "", "or: what is left of erased records of closed epochs, e.g. 810-812; audit@v1 says so in the log")
	s.StringVar(&f.reason, "reason", "", "why: each person reads it, so no names; with --erased-epochs a token that everybody reads")
}

func (f *openFlags) given() bool {
	return f.url != "" || f.reason != "" || len(f.indexes) > 0 || f.from >= 0 || f.to >= 0 || f.disclosure != "" || f.erased != ""
}

// maxAsked is how many entries the broker opens at once.
const maxAsked = 64

// maxAnswer bounds an answer of the broker's, in bytes: a page of receipts, each of up to a MiB, is in practice a few hundred kB.
const maxAnswer = 80 << 20

// fetch has the broker open the records, page by page, and hands on each entry.
func (f *openFlags) fetch(ctx context.Context, each func(openedEntry) error) error {
	forms := 0
	for _, there := range []bool{len(f.indexes) > 0, f.from >= 0 || f.to >= 0, f.disclosure != "", f.erased != ""} {
		if there {
			forms++
		}
	}
	switch {
	case forms != 1:
		return errors.New("which records? Give --index, or --from and --to, or --disclosure, or --erased-epochs")
	case f.reason == "":
		return errors.New("--reason is missing: it stands in the log, and the person reads it")
	case (f.from >= 0) != (f.to >= 0):
		return errors.New("--from and --to belong together")
	}
	b, err := f.open()
	if err != nil {
		return err
	}
	page := func(method, path string, body any) (a answer, err error) {
		var text []byte
		if body != nil {
			if text, err = json.Marshal(body); err != nil {
				return a, err
			}
		}
		err = b.call(ctx, method, path, "application/json", text, func(r io.Reader) error {
			return json.NewDecoder(io.LimitReader(r, maxAnswer)).Decode(&a)
		})
		if err != nil {
			return a, err
		}
		for _, e := range a.Entries {
			e.Audit = a.Audit
			if err := each(e); err != nil {
				return a, err
			}
		}
		return a, nil
	}
	const openings = "/v1/audit/openings"
	switch {
	case len(f.indexes) > 0:
		var all []uint64
		for _, s := range f.indexes {
			n, err := strconv.ParseUint(s, 10, 63)
			if err != nil {
				return fmt.Errorf("--index %q is no log index", s)
			}
			all = append(all, n)
		}
		for len(all) > 0 {
			n := min(len(all), maxAsked)
			if _, err := page(http.MethodPost, openings, map[string]any{"indexes": all[:n], "reason": f.reason}); err != nil {
				return err
			}
			all = all[n:]
		}
		return nil
	case f.disclosure != "":
		_, err := page(http.MethodPost, openings, map[string]any{"disclosure": f.disclosure, "reason": f.reason})
		return err
	case f.erased != "":
		first, last, ok := strings.Cut(f.erased, "-")
		if !ok {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 63)
		to, err2 := strconv.ParseUint(last, 10, 63)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("--erased-epochs %q is no range of epochs", f.erased)
		}
		a, err := page(http.MethodPost, "/v1/audit/erased", map[string]any{"from_epoch": from, "to_epoch": to, "reason": f.reason})
		if err != nil || a.Next == 0 {
			return err
		}
		return goOn(a.Next, func(next uint64) (answer, error) {
			return page(http.MethodGet, fmt.Sprintf("/v1/audit/erased/%d?from=%d", a.Audit, next), nil)
		})
	}
	return goOn(uint64(f.from), func(next uint64) (answer, error) { // #nosec G115 -- not negative
		return page(http.MethodPost, openings, map[string]any{"from": next, "to": f.to, "reason": f.reason})
	})
}

// goOn asks for page after page, of which each has to begin behind the one before: otherwise a broker could keep an auditor asking for ever.
func goOn(from uint64, page func(from uint64) (answer, error)) error {
	for {
		a, err := page(from)
		if err != nil || a.Next == 0 {
			return err
		}
		if a.Next <= from {
			return errors.New("the broker's pages don't go on")
		}
		from = a.Next
	}
}

// check demands files or something to open, and not both.
func (f *openFlags) check(c *cobra.Command, files []string) error {
	if len(files) > 0 == f.given() {
		return fmt.Errorf("%s needs files with opened records, or --broker and what to open (see %s --help)", c.Name(), c.CommandPath())
	}
	return nil
}

// records hands on the entries of files, or those that the broker opens if there are flags for that.
func (f *openFlags) records(c *cobra.Command, files []string, each func(openedEntry) error) error {
	if err := f.check(c, files); err != nil {
		return err
	}
	if len(files) == 0 {
		return f.fetch(c.Context(), each)
	}
	for _, name := range files {
		if err := readOpened(c, name, each); err != nil {
			return err
		}
	}
	return nil
}

// readOpened reads JSON lines as open writes them, or answers of the broker.
func readOpened(c *cobra.Command, name string, each func(openedEntry) error) error {
	src := c.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		src = f
	}
	limited := &perValue{r: src}
	d := json.NewDecoder(limited)
	for n := 1; ; n++ {
		limited.left = maxAnswer
		var v struct {
			openedEntry
			Entries *[]openedEntry `json:"entries"`
		}
		err := d.Decode(&v)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: value %d is no opened record: %w", name, n, err)
		}
		list := []openedEntry{v.openedEntry}
		if v.Entries != nil {
			list = *v.Entries
			for i := range list {
				list[i].Audit = v.Audit
			}
		} else if v.State == "" {
			return fmt.Errorf("%s: value %d is no opened record: it has no state", name, n)
		}
		for _, e := range list {
			if err := each(e); err != nil {
				return err
			}
		}
	}
}

// perValue bounds what one JSON value may make a decoder read.
type perValue struct {
	r    io.Reader
	left int
}

func (p *perValue) Read(b []byte) (int, error) {
	if p.left <= 0 {
		return 0, fmt.Errorf("more than %d bytes", maxAnswer)
	}
	n, err := p.r.Read(b[:min(len(b), p.left)])
	p.left -= n
	return n, err
}

// verified checks an opened record's receipt, whatever its broker said of it.
func (e *openedEntry) verified(p *proof.Policy, provisional bool) (*proof.Receipt, error) {
	r, err := proof.ParseReceipt([]byte(e.Receipt))
	if err != nil {
		return nil, err
	}
	if uint64(r.Index()) != e.Index {
		return nil, fmt.Errorf("its receipt is of entry %d", r.Index())
	}
	if _, err := r.Verify(p, proof.VerifyOptions{AllowProvisional: provisional || !p.Demands()}); err != nil {
		return nil, err
	}
	return r, nil
}

func openCommand() *cobra.Command {
	var f openFlags
	c := &cobra.Command{
		Use: "open", Short: "Open records, as an accredited auditor", Args: noArguments,
		Long: `open has the broker open records and writes them as JSON lines, for replay and export. Before anything is opened, the log has an entry for each record, in the roll of the person it is about: they
read who looked, and why. Records that can't be opened are written with their state.`,
		Example: `  regard-audit open --broker https://broker.example.fr:8443 --cert cour.pem --key cour.key --from 8000 --to 8499 --reason 'control 2026-7' > records.jsonl
  regard-audit open --broker https://broker.example.fr:8443 --cert cour.pem --key cour.key --erased-epochs 810-812 --reason control-2026-7 > erased.jsonl`,
		RunE: func(c *cobra.Command, _ []string) error {
			e := json.NewEncoder(c.OutOrStdout())
			e.SetEscapeHTML(false)
			return f.fetch(c.Context(), func(o openedEntry) error { return e.Encode(o) })
		},
	}
	f.flags(c)
	return c
}
