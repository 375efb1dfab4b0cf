package demo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// scene is one request of the story and what must come of it.
type scene struct {
	agency, agreement, asks, about string
	scopes                         []string
	subject                        map[string]any
	parameters                     map[string]any
	recipient, purpose             string
	key                            string // Idempotency-Key, if the story repeats it
	want                           string // outcome, or the code of a request that is refused before anything is recorded
	why                            string
}

// row is a scene that was played.
type row struct {
	scene  scene
	result result
}

// result is what regard request --json prints.
type result struct {
	ID       string `json:"id"`
	Outcome  string `json:"outcome"`
	Repeated bool   `json:"repeated"`
	Receipt  string `json:"receipt"`
	State    string `json:"receipt_state"`
	Settled  bool   `json:"settled"`
	LogIndex uint64 `json:"log_index"`
	Data     string `json:"data"`
	Reasons  []struct {
		Code string `json:"code"`
	} `json:"reasons"`
	Problem *struct {
		Status int    `json:"status"`
		Code   string `json:"code"`
		Title  string `json:"title"`
	} `json:"problem"`
}

var camille = map[string]any{"type": "pivot", "birth_name": "Exemple Alpha", "given_names": []string{"Camille", "Inès"}, "birth_date": "1984-03-14", "sex": "F", "birth_place": "75107", "birth_country": "99100"}

func scenes() []scene {
	canteen := scene{agency: "mairie-exempleville", agreement: "cantine-2026", asks: "quotient familial", about: "Camille EXEMPLE ALPHA", scopes: []string{"quotient", "enfants"}, subject: camille, purpose: "tarif-cantine", want: "released"}
	with := func(change func(*scene)) scene { s := canteen; change(&s); return s }
	return []scene{
		with(func(s *scene) {
			s.key, s.why = "cantine-1", "a household of four: each member has an entry of their own"
		}),
		with(func(s *scene) {
			s.key, s.why = "cantine-1", "the same request again: same answer, nobody asked twice"
		}),
		with(func(s *scene) {
			s.scopes, s.want, s.why = []string{"quotient", "adresse"}, "denied", "the agreement has no address in it"
		}),
		with(func(s *scene) {
			s.purpose, s.want, s.why = "publicite", "denied", "not the purpose of the agreement"
		}),
		with(func(s *scene) {
			s.about, s.want, s.why = "somebody unknown", "empty", "that nobody is known is data, too"
			s.subject = map[string]any{"type": "pivot", "birth_name": "Exemple Inconnu", "given_names": []string{"Alix"}, "birth_date": "1999-09-09", "sex": "F", "birth_place": "75056", "birth_country": "99100"}
		}),
		with(func(s *scene) {
			s.parameters, s.want, s.why = map[string]any{"annee": 2026}, "failed", "the provider refuses: a year without a month (422)"
		}),
		{agency: "crous-exemple", agreement: "bourses-2026", asks: "inscriptions", about: "INE 0EXEMPLE03C", scopes: []string{"admissions"}, subject: map[string]any{"type": "ine", "value": "0EXEMPLE03C"}, purpose: "bourse", want: "released", why: "asked by INE"},
		{agency: "mairie-exempleville", agreement: "echelon-2026", asks: "échelon de bourse", about: "INE 0EXEMPLE01A", scopes: []string{"statut", "echelon"}, subject: map[string]any{"type": "ine", "value": "0EXEMPLE01A"}, purpose: "aide-etudiants", want: "released", why: "the student has an entry under name and INE"},
		{agency: "prefecture-exemple", agreement: "marches-2026", asks: "attestation fiscale", about: "SIREN 900000118", scopes: []string{"dates", "document"}, subject: map[string]any{"type": "siren", "value": "900000118"}, purpose: "marche-public", want: "released", why: "the document is fetched by the broker, its link is not passed on"},
		{agency: "prefecture-exemple", agreement: "annuaire-2026", asks: "unité légale", about: "itself", scopes: []string{"identite"}, subject: map[string]any{"type": "siren", "value": "900001033"}, recipient: "90000103300019", purpose: "marche-public", want: "denied", why: "who asks must not be whom it is about"},
		{agency: "crous-exemple", agreement: "", asks: "quotient familial", about: "Camille EXEMPLE ALPHA", scopes: []string{"quotient"}, subject: camille, purpose: "bourse", want: "denied", why: "no agreement for this service"},
		with(func(s *scene) {
			s.about, s.subject, s.want, s.why = "a date that isn't", clone(camille, "birth_date", "1984-02-30"), "request.invalid", "a mistake of the agency: not recorded, nobody asked"
		}),
	}
}

func clone(m map[string]any, key string, value any) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	out[key] = value
	return out
}

func (s *scene) request() ([]byte, error) {
	recipient := s.recipient
	for _, a := range agencies {
		if a.id == s.agency && recipient == "" {
			recipient = a.siret
		}
	}
	basis, service := "crpa-l114-8", "quotient-familial"
	for _, a := range agreements {
		if a.id == s.agreement {
			basis, service = a.basis, a.service
		}
	}
	m := map[string]any{
		"service": service, "scopes": s.scopes, "purpose": s.purpose, "legal_basis": basis, "recipient": recipient,
		"context": "Démonstration", "object": "dossier inventé", "official": "agent-7", "subject": s.subject,
	}
	if s.agreement != "" {
		m["agreement"] = s.agreement
	}
	if s.parameters != nil {
		m["parameters"] = s.parameters
	}
	return json.MarshalIndent(m, "", "  ")
}

// ask plays one request with the agency's own program.
func (d *demo) ask(show bool, n int, s *scene, key string) (result, error) {
	text, err := s.request()
	if err != nil {
		return result{}, err
	}
	file := d.path("requests", fmt.Sprintf("%d.json", n))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return result{}, err
	}
	args := append([]string{"request", "-f", file}, d.asking(s.agency)...)
	if key != "" {
		args = append(args, "--idempotency-key", key)
	}
	out, err := d.run(show, "regard", args...)
	var f *failedRun
	if err != nil && (!errors.As(err, &f) || f.code() < 1) {
		return result{}, err
	}
	if len(out) == 0 { // refused before anything was recorded
		return result{Outcome: "refused"}, err
	}
	r, jerr := readJSON[result](out)
	if jerr != nil {
		return r, errors.Join(jerr, err)
	}
	return r, nil
}

func (d *demo) asking(agency string) []string {
	return []string{"--url", "https://" + d.api, "--ca", d.path("secrets", "server.pem"), "--cert", d.path(agency + ".pem"), "--key", d.path(agency + ".key"),
		"--policy", d.path("log.policy"), "--out", d.path("answers"), "--keep", d.path("held", agency), "--json"}
}

// scenes plays the story and prints it as a table.
func (d *demo) scenes() error {
	d.sayf("\n3. Agencies ask. Policy decides, the answer is sealed, the entries are logged, and only then are the granted fields released, with a receipt.\n")
	w := tabwriter.NewWriter(d.cfg.Out, 0, 0, 2, ' ', 0)
	for i, s := range scenes() {
		r, err := d.ask(i == 0, i, &s, s.key)
		if i == 0 {
			d.sayf("")
			fmt.Fprintln(w, "  AGENCY\tASKS FOR\tABOUT\tOUTCOME\tRELEASED\tLOG INDEX\tPROOF\tREMARK")
		}
		if err := s.check(&r, err); err != nil {
			return fmt.Errorf("request %d (%s): %w", i+1, s.why, err)
		}
		fields, index, receipt := "–", "–", "not recorded"
		if r.ID != "" {
			fields, index = strings.Join(released(r.Data), " "), strconv.FormatUint(r.LogIndex, 10)
			if receipt, err = d.verify(&r); err != nil {
				return fmt.Errorf("request %d (%s): %w", i+1, s.why, err)
			}
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.agency, s.asks, s.about, r.Outcome, fields, index, receipt, s.why)
		d.rows = append(d.rows, row{s, r})
	}
	if err := w.Flush(); err != nil {
		return err
	}
	first, second := d.rows[0].result, d.rows[1].result
	if first.ID != second.ID || !second.Repeated {
		return errors.New("the repeated request was carried out twice")
	}
	n, err := d.asked(first.ID)
	if err != nil || n != 1 {
		return fmt.Errorf("the providers' own log says that they were asked %d times for the first request (%v)", n, err)
	}
	d.sayf("\n  The providers' own log: asked once for the first request, and not at all for what was refused.")
	return nil
}

// verify has the auditor's program check a receipt, and the data that came with it, offline.
func (d *demo) verify(r *result) (string, error) {
	args := []string{"verify", "--json", "--allow-provisional", "--policy", d.path("log.policy"), r.Receipt}
	if r.Data != "" {
		args = append(args, "--payload", r.Data)
	}
	out, err := d.run(false, "regard-audit", args...)
	if err != nil {
		return "", err
	}
	found, err := readJSON[[]struct {
		Proven bool   `json:"proven"`
		State  string `json:"state"`
	}](out)
	if err != nil || len(found) != 1 || !found[0].Proven {
		return "", fmt.Errorf("regard-audit says %s (%v)", out, err)
	}
	return "verified, " + found[0].State, nil
}

// look shows what the operator's help desk sees of somebody who was not asked about, but stands in an answer.
func (d *demo) look() error {
	d.sayf("\n4. The partner, about whom nobody asked, has an entry of their own. The help desk looks: that is an entry of the log, too.\n")
	partner := map[string]any{"type": "person", "birth_name": "Exemple Bravo", "given_names": []string{"Loïc"}, "birth_date": "1982-11-02", "sex": "M"}
	out, err := d.history(partner, "partner.json", "question de la personne")
	if err != nil {
		return err
	}
	if !bytes.Contains(out, []byte("quotient-familial")) {
		return fmt.Errorf("the partner's history lacks the request:\n%s", out)
	}
	return nil
}

func (d *demo) history(subject map[string]any, file, reason string) ([]byte, error) {
	if err := d.writeJSON(file, subject); err != nil {
		return nil, err
	}
	out, err := d.run(true, "regard", "history", "-f", d.path(file), "--reason", reason, "--config", d.stage.config())
	if err != nil {
		return nil, err
	}
	d.sayf("%s", indent(string(out)))
	return out, nil
}

func (d *demo) writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(d.path(file), b, 0o600)
}

// erase destroys a person's keys. Their details can't be read any more; the receipts that were handed out still verify.
func (d *demo) erase() error {
	d.sayf("\n11. Camille's details are erased: the keys are destroyed, and an entry says so. What was handed out still verifies.\n")
	if err := d.writeJSON("camille.json", camille); err != nil {
		return err
	}
	leads, err := d.stage.leading()
	if err != nil {
		return err
	}
	out, err := d.run(true, "regard", "erase", "-f", d.path("camille.json"), "--ground", "rgpd-17", "--yes", "--config", leads)
	if err != nil {
		return err
	}
	d.sayf("%s", indent(string(out)))
	if out, err = d.history(camille, "camille.json", "contrôle de l'effacement"); err != nil {
		return err
	}
	if !bytes.Contains(out, []byte("erased")) {
		return fmt.Errorf("the history doesn't say that it was erased:\n%s", out)
	}
	for i := range d.rows {
		if r := &d.rows[i].result; r.ID != "" {
			if _, err := d.verify(r); err != nil {
				return fmt.Errorf("a receipt from before the erasure: %w", err)
			}
		}
	}
	d.sayf("  All receipts from before the erasure still verify.")
	return nil
}

func (s *scene) check(r *result, err error) error {
	if s.want == "request.invalid" {
		if r.ID != "" || err == nil || !strings.Contains(err.Error(), s.want) {
			return fmt.Errorf("want %s, got %+v, %w", s.want, r, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if r.Outcome != s.want || (r.Data != "") != (s.want == "released") || r.Receipt == "" {
		return fmt.Errorf("want %s, got %+v", s.want, r)
	}
	if r.Data != "" && !bytes.Contains([]byte(strings.Join(released(r.Data), " ")), []byte("/")) {
		return errors.New("released, but there is nothing in it")
	}
	return nil
}

// released lists the members of a released answer, two levels deep.
func released(file string) (out []string) {
	if file == "" {
		return []string{"–"}
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	v, err := readJSON[map[string]map[string]json.RawMessage](b)
	if err != nil {
		return nil
	}
	for _, top := range []string{"data", "meta"} {
		for name := range v[top] {
			out = append(out, "/"+top+"/"+name)
		}
	}
	slices.Sort(out)
	return out
}

// asked counts in the providers' own log how often they were asked for a disclosure.
func (d *demo) asked(id string) (int, error) {
	b, err := os.ReadFile(d.path("provider-access.jsonl"))
	return bytes.Count(b, []byte(id)), err
}

// crash kills the broker, or the one that leads, under load and repeats what was not answered.
func (d *demo) crash() error {
	d.sayf("\n6. %s The agencies repeat what was not answered, with the same Idempotency-Key.\n", d.stage.crash())
	const clients, each = 6, 6
	var mu sync.Mutex
	var wg sync.WaitGroup
	results := map[string]result{}
	some, killed := make(chan struct{}), make(chan struct{})
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				s := scenes()[6]
				n, key := 100+c*each+i, fmt.Sprintf("crash-%d-%d", c, i)
				r, err := d.ask(false, n, &s, key)
				if err != nil || r.Receipt == "" {
					<-killed
					r, err = d.insist(n, &s, key)
				}
				mu.Lock()
				if err == nil {
					if results[key] = r; len(results) == clients {
						close(some)
					}
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-some:
	case <-time.After(30 * time.Second):
		return errors.New("no request was answered in 30 s")
	}
	err := d.stage.kill()
	mu.Lock()
	before := len(results)
	mu.Unlock()
	if err == nil {
		err = d.stage.recover()
	}
	close(killed)
	wg.Wait()
	if err != nil {
		return err
	}
	ids, interrupted := map[string]bool{}, 0
	for key, r := range results {
		if ids[r.ID] {
			return fmt.Errorf("two requests have one id (%s)", key)
		}
		ids[r.ID] = true
		if r.Outcome == "failed" {
			interrupted++
		}
		n, err := d.asked(r.ID)
		if err != nil || n > 1 || r.Outcome == "released" && n != 1 {
			return fmt.Errorf("the providers were asked %d times for %s (%v)", n, r.ID, err)
		}
	}
	if len(ids) != clients*each {
		return fmt.Errorf("%d of %d requests have a receipt", len(ids), clients*each)
	}
	d.sayf("  %d requests: %d answered before the crash, the others after it. All have one receipt each; %d are recorded as interrupted. No provider was asked twice for one.", clients*each, before, interrupted)
	return d.stage.rejoin()
}

// insist repeats a request until it has its receipt.
func (d *demo) insist(n int, s *scene, key string) (r result, err error) {
	for range 100 {
		if r, err = d.ask(false, n, s, key); err == nil && r.Receipt != "" {
			return r, nil
		}
		time.Sleep(200 * time.Millisecond)
	}
	return r, fmt.Errorf("no answer after many repeats: %w", err)
}

// settle waits until the epoch of the first receipt is closed and fetches its final form.
func (d *demo) settle() error {
	d.sayf("\n7. When the epoch closes (a day; %v here), receipts settle: they show that the entry is in the one roll that the person has in that epoch.\n", epoch)
	first := &d.rows[0]
	show := true
	err := d.wait("the receipt to settle", 6*epoch, nil, func() bool {
		out, err := d.run(show, "regard", append([]string{"request", "get", first.result.ID}, d.asking(first.scene.agency)...)...)
		show = false
		if err != nil {
			return false
		}
		r, err := readJSON[result](out)
		if err == nil && r.State == proof.Settled.String() {
			r.Data = first.result.Data // it isn't given again
			first.result = r
		}
		return first.result.Settled
	})
	if err != nil {
		return err
	}
	text, err := os.ReadFile(first.result.Receipt)
	if err != nil {
		return err
	}
	r, err := d.receipt(first)
	if err != nil {
		return err
	}
	s := r.Settlement()
	d.sayf("  Receipt %s is settled, under the witnesses' cosignatures: %d lines, %d bytes, the epoch's index has %d people in this bucket.", filepath.Base(first.result.Receipt), bytes.Count(text, []byte("\n")), len(text), len(s.Bucket.Items))
	return nil
}

// audit checks receipts with the auditor's program, without the broker, and one with a byte changed.
func (d *demo) audit() error {
	d.sayf("\n8. Anybody checks, offline, with a program that has no server code in it.\n")
	good := d.rows[0].result
	out, err := d.run(true, "regard-audit", "verify", good.Receipt, "--policy", d.path("log.policy"), "--payload", good.Data)
	if err != nil {
		return err
	}
	d.sayf("%s", indent(string(out)))
	text, err := os.ReadFile(good.Receipt)
	if err != nil {
		return err
	}
	i := bytes.Index(text, []byte("commitment ")) + len("commitment ")
	if text[i] = text[i] + 1; !('A' < text[i] && text[i] <= 'Z') { // another letter of base64 in any case
		text[i] = 'A'
	}
	if err := os.WriteFile(d.path("tampered.receipt"), text, 0o600); err != nil { // #nosec G703 -- a fixed name in the demonstration's own directory
		return err
	}
	out, err = d.run(true, "regard-audit", "verify", d.path("tampered.receipt"), "--policy", d.path("log.policy"))
	var f *failedRun
	if !errors.As(err, &f) || f.code() != 1 {
		return fmt.Errorf("a receipt with a changed letter was not refuted: %w", err)
	}
	d.sayf("%s", indent(string(out)+f.output))
	return nil
}

// indent sets what a program said off from the story.
func indent(s string) string {
	return "\n    " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n    ")
}
