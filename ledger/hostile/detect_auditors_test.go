package hostile_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/monitor"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// rolls answers an accredited auditor: the rolls of a closed epoch, as the operator filed.
func (a *api) rolls(w http.ResponseWriter, r *http.Request) {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	n, err := strconv.Atoi(r.PathValue("epoch"))
	if err != nil {
		a.s.t.Error(err)
	}
	e := a.s.o.Epochs[n]
	page := proof.Rolls{Epoch: e.Number, Marker: e.Closer}
	for z, roll := range e.Rolls {
		page.Rolls = append(page.Rolls, proof.OpenRoll{Label: z, Leaves: roll.Open()})
	}
	slices.SortFunc(page.Rolls, func(x, y proof.OpenRoll) int { return bytes.Compare(x.Label[:], y.Label[:]) })
	if _, err := w.Write(must(page.AppendText(nil))); err != nil {
		a.s.t.Error(err)
	}
}

// auditsIndex is an accredited auditor's regard-audit audit-index on the newest closed epoch up to that of the deed.
func auditsIndex(s *scene) func() error {
	s.t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, "cour.example")
	s.ok(err)
	key := s.write("cour.skey", []byte(skey))
	s.registered = append(s.registered, proof.KeyChanged{Key: "auditor.cour", Use: proof.UseAuditor, State: proof.Active, Public: proof.AuditorKey(vkey)})
	_, conn := s.connect()
	cert, priv := filepath.Join(s.dir, "cour.pem"), filepath.Join(s.dir, "cour.key")
	brokertest.WriteIdentity(s.t, conn.Certificate, cert, priv)
	ca := s.write("broker.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.served}))
	return func() error {
		dir, epoch := s.publish(), min(2, s.public().Current().Number-1)
		s.mu.Unlock()
		defer s.mu.Lock()
		return regardAudit("audit-index", "--log", dir, "--policy", s.policy, "--broker", conn.URL, "--cert", cert, "--key", priv, "--ca", ca,
			"--sign-key", key, "--epoch", epoch.String(), "--dry-run", "--json")
	}
}

// replays has all decisions about disclosures, as an auditor opens their records, run again.
func replays(s *scene) error {
	var lines bytes.Buffer
	for _, f := range s.o.Filings {
		if !f.Kind.Takes(proof.SchemaDisclosure) {
			continue
		}
		s.ok(json.NewEncoder(&lines).Encode(map[string]any{
			"index": uint64(f.Index), "kind": f.Kind, "state": "open", "receipt": string(must(s.o.Receipt(f, proof.ReaderAuditor).AppendText(nil))),
		}))
	}
	return regardAudit("replay", "--log", s.publish(), "--policy", s.policy, s.write("records.jsonl", lines.Bytes()))
}

// monitors follows the log as the public sees it, by the time of the days. hears is whose checkpoints it is also given; may be nil.
func monitors(hears func(*scene) []*hostile.Operator) *detector {
	return &detector{func(s *scene) func() error {
		s.t.Helper()
		dir := s.t.TempDir()
		return func() error {
			m, err := monitor.Open(monitor.Config{Sources: []reader.Source{must(reader.Dir(s.publish()))}, Policy: must(proof.ParsePolicy(s.policyText)), Dir: dir, Now: s.now})
			if err != nil {
				return err
			}
			defer m.Close()
			if hears != nil {
				for _, o := range hears(s) {
					if err := m.Hear(o.Checkpoint(o.Size())); err != nil {
						return err
					}
				}
			}
			st, err := m.Look(s.t.Context())
			if err == nil && st.Active() > 0 {
				err = fmt.Errorf("%+v", st.Alarms)
			}
			return err
		}
	}}
}

// everybody is all that anybody is shown.
func everybody(s *scene) []*hostile.Operator {
	return []*hostile.Operator{s.person(), s.holders()}
}
