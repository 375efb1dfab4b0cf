package audit

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/proof"
)

// some adds entries of n records about nobody in particular.
func (f *forged) some(n int) (out []proof.Index) {
	for range n {
		out = append(out, f.record(proof.SchemaAccess, func(r *proof.Record) error { return r.SetText(proof.AccessReason, "test") }))
	}
	return out
}

func (f *forged) auditIndex(b *brokerOf, skey string, args ...string) (int, []indexReport, string) {
	f.t.Helper()
	code, out, errs := run(append(append([]string{"audit-index", "--log", f.dir, "--log-key", f.vkey, "--sign-key", skey, "--json"}, b.flags()...), args...)...)
	var got []indexReport
	if out != "" {
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			f.t.Fatalf("%v: %s", err, out)
		}
	}
	return code, got, errs
}

// TestAuditIndex: what is sound is signed and published, epoch after epoch, and once.
func TestAuditIndex(t *testing.T) {
	f := newForged(t)
	skey, vkey := f.auditor("cour")
	f.close(nil, nil) // an empty epoch is one, too
	a := f.some(7)
	f.close([][]proof.Index{{a[0], a[3]}, {a[1]}, {a[2], a[4], a[5], a[6]}}, nil)
	f.some(2)
	f.publish()
	b := f.broker(nil)
	state := filepath.Join(t.TempDir(), "state")
	code, got, errs := f.auditIndex(b, skey, "--all-new", "--state", state)
	if code != Proven || len(got) != 2 || got[1].Entries != 7 || got[1].Rolls != 3 || got[1].Path != "audit/1/cour" || got[0].Entries != 0 || !got[0].Signed {
		t.Fatalf("exit code %d, %+v, %s", code, got, errs)
	}
	signed, err := os.ReadFile(filepath.Join(f.dir, "audit", "1", "cour"))
	if err != nil {
		t.Fatal(err)
	}
	said, err := proof.VerifyIndexAudit(signed, vkey)
	closing, perr := proof.ParseEntry(f.entries[f.markers[2]])
	if err != nil || perr != nil || !said.Agrees(forgedOrigin, closing.(proof.Marker)) || said.Entries != 7 {
		t.Errorf("%+v, %v, %v", said, err, perr)
	}
	if code, got, errs = f.auditIndex(b, skey, "--all-new", "--state", state); code != Proven || len(got) != 0 {
		t.Errorf("again: exit code %d, %+v, %s", code, got, errs)
	}
	f.close(alone(f.filed()), nil)
	f.publish()
	if code, got, errs = f.auditIndex(b, skey, "--all-new", "--state", state); code != Proven || len(got) != 1 || got[0].Epoch != 2 {
		t.Errorf("one more: exit code %d, %+v, %s", code, got, errs)
	}
	if code, got, errs = f.auditIndex(b, skey, "--epoch", "1", "--dry-run"); code != Proven || len(got) != 1 || got[0].Signed {
		t.Errorf("a dry run: exit code %d, %+v, %s", code, got, errs)
	}
	code, out, errs := run(append([]string{"audit-index", "--log", f.dir, "--log-key", f.vkey, "--sign-key", skey, "--epoch", "1"}, b.flags()...)...)
	if code != Proven || !strings.Contains(out, "epoch 1: SOUND, signed and published at audit/1/cour\n  7 filed entries in 3 rolls\n") {
		t.Errorf("exit code %d, %s%s", code, out, errs)
	}

	// Another history under the same key is a fork, a shorter one may be an old copy.
	fork := &forged{t: t, dir: t.TempDir(), signer: f.signer, vkey: f.vkey, label: f.label, now: f.now, records: map[proof.Index]*proof.Record{}, rolls: map[proof.Epoch]*proof.Rolls{}}
	fork.marker(nil)
	fork.add(proof.KeyChanged{Key: "auditor.cour", Use: proof.UseAuditor, State: proof.Active, Public: proof.AuditorKey(vkey)})
	fork.close(nil, nil)
	fork.publish()
	if code, _, errs = fork.auditIndex(fork.broker(nil), skey, "--all-new", "--state", state); code != Input || !strings.Contains(errs, "an old copy, or a fork") {
		t.Errorf("shorter: exit code %d, %s", code, errs)
	}
	fork.some(30)
	fork.publish()
	if code, _, errs = fork.auditIndex(fork.broker(nil), skey, "--all-new", "--state", state); code != Refused || !strings.Contains(errs, "FORK") {
		t.Errorf("a fork: exit code %d, %s", code, errs)
	}
}

// TestIndexFaults: whatever an operator does to a roll, it has a name, and nothing is signed.
func TestIndexFaults(t *testing.T) {
	type answer = func(http.ResponseWriter, *http.Request) bool
	say := func(text string) answer {
		return func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte(text))
			return r.Method == "GET"
		}
	}
	refuse := func(code string) answer {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(410)
			fmt.Fprintf(w, `{"code":%q,"title":"Gone."}`, code)
			return true
		}
	}
	for name, c := range map[string]struct {
		want []string
		do   func(f *forged) answer
	}{
		"an entry in no roll": {[]string{"entry.unfiled"}, func(f *forged) answer {
			f.close(alone(f.some(6)[1:]), nil)
			return nil
		}},
		"an entry in two rolls": {[]string{"roll.twice"}, func(f *forged) answer {
			a := f.some(4)
			f.close([][]proof.Index{{a[0], a[1]}, {a[1], a[2]}, {a[3]}}, nil)
			return nil
		}},
		"another root": {[]string{"index.root"}, func(f *forged) answer {
			f.close(alone(f.some(3)), func(c *proof.Closed) { c.Index[3] ^= 1 })
			return nil
		}},
		"another number of rolls": {[]string{"index.items"}, func(f *forged) answer {
			a := f.some(3)
			f.close([][]proof.Index{{a[0], a[1]}, {a[2]}}, func(c *proof.Closed) { c.Items++ })
			return nil
		}},
		"other counts": {[]string{"entry.unfiled", "index.counts", "index.counts"}, func(f *forged) answer {
			a := f.some(3)
			f.close(alone(a[:2]), func(c *proof.Closed) {
				c.Counts[0].N--
				c.Counts = append(c.Counts, proof.Count{Kind: proof.KindService, N: 1})
			})
			return nil
		}},
		"an entry of another epoch": {[]string{"entry.epoch"}, func(f *forged) answer {
			a := append(f.some(2), f.addAs(proof.Access{Epoch: 9, Commitment: proof.Commitment{1}}))
			f.close(alone(a), nil)
			return nil
		}},
		"a roll with an entry of the epoch before": {[]string{"roll.foreign"}, func(f *forged) answer {
			a := f.some(2)
			f.close([][]proof.Index{{a[0], 1}, {a[1]}}, nil)
			return nil
		}},
		"a roll with what isn't filed": {[]string{"roll.foreign"}, func(f *forged) answer {
			a := f.some(2)
			f.close([][]proof.Index{{a[0], f.markers[1]}, {a[1]}}, nil)
			return nil
		}},
		"a roll with too many dummies": {[]string{"entry.unfiled", "entry.unfiled", "index.form", "roll.malformed"}, func(f *forged) answer {
			a := f.some(2)
			n := f.close([][]proof.Index{a}, nil)
			r := &f.rolls[n].Rolls[0]
			big, err := proof.NewRoll(f.seed, r.Label, append(a, 1<<40, 1<<41, 1<<42))
			if err != nil {
				f.t.Fatal(err)
			}
			r.Leaves = big.Open()
			for i := range r.Leaves {
				if r.Leaves[i].Index >= 1<<40 {
					r.Leaves[i].Index = 1<<64 - 1
				}
			}
			return nil
		}},
		"a roll that isn't opened": {[]string{"entry.unfiled", "index.items"}, func(f *forged) answer {
			n := f.close(alone(f.some(5)), nil)
			f.rolls[n].Rolls = f.rolls[n].Rolls[:4]
			return nil
		}},
		"another roll is opened": {[]string{"index.root"}, func(f *forged) answer {
			n := f.close(alone(f.some(3)), nil)
			r := &f.rolls[n].Rolls[0]
			other, err := proof.NewRoll([32]byte{9}, r.Label, []proof.Index{min(r.Leaves[0].Index, r.Leaves[1].Index, r.Leaves[2].Index, r.Leaves[3].Index)})
			if err != nil {
				f.t.Fatal(err)
			}
			r.Leaves = other.Open()
			return nil
		}},
		"no page": {[]string{"rolls.form"}, func(f *forged) answer { f.close(alone(f.some(2)), nil); return say("<html>") }},
		"nothing": {[]string{"rolls.form"}, func(f *forged) answer { f.close(alone(f.some(2)), nil); return say("") }},
		"the page of another": {[]string{"rolls.form"}, func(f *forged) answer {
			f.close(alone(f.some(2)), nil)
			return say("regard/rolls@v1\nepoch 7\nmarker 9\nend\n")
		}},
		"the first page again": {[]string{"roll.order", "rolls.form"}, func(f *forged) answer {
			n := f.close(alone(f.some(3)), nil)
			page := *f.rolls[n]
			page.Rolls, page.More = page.Rolls[:2], true
			text, err := page.AppendText(nil)
			if err != nil {
				f.t.Fatal(err)
			}
			return say(string(text))
		}},
		"lost rolls that the log doesn't know of":    {[]string{"rolls.withheld"}, func(f *forged) answer { f.close(alone(f.some(2)), nil); return refuse("rolls.lost") }},
		"retired rolls that the log doesn't know of": {[]string{"rolls.withheld"}, func(f *forged) answer { f.close(alone(f.some(2)), nil); return refuse("rolls.retired") }},
		"lost rolls, and a restart that is out of order": {[]string{"rolls.withheld"}, func(f *forged) answer {
			a := f.some(2)
			f.add(proof.Restart{Reason: "restored", Size: uint64(len(f.entries)), Root: proof.Hash{1}, Lost: proof.Lost{From: a[0], To: a[1]}})
			f.close(alone(a), nil)
			return refuse("rolls.lost")
		}},
		"a lost entry in somebody's roll": {[]string{"roll.lost"}, func(f *forged) answer {
			a := f.some(3)
			f.restart("restored", a[1], a[1])
			f.close([][]proof.Index{{a[0], a[1]}, {a[2]}}, nil)
			return nil
		}},
		"an unreadable entry in somebody's roll": {[]string{"roll.lost"}, func(f *forged) answer {
			a := f.some(3)
			f.restart("unreadable.disk", a[1], a[1])
			f.close([][]proof.Index{{a[0], a[1]}, {a[2]}}, nil)
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newForged(t)
			skey, _ := f.auditor("cour")
			f.close(nil, nil)
			change := c.do(f)
			f.publish()
			code, got, errs := f.auditIndex(f.broker(change), skey, "--epoch", "1")
			if code != Refused || len(got) != 1 || got[0].Signed {
				t.Fatalf("exit code %d, %+v, %s", code, got, errs)
			}
			var codes []string
			for _, x := range got[0].Faults {
				codes = append(codes, x.Code)
				if indexFaults[x.Code] == "" || x.Place == "" {
					t.Errorf("%+v is not explained", x)
				}
			}
			slices.Sort(codes)
			if !slices.Equal(codes, c.want) || got[0].Count != len(got[0].Faults) {
				t.Errorf("%v, want %v: %+v", codes, c.want, got[0].Faults)
			}
			if _, err := os.Stat(filepath.Join(f.dir, "audit")); !errors.Is(err, os.ErrNotExist) {
				t.Error("something is published")
			}
		})
	}
}

// TestLostEntriesAlone: entries that are nobody's are in order each in a roll of its own, and counted.
func TestLostEntriesAlone(t *testing.T) {
	f := newForged(t)
	skey, _ := f.auditor("cour")
	a := f.some(4)
	f.restart("restored", a[1], a[2])
	f.close([][]proof.Index{{a[0], a[3]}, {a[1]}, {a[2]}}, nil)
	f.publish()
	code, got, errs := f.auditIndex(f.broker(nil), skey, "--epoch", "0")
	if code != Proven || got[0].Lost != 2 || !got[0].Signed {
		t.Errorf("exit code %d, %+v, %s", code, got, errs)
	}
}

// TestRollsGone: --all-new goes on behind an epoch whose rolls are gone as the log says, and behind nothing else.
func TestRollsGone(t *testing.T) {
	for gone, explain := range map[string]func(f *forged, label proof.LabelPublicKey, filed []proof.Index){
		"rolls.retired": func(f *forged, label proof.LabelPublicKey, _ []proof.Index) {
			f.add(proof.KeyChanged{Key: "label.2026-11", Use: proof.UseLabel, State: proof.Destroyed, Public: proof.Hash(label)})
		},
		"rolls.lost": func(f *forged, _ proof.LabelPublicKey, filed []proof.Index) {
			f.restart("restored", filed[0], filed[len(filed)-1])
		},
	} {
		t.Run(gone, func(t *testing.T) {
			f := newForged(t)
			skey, _ := f.auditor("cour")
			first := f.some(3)
			label := f.label.Public()
			var err error
			if f.label, err = proof.NewLabelKey(rand.Reader); err != nil {
				t.Fatal(err)
			}
			f.close(alone(first), nil)
			f.close(alone(f.some(2)), nil)
			explain(f, label, first)
			f.close(alone(f.some(2)), nil)
			f.publish()
			refusing := func(codes map[string]string) *brokerOf {
				return f.broker(func(w http.ResponseWriter, r *http.Request) bool {
					code := codes[r.PathValue("epoch")]
					if r.Method != "GET" || code == "" {
						return false
					}
					w.WriteHeader(410)
					fmt.Fprintf(w, `{"code":%q,"title":"Gone."}`, code)
					return true
				})
			}
			state := filepath.Join(t.TempDir(), "state")
			for _, c := range []struct {
				name   string
				codes  map[string]string
				dry    bool
				want   int
				epochs []uint64 // that are reported
				signed int
				says   string
			}{
				{"a dry run", map[string]string{"0": gone}, true, Input, []uint64{0, 1, 2}, 0, gone},
				{"the next isn't opened", map[string]string{"0": gone, "1": "caller.agency"}, false, Input, []uint64{0}, 0, "caller.agency"},
				{"it isn't opened again", map[string]string{"0": gone, "1": "caller.agency"}, false, Input, []uint64{}, 0, "caller.agency"},
				{"nothing explains that the next is gone", map[string]string{"0": gone, "1": gone}, false, Refused, []uint64{1, 2}, 1, ""},
				{"the next is there", map[string]string{"0": gone}, false, Proven, []uint64{1, 2}, 2, ""},
				{"all is done", map[string]string{"0": gone}, false, Proven, []uint64{}, 0, ""},
			} {
				args := []string{"--all-new", "--state", state}
				if c.dry {
					args = append(args, "--dry-run")
				}
				code, got, errs := f.auditIndex(refusing(c.codes), skey, args...)
				epochs, signed := []uint64{}, 0
				for _, r := range got {
					epochs = append(epochs, r.Epoch)
					if r.Signed {
						signed++
					}
					if want := map[bool]string{true: gone}[r.Epoch == 0]; r.Gone != want {
						t.Errorf("%s: epoch %d is gone for %q, want %q", c.name, r.Epoch, r.Gone, want)
					}
				}
				if code != c.want || !slices.Equal(epochs, c.epochs) || signed != c.signed || !strings.Contains(errs, c.says) {
					t.Errorf("%s: exit code %d, %+v, %s", c.name, code, got, errs)
				}
			}
			code, out, errs := run(append([]string{"audit-index", "--log", f.dir, "--log-key", f.vkey, "--sign-key", skey, "--epoch", "0"}, refusing(map[string]string{"0": gone}).flags()...)...)
			if code != Input || !strings.HasPrefix(out, "epoch 0: GONE ("+gone+"): ") || !strings.HasSuffix(out, "\n  3 filed entries\n") || !strings.Contains(errs, "the log says why") {
				t.Errorf("exit code %d, %s%s", code, out, errs)
			}
			if _, err := os.Stat(filepath.Join(f.dir, "audit", "0")); !errors.Is(err, os.ErrNotExist) {
				t.Error("something is published about what is gone")
			}
		})
	}
}

// TestIndexUnusable: what can't be checked is neither sound nor faulty.
func TestIndexUnusable(t *testing.T) {
	f := newForged(t)
	skey, _ := f.auditor("cour")
	a := f.some(3)
	f.close(alone(a), nil)
	f.restart("restored", a[0], a[0]) // of an epoch that was closed before
	f.add(proof.KeyChanged{Key: "label.2026-11", Use: proof.UseLabel, State: proof.Destroyed, Public: proof.Hash(f.label.Public())})
	f.publish()
	good := f.broker(nil)
	gone := func(code string) *brokerOf {
		return f.broker(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(410)
			fmt.Fprintf(w, `{"code":%q,"title":"Gone."}`, code)
			return true
		})
	}
	unknown := write(t, t.TempDir(), "skey", must(note.GenerateKey(rand.Reader, "cour.example")))
	silent := f.broker(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "PUT" {
			fmt.Fprint(w, `{"path":"audit/0/cour"}`)
			return true
		}
		return false
	})
	for name, c := range map[string]struct {
		b    *brokerOf
		skey string
		args []string
		says string
	}{
		"an open epoch": {good, skey, []string{"--epoch", "1"}, "isn't closed"}, "no epoch": {good, skey, nil, "--epoch or --all-new"}, "both": {good, skey, []string{"--epoch", "0", "--all-new"}, "--epoch or --all-new"},
		"an unknown key": {good, unknown, []string{"--epoch", "0"}, "doesn't name your key"}, "no key": {good, f.dir + "/checkpoint", []string{"--epoch", "0"}, "no private key"}, "no file": {good, "none", []string{"--epoch", "0"}, "no such file"},
		"lost": {gone("rolls.lost"), skey, []string{"--epoch", "0"}, "rolls.lost"}, "retired": {gone("rolls.retired"), skey, []string{"--epoch", "0"}, "rolls.retired"}, "refused": {gone("caller.agency"), skey, []string{"--epoch", "0"}, "caller.agency"},
		"not published": {silent, skey, []string{"--epoch", "0"}, "the log doesn't serve it"}, "a broken state": {good, skey, []string{"--epoch", "0", "--state", f.dir + "/checkpoint"}, "no state of audit-index"},
		"arguments": {good, skey, []string{"--epoch", "0", "more"}, "takes no arguments"},
	} {
		code, _, errs := f.auditIndex(c.b, c.skey, c.args...)
		if code != Input || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit code %d, %s", name, code, errs)
		}
	}
	for name, args := range map[string][]string{
		"no log": {"--log-key", f.vkey}, "another log's key": {"--log", f.dir, "--log-key", mustSecond(note.GenerateKey(rand.Reader, forgedOrigin))}, "nowhere": {"--log", "/none", "--log-key", f.vkey}, "no log key": {"--log", f.dir},
	} {
		code, out, errs := run(append(append([]string{"audit-index", "--epoch", "0", "--sign-key", skey}, good.flags()...), args...)...)
		if code != Input || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, %s%s", name, code, out, errs)
		}
	}
	for name, args := range map[string][]string{
		"http": {"--broker", "http://localhost", "--cert", good.cert, "--key", good.key}, "no certificate": {"--broker", good.URL}, "no such": {"--broker", good.URL, "--cert", "none", "--key", "none"}, "no authority": {"--broker", good.URL, "--cert", good.cert, "--key", good.key, "--ca", good.key},
	} {
		code, out, errs := run(append([]string{"audit-index", "--epoch", "0", "--sign-key", skey, "--log", f.dir, "--log-key", f.vkey}, args...)...)
		if code != Input || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, %s%s", name, code, out, errs)
		}
	}
	// A marker that contradicts the one before.
	g := newForged(t)
	skey, _ = g.auditor("cour")
	g.close(nil, func(c *proof.Closed) { c.Previous[0] ^= 1 })
	g.publish()
	if code, _, errs := g.auditIndex(g.broker(nil), skey, "--epoch", "0"); code != Input || !strings.Contains(errs, "markers") {
		t.Errorf("markers: exit code %d, %s", code, errs)
	}
}

func must(skey, _ string, err error) string {
	if err != nil {
		panic(err)
	}
	return skey
}

func mustSecond(_, vkey string, err error) string {
	if err != nil {
		panic(err)
	}
	return vkey
}

func TestKeygen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cour.skey")
	code, out, errs := run("keygen", "cour.example", "--out", file)
	if _, err := note.NewVerifier(strings.TrimSpace(out)); code != Proven || err != nil {
		t.Fatalf("exit code %d, %s%s", code, out, errs)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	_, vkey, err := readSigner(Root(), file)
	if err != nil || vkey != strings.TrimSpace(out) {
		t.Errorf("%q, %v, want %q", vkey, err, out)
	}
	for _, args := range [][]string{{"keygen"}, {"keygen", "a"}, {"keygen", "a", "b", "--out", file + "1"}, {"keygen", "a b", "--out", file + "2"}, {"keygen", "a+b", "--out", file + "3"}, {"keygen", "cour.example", "--out", file}} {
		if code, out, _ := run(args...); code != Input || out != "" {
			t.Errorf("%v: exit code %d, %s", args, code, out)
		}
	}
}
