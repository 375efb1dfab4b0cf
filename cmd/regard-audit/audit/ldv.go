package audit

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
)

// logLine is one line (logregel) of the Logboek Dataverwerkingen, https://logius-standaarden.github.io/logboek-dataverwerkingen/ (working version, read in November 2026), "Component: Logboek".
type logLine struct {
	TraceID      string         `json:"trace_id"` // 16 bytes, hexadecimal
	SpanID       string         `json:"span_id"`  // 8 bytes, hexadecimal
	Status       string         `json:"status"`   // Unset, Ok or Error
	Name         string         `json:"name"`
	StartTime    int64          `json:"start_time"` // milliseconds
	EndTime      int64          `json:"end_time"`
	ParentSpanID string         `json:"parent_span_id,omitempty"`
	Resource     resource       `json:"resource"`
	Attributes   map[string]any `json:"attributes"`
}

type resource struct {
	Attributes map[string]string `json:"attributes"`
}

// notShown is the type of data_subject_id where the subject is hidden from the auditor: the id is a pseudonym of the record, made for this export alone.
const notShown = "urn:regard:data-subject:not-shown"

// exporter writes opened records as log lines.
type exporter struct {
	policy      *proof.Policy
	provisional bool
	key         [32]byte // of this export's pseudonyms
	base        string   // public address of the log
	own         bool
}

func exportCommand() *cobra.Command {
	var look logFlags
	var f openFlags
	var ldv, own bool
	var base string
	c := &cobra.Command{
		Use: "export --ldv [FILE…]", Short: "Write opened records in the names of the Dutch Logboek Dataverwerkingen",
		Long: `export takes opened records (of open, or - for standard input; or it opens them itself), verifies each receipt, and writes one JSON line for each record: one data subject, as the standard asks.
An auditor isn't shown who that is: dpl.core.data_subject_id is a pseudonym of the record, of type ` + notShown + `, made for this export and forgotten; two lines with different ids may be about one person.

By default only names of the standard are written. --own adds attributes of ours under regard., an extension that nobody has adopted: the standard wants extensions adopted before they are used.
The mapping is in docs/design.md.

Exit codes: 0 everything was written, 1 a receipt is refuted, 2 something was not usable.`,
		Example: `  regard-audit export --ldv --log-key log.vkey records.jsonl > logboek.jsonl`,
		RunE: func(c *cobra.Command, files []string) error {
			if !ldv {
				return errors.New("give --ldv: it is the only form of export")
			}
			x := exporter{provisional: look.provisional, own: own, base: base}
			if u, err := url.Parse(base); base != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "") {
				return errors.New("--base-url has to be the public log's address, https://…")
			}
			var err error
			if x.policy, err = look.readPolicy(c); err != nil {
				return err
			}
			if _, err := rand.Read(x.key[:]); err != nil {
				return err
			}
			e := json.NewEncoder(c.OutOrStdout())
			e.SetEscapeHTML(false)
			others := map[string]int{}
			records := 0
			err = f.records(c, files, func(o openedEntry) error {
				records++
				if o.State != stateOpen {
					others[o.State]++
					return nil
				}
				line, err := x.line(&o)
				switch {
				case errors.Is(err, proof.ErrNotWitnessed), errors.Is(err, proof.ErrFormat):
					return fmt.Errorf("entry %d: %w", o.Index, err)
				case err != nil:
					return refuted{fmt.Errorf("entry %d: %w", o.Index, err)}
				}
				return e.Encode(line)
			})
			for _, k := range sortedKeys(others) {
				fmt.Fprintf(c.ErrOrStderr(), "%s: %s\n", many(others[k], "entry was not opened, and has no line", "entries were not opened, and have no line"), k)
			}
			if err == nil && records == 0 {
				return errors.New("there are no records")
			}
			return err
		},
	}
	look.keys(c, acceptProvisional)
	f.flags(c)
	c.Flags().BoolVar(&ldv, "ldv", false, "in the names of the Logboek Dataverwerkingen")
	c.Flags().BoolVar(&own, "own", false, "with attributes of ours under regard.")
	c.Flags().StringVar(&base, "base-url", "", "public address of the log, in references to agreements (default: https:// and the log's origin)")
	return c
}

func (x *exporter) line(e *openedEntry) (*logLine, error) {
	r, err := e.verified(x.policy, x.provisional)
	if err != nil {
		return nil, err
	}
	o := r.Opening()
	cp, err := proof.VerifyCheckpoint(r.Checkpoint(), x.policy)
	if err != nil {
		return nil, err
	}
	base := x.base
	if base == "" {
		base = "https://" + cp.Origin()
	}
	commitment := o.Commitment()
	mac := hmac.New(sha256.New, x.key[:])
	mac.Write(commitment[:])
	l := &logLine{
		Resource: resource{map[string]string{"service.name": "regard", "service.instance.id": cp.Origin()}},
		Attributes: map[string]any{
			"dpl.core.data_subject_id":      hex.EncodeToString(mac.Sum(nil)[:16]),
			"dpl.core.data_subject_id_type": notShown,
		},
	}
	switch o.Schema() {
	case proof.SchemaDisclosure:
		err = x.disclosure(l, o, strings.TrimSuffix(base, "/"))
	case proof.SchemaAccess:
		l.act(o, "record-access", o.Text(proof.AccessID), proof.AccessAt, proof.AccessAt)
		l.Attributes["dpl.core.processing_activity_id"] = "urn:regard:activity:access:" + o.Text(proof.AccessRole)
	case proof.SchemaErasure:
		l.act(o, "record-erasure", o.Text(proof.ErasureID), proof.ErasureAskedAt, proof.ErasureErasedAt)
		l.Attributes["dpl.core.processing_activity_id"] = "urn:regard:activity:erasure"
	}
	if x.own {
		x.ownNames(l, o)
	}
	return l, err
}

// disclosure maps a data request. Its asked entry is the action; those of others whom the answer identifies are children of it, each of one data subject.
func (x *exporter) disclosure(l *logLine, o proof.Opening, base string) error {
	id := o.Text(proof.DisclosureID)
	l.TraceID = o.Text(proof.DisclosureTraceID)
	l.Name = o.Text(proof.DisclosureService)
	l.times(o, proof.DisclosureAskedAt, proof.DisclosureAnsweredAt)
	asked := span(id, "asked")
	if l.SpanID = asked; o.Text(proof.DisclosureRole) != proof.RoleAsked {
		c := o.Commitment()
		l.SpanID, l.ParentSpanID = span(id, string(c[:])), asked
	}
	switch o.Text(proof.DisclosureOutcome) {
	case proof.OutcomeReleased:
		l.Status = "Ok"
	case proof.OutcomeFailed:
		l.Status = "Error"
		l.Attributes["exception.type"] = o.Text(proof.DisclosureCause)
	default: // handled without a fault, and without a result
		l.Status = "Unset"
	}
	activity := "urn:regard:activity:no-agreement"
	if input, p := o.Value(proof.DisclosureInput); p == proof.Present {
		var in struct {
			Digest string `json:"agreement_digest"`
		}
		if err := json.Unmarshal(input, &in); err != nil {
			return err
		}
		if in.Digest != "" {
			digest, err := base64.StdEncoding.DecodeString(in.Digest)
			if err != nil {
				return err
			}
			activity = base + "/blob/" + hex.EncodeToString(digest) // the agreement's text
		}
	}
	l.Attributes["dpl.core.processing_activity_id"] = activity
	return nil
}

// act fills in what is one action by itself.
func (l *logLine) act(o proof.Opening, name, uuid string, from, to proof.Field) {
	l.Name, l.Status, l.TraceID, l.SpanID = name, "Ok", strings.ReplaceAll(uuid, "-", ""), span(uuid, "")
	l.times(o, from, to)
}

func (l *logLine) times(o proof.Opening, from, to proof.Field) {
	start, _ := o.TimeOf(from)
	end, ok := o.TimeOf(to)
	if !ok {
		end = start
	}
	l.StartTime, l.EndTime = int64(start), int64(end)
}

// span makes the id of an action: the same in every export, so that lines fit together.
func span(id, part string) string {
	sum := sha256.Sum256([]byte("regard/ldv-span/v1\x00" + id + "\x00" + part))
	return hex.EncodeToString(sum[:8])
}

// ownNames adds what the standard has no name for.
func (x *exporter) ownNames(l *logLine, o proof.Opening) {
	if o.Schema() != proof.SchemaDisclosure {
		return
	}
	for _, f := range []proof.Field{
		proof.DisclosureID, proof.DisclosureRole, proof.DisclosureAgency, proof.DisclosureRecipient, proof.DisclosureProvider, proof.DisclosurePurpose, proof.DisclosureLegalBasis,
		proof.DisclosureAgreement, proof.DisclosurePolicy, proof.DisclosureOutcome, proof.DisclosureCause,
	} {
		if v := o.Text(f); v != "" {
			l.Attributes["regard."+proof.SchemaDisclosure.Name(f)] = v
		}
	}
	for _, f := range []proof.Field{proof.DisclosureRequested, proof.DisclosureObtained, proof.DisclosureReleased, proof.DisclosureReasons} {
		if list := o.List(f); list != nil {
			l.Attributes["regard."+proof.SchemaDisclosure.Name(f)] = list
		}
	}
}
