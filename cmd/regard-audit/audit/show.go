package audit

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
)

// field as it is shown.
type field struct {
	Name  string `json:"name"`
	State string `json:"state"` // open, absent, hidden
	Value any    `json:"value,omitempty"`
}

func showCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use: "show RECEIPT…", Short: "Print receipts readably, without verifying them", Args: files,
		Long:    "show prints what a receipt says. It verifies nothing, and what it prints is personal data if the receipt opens the person part.",
		Example: "  regard-audit show answer.receipt",
		RunE: func(c *cobra.Command, args []string) error {
			type shown struct {
				File     string  `json:"file"`
				Entry    string  `json:"entry"`
				LogIndex uint64  `json:"log_index"`
				Settled  bool    `json:"claims_settlement"`
				Fields   []field `json:"fields"`
			}
			out := []shown{}
			for _, name := range args {
				r, err := readReceipt(c, name)
				if err != nil {
					return err
				}
				out = append(out, shown{name, string(r.EntryText()), uint64(r.Index()), r.Settlement() != nil, fieldsOf(r.Opening())})
			}
			w := c.OutOrStdout()
			if asJSON {
				e := json.NewEncoder(w)
				e.SetIndent("", "  ")
				return e.Encode(out)
			}
			for _, s := range out {
				fmt.Fprintf(w, "%s (NOT VERIFIED: regard-audit verify does that)\n", s.File)
				for _, line := range strings.Split(strings.TrimSuffix(s.Entry, "\n"), "\n") {
					fmt.Fprintf(w, "  | %s\n", line)
				}
				fmt.Fprintf(w, "  log index      %d\n", s.LogIndex)
				printFields(w, s.Fields)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return c
}

func fieldsOf(o proof.Opening) []field {
	out := []field{}
	for _, info := range o.Schema().Fields() {
		v, p := o.Value(info.Field)
		f := field{Name: info.Name, State: "hidden"}
		switch p {
		case proof.Absent:
			f.State = "absent"
		case proof.Present:
			f.State = "open"
			switch info.Name {
			case "payload_key", "payload": // bytes
				f.Value = base64.StdEncoding.EncodeToString(v)
			case "requested", "obtained", "released", "reasons", "fields":
				f.Value = o.List(info.Field)
			case "asked_at", "answered_at", "at", "erased_at":
				if t, ok := o.TimeOf(info.Field); ok {
					f.Value = t.Time().Format(time.RFC3339Nano)
				}
			default:
				f.Value = string(v)
			}
		}
		out = append(out, f)
	}
	return out
}

func printFields(w io.Writer, fields []field) {
	for _, f := range fields {
		text := "(" + f.State + ")"
		if f.Name == "obtained" && f.State == "absent" {
			text = "(not known)" // docs/formats.md, section 4
		}
		switch v := f.Value.(type) {
		case string:
			text = v
		case []string:
			if text = strings.Join(v, " "); text == "" {
				text = "(none)"
			}
		}
		fmt.Fprintf(w, "  %-14s %s\n", f.Name, text)
	}
}
