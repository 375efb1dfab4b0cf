package command

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/ledger/logkey"
	"github.com/regard-broker/regard/ledger/proof"
)

// asker are the flags with which an agency reaches its broker.
type asker struct {
	url, cert, key, ca, logKey, policy, out, store string
	strict, json                                   bool
}

func (a *asker) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.url, "url", "", "the broker, https://host:port")
	f.StringVar(&a.cert, "cert", "", "the agency's client certificate (PEM)")
	f.StringVar(&a.key, "key", "", "its private key (PEM)")
	f.StringVar(&a.ca, "ca", "", "the broker's certificate, or those that may sign it (default: the system's)")
	f.StringVar(&a.logKey, "log-key", "", "the log's verification key, or a file with it")
	f.StringVar(&a.policy, "policy", "", "file with the log's key and the witnesses (c2sp.org/tlog-policy), in place of --log-key")
	f.BoolVar(&a.strict, "refuse-provisional", false, "accept no receipt without the policy's quorum of witnesses")
	f.StringVar(&a.out, "out", ".", "directory for ID.receipt and ID.data.json")
	f.StringVar(&a.store, "keep", "", "directory of the store that keeps receipts and their proofs (see regard receipts)")
	jsonFlag(c, &a.json)
}

func (a *asker) client() (*client.Client, error) {
	for _, f := range []struct{ name, value string }{{"--url", a.url}, {"--cert", a.cert}, {"--key", a.key}} {
		if f.value == "" {
			return nil, usagef("%s is missing", f.name)
		}
	}
	pair, err := tls.LoadX509KeyPair(a.cert, a.key)
	if err != nil {
		return nil, usage{err}
	}
	cfg := client.Config{URL: a.url, Certificate: pair, RefuseProvisional: a.strict}
	if a.ca != "" {
		pem, err := os.ReadFile(a.ca)
		if err != nil {
			return nil, usage{err}
		}
		cfg.Roots = x509.NewCertPool()
		if !cfg.Roots.AppendCertsFromPEM(pem) {
			return nil, usagef("%s holds no certificate in PEM", a.ca)
		}
	}
	if cfg.Policy, err = readPolicy(a.logKey, a.policy); err != nil {
		return nil, err
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, usage{err}
	}
	return c, nil
}

// readPolicy takes a verification key or a file with it, or a policy file.
func readPolicy(logKey, file string) (*proof.Policy, error) {
	p, err := logkey.Policy(logKey, file, errors.New("give --log-key or --policy: without the log's key no receipt can be checked (the operator shows it: regard status --log-key)"), os.ReadFile)
	if err != nil {
		return nil, usage{err}
	}
	return p, nil
}

// example is a request that regard request --example prints: to a reference service, about an invented person.
const example = `{
  "service": "quotient-familial",
  "scopes": ["quotient"],
  "purpose": "tarif-cantine",
  "legal_basis": "crpa-l114-8",
  "recipient": "90000101700012",
  "context": "Tarif de la cantine 2026",
  "object": "Dossier 2026-0042",
  "official": "agent-7",
  "subject": {
    "type": "pivot",
    "birth_name": "Exemple Alpha",
    "given_names": ["Camille", "Inès"],
    "birth_date": "1984-03-14",
    "sex": "F",
    "birth_place": "75107",
    "birth_country": "99100"
  },
  "parameters": {"annee": 2026, "mois": 1}
}
`

func requestCommand() *cobra.Command {
	var a asker
	var file, key string
	var show bool
	c := &cobra.Command{
		Use: "request", Short: "Ask a broker for data, as an agency", Args: noArgs,
		Long: `request sends one request, verifies the receipt, and stores data and receipt. The request is a file or standard input, never an argument: other users
of the machine could read it. Nothing is stored as data unless the receipt proves exactly this request and these data.

Exit codes: 0 there is an answer and its receipt is good; 1 there is none (the receipt of a refusal is stored, too), or the receipt is wrong; 2 the request or a flag is at fault.`,
		Example: `  regard request --example > request.json
  regard request --url https://broker.example.fr:8443 --ca broker.pem --cert ccas.pem --key ccas.key --log-key log.vkey -f request.json --out answers
  regard request get 0193… --url … --out answers      # later: the witnessed or settled form of the receipt`,
		RunE: func(c *cobra.Command, _ []string) error {
			if show {
				_, err := fmt.Fprint(c.OutOrStdout(), example)
				return err
			}
			if file == "" {
				return usagef("--file is missing: the request, or - for standard input (regard request --example shows one)")
			}
			cl, err := a.client()
			if err != nil {
				return err
			}
			b, err := readInput(c, file, 1<<20)
			if err != nil {
				return err
			}
			if !json.Valid(b) {
				return usagef("%s is not JSON", file)
			}
			res, err := cl.Disclose(c.Context(), b, key)
			return a.report(c, res, err)
		},
	}
	a.flags(c)
	c.Flags().StringVarP(&file, "file", "f", "", "the request (JSON), - for standard input")
	c.Flags().StringVar(&key, "idempotency-key", "", "for repeating a request by hand (default: drawn)")
	c.Flags().BoolVar(&show, "example", false, "print an example of a request")

	var g asker
	get := &cobra.Command{
		Use: "get ID", Short: "Fetch the newest form of a receipt", Args: someArgs(1, false, "the disclosure's id"),
		Example: "  regard request get 01935a11-2233-7444-8555-66778899aabb --url https://broker.example.fr:8443 --cert ccas.pem --key ccas.key --log-key log.vkey --out answers",
		RunE: func(c *cobra.Command, args []string) error {
			if !client.IsID(args[0]) {
				return usagef("%q is not the id of a disclosure", args[0])
			}
			cl, err := g.client()
			if err != nil {
				return err
			}
			res, err := cl.Disclosure(c.Context(), args[0])
			if err == nil {
				res.Problem = nil // it was found: why there were no data is told by the outcome
			}
			return g.report(c, res, err)
		},
	}
	g.flags(get)
	c.AddCommand(get)
	return c
}

// report stores what came back and says what it is.
func (a *asker) report(c *cobra.Command, res *client.Result, failed error) error {
	if errors.Is(failed, context.Canceled) {
		return errors.New("interrupted")
	}
	var p *client.Problem
	if errors.As(failed, &p) && p.Status >= 400 && p.Status < 500 && p.Status != 401 && p.Status != 429 {
		failed = usage{failed}
	}
	var unknown *tls.CertificateVerificationError
	if errors.As(failed, &unknown) {
		failed = usage{fmt.Errorf("%w (if you know that this is the broker, give the certificate that its operator sent you with --ca)", failed)}
	}
	if res == nil {
		return failed
	}
	if !client.IsID(res.ID) {
		return errors.Join(failed, errors.New("the broker's answer has no proper id"))
	}
	if err := os.MkdirAll(a.out, 0o700); err != nil {
		return errors.Join(failed, err)
	}
	if failed == nil && a.store != "" { // before the data are there to be used
		if err := a.keep(c.Context(), res); err != nil {
			return err
		}
	}
	base := filepath.Join(a.out, res.ID)
	out := struct {
		ID       string          `json:"id"`
		Outcome  string          `json:"outcome"`
		AskedAt  time.Time       `json:"asked_at"`
		Repeated bool            `json:"repeated"`
		Receipt  string          `json:"receipt"`
		State    string          `json:"receipt_state"`
		Settled  bool            `json:"settled"`
		LogIndex uint64          `json:"log_index"`
		Hidden   bool            `json:"person_hidden,omitempty"`
		Data     string          `json:"data,omitempty"`
		Reasons  []client.Reason `json:"reasons,omitempty"`
		Problem  *client.Problem `json:"problem,omitempty"`
	}{ID: res.ID, Outcome: res.Outcome, AskedAt: res.AskedAt, Repeated: res.Repeated, Receipt: base + ".receipt", State: res.Verdict.State.String(), Settled: res.Verdict.InRoll,
		LogIndex: uint64(res.Verdict.Index), Hidden: res.PersonHidden, Reasons: res.Reasons, Problem: res.Problem}
	switch {
	case errors.Is(failed, client.ErrReceipt):
		out.Receipt = base + ".refused-receipt"
	case res.PersonHidden: // one from before shows more
		out.Receipt = base + ".erased-receipt"
	}
	if err := replace(out.Receipt, string(res.Receipt)); err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil {
		return fmt.Errorf("%w (it is kept in %s; no data were stored)", failed, out.Receipt)
	}
	if res.Data != nil {
		out.Data = base + ".data.json"
		if err := replace(out.Data, string(res.Data)); err != nil {
			return err
		}
	}
	if a.json {
		if err := printJSON(c.OutOrStdout(), out); err != nil {
			return err
		}
	} else {
		w := c.OutOrStdout()
		fmt.Fprintf(w, "%s  %s\nreceipt  %s (%s%s, log index %d)\n", out.ID, out.Outcome, out.Receipt, out.State, settledNote(out.Settled), out.LogIndex)
		if out.Data != "" {
			fmt.Fprintf(w, "data     %s\n", out.Data)
		}
		if out.Hidden {
			fmt.Fprintln(w, "erased   the person's part of the record is gone: whom, why and for which object was asked can't be compared; a receipt from before shows it")
		}
		for _, r := range out.Reasons {
			fmt.Fprintf(w, "reason   %s  %s\n", r.Code, r.Message)
		}
	}
	if res.Problem != nil {
		return res.Problem
	}
	return nil
}

func settledNote(yes bool) string {
	if yes {
		return ", settled"
	}
	return ""
}
