package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

// auditState remembers between runs which epochs were checked, under which checkpoint.
type auditState struct {
	Format     string `json:"format"`
	Checkpoint string `json:"checkpoint"` // signed note
	Next       uint64 `json:"next"`       // the first epoch that is neither done nor gone
}

const auditStateFormat = "regard/audit-index-state@v1"

func auditIndexCommand() *cobra.Command {
	var look logFlags
	var at brokerFlags
	var epoch int64
	var all, asJSON, dry bool
	var keyFile, state string
	c := &cobra.Command{
		Use: "audit-index", Short: "Check the rolls of closed epochs, and cosign their index", Args: noArguments,
		Long: `audit-index is for accredited auditors. It has the broker open the rolls of a closed epoch (log indexes and salts, no identities) and checks them against the public log: every filed entry of the
epoch is in exactly one roll, every roll is well-formed, and their index is the one that the log's marker states. Only then it signs that with --sign-key, and has the broker publish it at
audit/<epoch>/<auditor>: from then on anybody can tell that nothing of the epoch was left out.

It can't tell whether an entry is in the roll of the right person: who holds a receipt of it can, by its settlement.

Rolls don't stay for ever: the key of their labels is destroyed at the end of retention, and a restored backup may lack some. If the log says so, the epoch can't be checked any more, which isn't a fault; --all-new
goes on behind it.

With --state it remembers what is done, or gone, and the checkpoint that it saw; a log that doesn't extend that is a fork.

Exit codes: 0 checked and published, 1 there are faults, 2 it could not be checked: also if the rolls of an epoch are gone, which --all-new with --state says once.`,
		Example: `  regard-audit audit-index --log https://log.regard.example.fr --policy log.policy --broker https://broker.example.fr:8443 --cert cour.pem --key cour.key \
      --sign-key cour.skey --all-new --state audit.json
  regard-audit audit-index --log https://log.regard.example.fr --policy log.policy --broker https://broker.example.fr:8443 --cert cour.pem --key cour.key --sign-key cour.skey --epoch 812`,
		RunE: func(c *cobra.Command, _ []string) error {
			if (epoch >= 0) == all {
				return errors.New("give --epoch or --all-new: which epochs?")
			}
			signer, vkey, err := readSigner(c, keyFile)
			if err != nil {
				return err
			}
			b, err := at.open()
			if err != nil {
				return err
			}
			ctx := c.Context()
			l, err := look.open(ctx, c)
			if err != nil {
				return err
			}
			st, err := readAuditState(ctx, state, l)
			if err != nil {
				return err
			}
			auditor, ok := l.gov.auditor(proof.AuditorKey(vkey))
			if !ok {
				return errors.New("the log doesn't name your key as one of an auditor in force: nobody could tell whose statement it is. Have the operator register it (regard auditor). If that was just now, wait until the published log says so, a few seconds")
			}
			first, behind := proof.Epoch(st.Next), l.gov.closed()
			if !all {
				first = proof.Epoch(epoch) // #nosec G115 -- not negative
				behind = first + 1
			}
			reports, failed := []indexReport{}, false
			var gone []string // why, of each epoch that is
			for n := first; n < behind && err == nil; n++ {
				var r *indexReport
				if r, err = auditIndex(ctx, l, b, n, signer, auditor, dry); r != nil {
					reports = append(reports, *r)
					failed = failed || r.Count > 0
					if r.Gone != "" {
						gone = append(gone, r.Gone)
					}
					if all && !failed && !dry && (r.Signed || r.Gone != "") {
						st.Next = uint64(n) + 1
					}
				}
			}
			if serr := st.save(state, l); serr != nil {
				err = errors.Join(err, serr)
			}
			if perr := printIndexes(c.OutOrStdout(), reports, err == nil, asJSON); perr != nil {
				return perr
			}
			switch {
			case failed:
				if err != nil {
					fmt.Fprintf(c.ErrOrStderr(), "regard-audit: %v\n", err)
				}
				return errRefused
			case err != nil:
				return err
			case len(gone) > 0:
				of := many(len(gone), "epoch", "epochs")
				slices.Sort(gone)
				return fmt.Errorf("the rolls of %s are gone (%s), and the log says why: nobody can check that any more", of, strings.Join(slices.Compact(gone), " and "))
			}
			return nil
		},
	}
	look.all(c)
	at.flags(c)
	f := c.Flags()
	f.StringVar(&keyFile, "sign-key", "", "file with your private key (regard-audit keygen)")
	f.Int64Var(&epoch, "epoch", -1, "number of a closed epoch")
	f.BoolVar(&all, "all-new", false, "all closed epochs that --state doesn't name as done")
	f.StringVar(&state, "state", "", "file that remembers what is done")
	f.BoolVar(&dry, "dry-run", false, "check, and sign nothing")
	f.BoolVar(&asJSON, "json", false, "write JSON")
	return c
}

func noArguments(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%s takes no arguments (see %s --help)", c.Name(), c.CommandPath())
	}
	return nil
}

// auditIndex checks an epoch's index and publishes what may be said of it.
func auditIndex(ctx context.Context, l *openLog, b *broker, n proof.Epoch, signer note.Signer, auditor string, dry bool) (*indexReport, error) {
	c, err := checkIndex(ctx, l, b, n)
	if err != nil {
		return nil, err
	}
	r := &c.report
	if r.Count > 0 || r.Gone != "" || dry {
		return r, nil
	}
	text, err := c.statement()
	if err != nil {
		return r, err
	}
	signed, err := note.Sign(&note.Note{Text: string(text)}, signer)
	if err != nil {
		return r, err
	}
	var answer struct{ Path string }
	err = b.call(ctx, http.MethodPut, fmt.Sprintf("/v1/audit/epochs/%d/statement", n), "text/plain; charset=utf-8", signed, func(body io.Reader) error {
		return json.NewDecoder(io.LimitReader(body, 64<<10)).Decode(&answer)
	})
	if err != nil {
		return r, fmt.Errorf("publishing the statement about epoch %d: %w", n, err)
	}
	// The operator could say so and do nothing.
	path := fmt.Sprintf("audit/%d/%s", n, auditor)
	published, err := l.src.Get(ctx, path, maxStatement)
	if err != nil {
		return r, fmt.Errorf("the broker took the statement about epoch %d, and the log doesn't serve it: %w", n, err)
	}
	if !bytes.Equal(published, signed) {
		return r, fmt.Errorf("the log serves another statement about epoch %d under your name: compare %s with yours", n, path)
	}
	r.Auditor, r.Path, r.Signed = auditor, path, true
	return r, nil
}

// maxStatement bounds a statement, in bytes.
const maxStatement = 4 << 10

// readAuditState checks that the log extends what was seen last.
func readAuditState(ctx context.Context, file string, l *openLog) (*auditState, error) {
	st := &auditState{Format: auditStateFormat}
	if file == "" {
		return st, nil
	}
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(st); err != nil || st.Format != auditStateFormat {
		return nil, fmt.Errorf("%s is no state of audit-index", file)
	}
	was, err := proof.VerifyCheckpoint([]byte(st.Checkpoint), l.policy)
	if err != nil {
		return nil, fmt.Errorf("%s: its checkpoint isn't one of this log: %w", file, err)
	}
	if was.Size() > l.cp.Size() {
		return nil, fmt.Errorf("the log serves a tree of %d entries, and had %d before: an old copy, or a fork. Ask witnesses and mirrors; keep %s", l.cp.Size(), was.Size(), file)
	}
	root, err := l.tree.RootAt(ctx, was.Size())
	if err != nil {
		return nil, err
	}
	if root != was.Root() {
		return nil, refuted{fmt.Errorf("FORK: the log doesn't extend the tree of %d entries that it signed before. Keep %s: it is evidence", was.Size(), file)}
	}
	return st, nil
}

// save writes the state under its name complete, or not at all.
func (st *auditState) save(file string, l *openLog) error {
	if file == "" {
		return nil
	}
	st.Checkpoint = string(l.cp.Note())
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return err
	}
	t, err := os.CreateTemp(filepath.Dir(file), ".state-*")
	if err != nil {
		return err
	}
	defer os.Remove(t.Name()) // gone if it got its name
	_, err = t.Write(append(b, '\n'))
	if err := errors.Join(err, t.Sync(), t.Close()); err != nil {
		return err
	}
	return os.Rename(t.Name(), file)
}

// printIndexes also says that there was nothing to check, if all that there was could be looked at.
func printIndexes(w io.Writer, reports []indexReport, all, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(reports)
	}
	if len(reports) == 0 && all {
		_, err := fmt.Fprintln(w, "no epoch was closed since")
		return err
	}
	for i := range reports {
		r := &reports[i]
		switch {
		case r.Count > 0:
			fmt.Fprintf(w, "epoch %d: FAULTS: %d. Nothing is signed. Keep what the broker sent; tell the supervisory authority.\n", r.Epoch, r.Count)
		case r.Signed:
			fmt.Fprintf(w, "epoch %d: SOUND, signed and published at %s\n", r.Epoch, r.Path)
		case r.Gone != "":
			fmt.Fprintf(w, "epoch %d: GONE (%s): %s. Nothing is signed.\n  %d filed entries\n", r.Epoch, r.Gone, goneBecause[r.Gone], r.Entries)
			continue
		default:
			fmt.Fprintf(w, "epoch %d: SOUND, not signed\n", r.Epoch)
		}
		fmt.Fprintf(w, "  %d filed entries in %d rolls\n", r.Entries, r.Rolls)
		if r.Lost > 0 {
			fmt.Fprintf(w, "  %d of them are nobody's: their details were lost (restart@v1)\n", r.Lost)
		}
		for _, f := range r.Faults {
			fmt.Fprintf(w, "  %s %s: %s", f.Code, f.Place, indexFaults[f.Code])
			if f.Text != "" {
				fmt.Fprintf(w, " (%s)", f.Text)
			}
			fmt.Fprintln(w)
		}
		if n := r.Count - len(r.Faults); n > 0 {
			fmt.Fprintf(w, "  and %d more\n", n)
		}
	}
	return nil
}
