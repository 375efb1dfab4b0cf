package audit

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// forged is a log of a test's choice: what an honest broker refuses to write stands in it, too.
type forged struct {
	t      testing.TB
	dir    string
	signer note.Signer
	vkey   string
	label  proof.LabelKey
	now    time.Time

	entries [][]byte
	markers []proof.Index
	counts  map[proof.Kind]uint64
	records map[proof.Index]*proof.Record
	delay   func(proof.Commitment) proof.Entry // instead of an entry that tells at once
	seed    [32]byte
	rolls   map[proof.Epoch]*proof.Rolls // as the broker opens them
	note    []byte
	tree    *tiles.Tree
}

const forgedOrigin = "forged.example/log"

func newForged(t testing.TB) *forged {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, forgedOrigin)
	if err != nil {
		t.Fatal(err)
	}
	f := &forged{t: t, dir: t.TempDir(), vkey: vkey, now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), records: map[proof.Index]*proof.Record{}, rolls: map[proof.Epoch]*proof.Rolls{}, seed: [32]byte{7}}
	if f.signer, err = note.NewSigner(skey); err != nil {
		t.Fatal(err)
	}
	if f.label, err = proof.NewLabelKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	f.marker(nil)
	return f
}

func (f *forged) marker(c *proof.Closed) {
	m := proof.Marker{Epoch: proof.Epoch(len(f.markers)), Opened: proof.TimeOf(f.now), Until: proof.TimeOf(f.now.Add(24 * time.Hour)), VRF: f.label.Public(), Closed: c}
	text, err := m.AppendText(nil)
	if err != nil {
		f.t.Fatal(err)
	}
	f.markers = append(f.markers, proof.Index(len(f.entries)))
	f.entries = append(f.entries, text)
	f.counts = map[proof.Kind]uint64{proof.KindEpoch: 1}
}

func (f *forged) epoch() proof.Epoch { return proof.Epoch(len(f.markers) - 1) }

func (f *forged) add(e proof.Entry) proof.Index { return f.addAs(e.WithEpoch(f.epoch())) }

// addAs leaves the entry the epoch that it says.
func (f *forged) addAs(e proof.Entry) proof.Index {
	f.t.Helper()
	text, err := proof.EntryText(e)
	if err != nil {
		f.t.Fatal(err)
	}
	f.entries = append(f.entries, text)
	f.counts[e.Kind()]++
	return proof.Index(len(f.entries) - 1)
}

// blob publishes bytes and returns their digest.
func (f *forged) blob(b []byte) proof.Hash {
	f.t.Helper()
	h := proof.Hash(sha256.Sum256(b))
	if err := tiles.WriteFile(f.dir, "blob/"+hex.EncodeToString(h[:]), b); err != nil {
		f.t.Fatal(err)
	}
	return h
}

// record adds an entry of a record; about says what it holds.
func (f *forged) record(s proof.Schema, about func(*proof.Record) error) proof.Index {
	f.t.Helper()
	rec, err := proof.NewRecord(s, rand.Reader)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := about(rec); err != nil {
		f.t.Fatal(err)
	}
	i := f.add(f.entryOf(s, rec.Commitment()))
	f.records[i] = rec
	return i
}

// entryOf is the entry of a record: deferred, or the end of a delay, if the test says so.
func (f *forged) entryOf(s proof.Schema, c proof.Commitment) proof.Entry {
	if f.delay != nil {
		return f.delay(c)
	}
	var e proof.Entry = proof.Disclosure{Commitment: c}
	switch s {
	case proof.SchemaAccess:
		e = proof.Access{Commitment: c}
	case proof.SchemaErasure:
		e = proof.Erasure{Commitment: c}
	}
	return e
}

// filed lists the filed entries of the open epoch.
func (f *forged) filed() (out []proof.Index) {
	for i := f.markers[len(f.markers)-1]; int(i) < len(f.entries); i++ {
		if kind, _, err := proof.ParseHead(f.entries[i]); err == nil && kind.Filed() {
			out = append(out, i)
		}
	}
	return out
}

// alone puts every entry into a roll of its own.
func alone(indexes []proof.Index) (out [][]proof.Index) {
	for _, i := range indexes {
		out = append(out, []proof.Index{i})
	}
	return out
}

// close ends the epoch with these rolls. change, if any, alters what the marker says.
func (f *forged) close(rolls [][]proof.Index, change func(*proof.Closed)) proof.Epoch {
	f.t.Helper()
	n := f.epoch()
	page := &proof.Rolls{Epoch: n, Marker: proof.Index(len(f.entries))}
	roots := map[proof.Label]proof.Hash{}
	for _, indexes := range rolls {
		var z proof.Label
		if _, err := rand.Read(z[:]); err != nil {
			f.t.Fatal(err)
		}
		r, err := proof.NewRoll(f.seed, z, indexes)
		if err != nil {
			f.t.Fatal(err)
		}
		roots[z] = r.Root()
		page.Rolls = append(page.Rolls, proof.OpenRoll{Label: z, Leaves: r.Open()})
	}
	slices.SortFunc(page.Rolls, func(a, b proof.OpenRoll) int { return slices.Compare(a.Label[:], b.Label[:]) })
	sum, err := proof.BuildIndex(n, uint64(len(page.Rolls)), func(yield func(proof.Label, proof.Hash) bool) {
		for _, r := range page.Rolls {
			if !yield(r.Label, roots[r.Label]) {
				return
			}
		}
	}, nil)
	if err != nil {
		f.t.Fatal(err)
	}
	opener := f.markers[n]
	c := &proof.Closed{Previous: proof.LeafHash(f.entries[opener]), First: opener, Size: uint64(len(f.entries)) - uint64(opener), Items: sum.Items, Bits: sum.Bits, Index: sum.Root}
	for kind, n := range f.counts {
		c.Counts = append(c.Counts, proof.Count{Kind: kind, N: n})
	}
	slices.SortFunc(c.Counts, func(a, b proof.Count) int { return strings.Compare(string(a.Kind), string(b.Kind)) })
	if change != nil {
		change(c)
	}
	f.now = f.now.Add(24 * time.Hour)
	f.rolls[n] = page
	f.marker(c)
	return n
}

// restart says that entries were lost.
func (f *forged) restart(reason string, from, to proof.Index) {
	f.t.Helper()
	w := tiles.Create(f.t.TempDir())
	for _, e := range f.entries {
		if err := w.Append(e); err != nil {
			f.t.Fatal(err)
		}
	}
	f.add(proof.Restart{Reason: reason, Size: uint64(len(f.entries)), Root: w.Root(), Lost: proof.Lost{From: from, To: to}})
}

// publish signs and writes all of it.
func (f *forged) publish() {
	f.t.Helper()
	w := tiles.Create(f.dir)
	for _, e := range f.entries {
		if err := w.Append(e); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		f.t.Fatal(err)
	}
	root := w.Root()
	f.tree = &tiles.Tree{Dir: f.dir, Size: w.Size(), Root: root}
	var err error
	f.note, err = note.Sign(&note.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", forgedOrigin, w.Size(), base64.StdEncoding.EncodeToString(root[:]))}, f.signer)
	if err != nil {
		f.t.Fatal(err)
	}
	if err := tiles.WriteFile(f.dir, "checkpoint", f.note); err != nil {
		f.t.Fatal(err)
	}
}

// opened gives records as an auditor gets them opened, as JSON lines in a file.
func (f *forged) opened(indexes ...proof.Index) string {
	f.t.Helper()
	var out strings.Builder
	for _, i := range indexes {
		path, err := f.tree.Inclusion(uint64(i))
		if err != nil {
			f.t.Fatal(err)
		}
		r, err := proof.NewReceipt(proof.Proven{Index: i, Text: f.entries[i], Path: path}, f.records[i].Open(proof.ReaderAuditor), f.note, nil)
		if err != nil {
			f.t.Fatal(err)
		}
		text, err := r.AppendText(nil)
		if err != nil {
			f.t.Fatal(err)
		}
		b, err := json.Marshal(openedEntry{Index: uint64(i), Kind: string(r.Entry().Kind()), State: stateOpen, Receipt: string(text)})
		if err != nil {
			f.t.Fatal(err)
		}
		out.Write(append(b, '\n'))
	}
	return write(f.t.(*testing.T), f.t.TempDir(), "records.jsonl", out.String())
}

// auditor registers a key and returns the file with its private half.
func (f *forged) auditor(id string) (skey, vkey string) {
	f.t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, id+".example")
	if err != nil {
		f.t.Fatal(err)
	}
	f.add(proof.KeyChanged{Key: "auditor." + id, Use: proof.UseAuditor, State: proof.Active, Public: proof.AuditorKey(vkey)})
	return write(f.t.(*testing.T), f.t.TempDir(), "skey", skey+"\n"), vkey
}

// brokerOf serves a forged log's rolls and takes statements, as a broker does. change may answer instead.
type brokerOf struct {
	*httptest.Server
	cert, key, ca string
}

func (f *forged) broker(change func(http.ResponseWriter, *http.Request) bool) *brokerOf {
	f.t.Helper()
	mux := http.NewServeMux()
	refuse := func(w http.ResponseWriter, status int, code string) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"status":%d,"code":%q,"title":"No.","detail":""}`, status, code)
	}
	mux.HandleFunc("GET /v1/audit/epochs/{epoch}/rolls", func(w http.ResponseWriter, r *http.Request) {
		if change != nil && change(w, r) {
			return
		}
		for n, page := range f.rolls {
			if n.String() != r.PathValue("epoch") {
				continue
			}
			// Pages of two rolls, so that there are several.
			part := *page
			if after := r.URL.Query().Get("after"); after != "" {
				z, err := base64.RawURLEncoding.DecodeString(after)
				if err != nil {
					refuse(w, 400, "request.invalid")
					return
				}
				at := slices.IndexFunc(page.Rolls, func(r proof.OpenRoll) bool { return slices.Compare(r.Label[:], z) > 0 })
				if part.Rolls = nil; at >= 0 {
					part.Rolls = page.Rolls[at:]
				}
			}
			if len(part.Rolls) > 2 {
				part.Rolls, part.More = part.Rolls[:2], true
			}
			text, err := part.AppendText(nil)
			if err != nil {
				f.t.Error(err)
			}
			_, _ = w.Write(text)
			return
		}
		refuse(w, 404, "epoch.open")
	})
	mux.HandleFunc("PUT /v1/audit/epochs/{epoch}/statement", func(w http.ResponseWriter, r *http.Request) {
		if change != nil && change(w, r) {
			return
		}
		b := make([]byte, 8<<10)
		n, _ := r.Body.Read(b)
		for n < len(b) {
			m, err := r.Body.Read(b[n:])
			if n += m; err != nil {
				break
			}
		}
		name := "audit/" + r.PathValue("epoch") + "/cour"
		if err := tiles.WriteFile(f.dir, name, b[:n]); err != nil {
			f.t.Error(err)
		}
		fmt.Fprintf(w, `{"path":%q}`, name)
	})
	mux.HandleFunc("/v1/audit/", func(w http.ResponseWriter, r *http.Request) {
		if change == nil || !change(w, r) {
			refuse(w, 404, "request.path")
		}
	})
	dir := f.t.TempDir()
	b := &brokerOf{Server: httptest.NewUnstartedServer(mux), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), ca: filepath.Join(dir, "ca.pem")}
	own := brokertest.NewCurrentIdentity(f.t, "localhost")
	b.TLS = &tls.Config{Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAnyClientCert}
	b.StartTLS()
	f.t.Cleanup(b.Close)
	brokertest.WriteIdentity(f.t, brokertest.NewCurrentIdentity(f.t, "cour"), b.cert, b.key)
	if err := os.WriteFile(b.ca, brokertest.CertificatePEM(own), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return b
}

func (b *brokerOf) flags() []string {
	return []string{"--broker", b.URL, "--cert", b.cert, "--key", b.key, "--ca", b.ca}
}
