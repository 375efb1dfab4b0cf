package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
	"github.com/regard-broker/regard/policy"
)

// decided is a record of a decision, as a test wants it.
type decided struct {
	*forged
	engine    *policy.Engine
	bundle    policy.Activation
	agreement policy.Agreement
	digest    policy.Digest
}

func newDecided(t *testing.T) *decided {
	t.Helper()
	d := &decided{forged: newForged(t)}
	var err error
	if d.engine, err = policy.New(t.Context(), policy.Config{Source: policy.Embedded(), Activate: func(_ context.Context, a policy.Activation) error { d.bundle = a; return nil }}); err != nil {
		t.Fatal(err)
	}
	d.activate(d.bundle)
	d.agreement = policy.Agreement{
		ID: "cantine", Version: 1, Agency: "mairie", Service: "household", Scopes: []policy.Scope{"quotient"}, Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: d.now.AddDate(-1, 0, 0), NotAfter: d.now.AddDate(1, 0, 0), State: policy.AgreementActive,
	}
	d.agree()
	return d
}

func (d *decided) activate(a policy.Activation) {
	d.t.Helper()
	d.blob(a.Bytes)
	d.add(proof.PolicyActivated{Revision: a.Revision, Bundle: proof.Hash(a.Digest)})
}

// agree puts the agreement, as it is now, into the log.
func (d *decided) agree() {
	d.t.Helper()
	text, err := d.agreement.Canonical()
	if err != nil {
		d.t.Fatal(err)
	}
	d.digest = policy.Digest(d.blob(text))
	d.add(proof.AgreementChanged{Agreement: string(d.agreement.ID), Version: uint64(d.agreement.Version), State: proof.Status(d.agreement.State), Digest: proof.Hash(d.digest)})
}

// plan is what a record says; a test changes it before it is written.
type plan struct {
	in       policy.Input
	role     string
	bundle   policy.Digest
	outcome  string
	cause    string
	reasons  []string
	released []string
	trace    string
	fields   map[proof.Field]string // instead of what the input says
}

// ask records a request as an honest broker does, but for what change does.
func (d *decided) ask(change func(*plan)) proof.Index {
	d.t.Helper()
	a := d.agreement
	p := &plan{in: policy.Input{
		Agency: policy.Agency{ID: "mairie", SIRET: "21750001600019", State: policy.AgencyActive}, Agreement: &a, AgreementDigest: d.digest,
		Service: policy.Service{ID: "household", Version: 1, Provider: "caisse", SubjectTypes: []policy.SubjectType{"pivot"}, Scopes: map[policy.Scope][]policy.Pointer{"quotient": {"/data/quotient/valeur"}}},
		Scopes:  []policy.Scope{"quotient"}, Purpose: "cantine", LegalBasis: "crpa-l114-8", Recipient: "21750001600019", HasContext: true, HasObject: true, SubjectType: "pivot", Channel: policy.ChannelAPI, Time: d.now.Add(time.Hour),
	}, role: proof.RoleAsked, bundle: d.bundle.Digest, fields: map[proof.Field]string{}, trace: "0af7651916cd43dd8448eb211c80319c"}
	if change != nil {
		change(p)
	}
	canonical, err := p.in.Canonical()
	if err != nil {
		d.t.Fatal(err)
	}
	if p.outcome == "" {
		dec, err := d.engine.Decide(d.t.Context(), p.in)
		if err != nil {
			d.t.Fatal(err)
		}
		if grant, ok := dec.Granted(); ok {
			p.outcome, p.released = proof.OutcomeReleased, texts(grant.Fields())
		} else {
			p.outcome, p.reasons = proof.OutcomeDenied, texts(dec.Codes())
		}
	}
	ref := ""
	if p.in.Agreement != nil {
		ref = fmt.Sprintf("%s@%d", p.in.Agreement.ID, p.in.Agreement.Version)
	}
	texts := map[proof.Field]string{
		proof.DisclosureID: "01a20ac2-88da-7d36-98b8-e03e4bb98177", proof.DisclosureRole: p.role, proof.DisclosureAgency: string(p.in.Agency.ID), proof.DisclosureRecipient: string(p.in.Recipient), proof.DisclosureOfficial: "agent-7",
		proof.DisclosureProvider: string(p.in.Service.Provider), proof.DisclosureService: fmt.Sprintf("%s@%d", p.in.Service.ID, p.in.Service.Version), proof.DisclosurePurpose: string(p.in.Purpose),
		proof.DisclosureLegalBasis: string(p.in.LegalBasis), proof.DisclosureAgreement: ref, proof.DisclosurePolicy: p.bundle.String(), proof.DisclosureInput: string(canonical), proof.DisclosureOutcome: p.outcome,
		proof.DisclosureCause: p.cause, proof.DisclosureAskedAt: fmt.Sprint(p.in.Time.UnixMilli()), proof.DisclosureAnsweredAt: fmt.Sprint(p.in.Time.UnixMilli() + 250), proof.DisclosureTraceID: p.trace,
	}
	for f, v := range p.fields {
		texts[f] = v
	}
	return d.record(proof.SchemaDisclosure, func(r *proof.Record) error {
		subject, err := proof.Pivot{BirthName: "EXEMPLE", GivenNames: "ZOE", BirthDate: "1984-02-29", Sex: "F", BirthPlace: "75056"}.Subject()
		if err == nil {
			err = r.SetSubject(subject)
		}
		for f, v := range texts {
			if v != "" && err == nil {
				err = r.SetText(f, v)
			}
		}
		for f, list := range map[proof.Field][]string{proof.DisclosureRequested: {"/data/quotient/valeur"}, proof.DisclosureObtained: p.released, proof.DisclosureReleased: p.released, proof.DisclosureReasons: p.reasons} {
			if err == nil {
				err = r.SetList(f, list)
			}
		}
		return err
	})
}

func (d *decided) replay(args ...string) (int, replayReport, string) {
	d.t.Helper()
	code, out, errs := run(append([]string{"replay", "--log", d.dir, "--log-key", d.vkey, "--json"}, args...)...)
	var got replayReport
	if out != "" {
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			d.t.Fatalf("%v: %s", err, out)
		}
	}
	return code, got, errs
}

// TestReplayFindsWrongDecisions: whatever is recorded of a decision that wasn't so has a name.
func TestReplayFindsWrongDecisions(t *testing.T) {
	other := `package regard.decision

grant := {"scopes": input.scopes, "fields": input.service.scopes, "obligations": []} if active

active if input.agency.state == "active"

reasons contains {"code": "agency.inactive", "fr": "Non.", "en": "No."} if not active
`
	lax, err := policy.NewBundle(map[string][]byte{"p.rego": []byte(other)})
	if err != nil {
		t.Fatal(err)
	}
	laxBundle := policy.Activation{Digest: lax.Digest(), Revision: lax.Revision(), Bytes: lax.Bytes()}
	wrongPurpose := func(p *plan) { p.in.Purpose = "curiosite" }
	for name, c := range map[string]struct {
		want  []string // differences, sorted; none: it is as it should be
		notes int
		do    func(d *decided) proof.Index
	}{
		"granted": {nil, 0, func(d *decided) proof.Index { return d.ask(nil) }},
		"refused": {nil, 0, func(d *decided) proof.Index { return d.ask(wrongPurpose) }},
		"without an agreement": {nil, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) { p.in.Agreement, p.in.AgreementDigest = nil, policy.Digest{} })
		}},
		"failed": {nil, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) { p.outcome, p.cause = proof.OutcomeFailed, "provider/timeout" })
		}},
		"released in spite of policy": {[]string{"allow", "fields", "reasons"}, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) {
				wrongPurpose(p)
				p.outcome, p.released = proof.OutcomeReleased, []string{"/data/quotient/valeur"}
			})
		}},
		"refused in spite of policy": {[]string{"allow", "reasons"}, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) { p.outcome, p.reasons = proof.OutcomeDenied, []string{"purpose.not_covered"} })
		}},
		"more fields": {[]string{"fields"}, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) {
				p.outcome, p.released = proof.OutcomeReleased, []string{"/data/adresse", "/data/quotient/valeur"}
			})
		}},
		"another reason": {[]string{"reasons"}, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) {
				wrongPurpose(p)
				p.outcome, p.reasons = proof.OutcomeDenied, []string{"scope.not_covered"}
			})
		}},
		"a bundle that was never logged": {[]string{"policy"}, 0, func(d *decided) proof.Index {
			d.blob(laxBundle.Bytes)
			return d.ask(func(p *plan) { p.bundle = laxBundle.Digest })
		}},
		"a bundle that was logged later": {[]string{"policy"}, 0, func(d *decided) proof.Index {
			i := d.ask(func(p *plan) { p.bundle = laxBundle.Digest })
			d.activate(laxBundle)
			return i
		}},
		"a bundle of epochs ago": {[]string{"policy"}, 0, func(d *decided) proof.Index {
			d.activate(laxBundle)
			d.close(nil, nil)
			return d.ask(nil)
		}},
		"a bundle that was superseded meanwhile": {nil, 1, func(d *decided) proof.Index {
			d.activate(laxBundle)
			return d.ask(nil)
		}},
		"a bundle that came back": {nil, 0, func(d *decided) proof.Index {
			d.activate(laxBundle)
			d.close(nil, nil)
			d.activate(d.bundle)
			return d.ask(nil)
		}},
		"another bundle's answer": {[]string{"allow", "reasons"}, 0, func(d *decided) proof.Index { // refused by a stricter one
			d.activate(laxBundle)
			return d.ask(func(p *plan) {
				wrongPurpose(p)
				p.bundle, p.outcome, p.reasons = laxBundle.Digest, proof.OutcomeDenied, []string{"purpose.not_covered"}
			})
		}},
		"an agreement that was never logged": {[]string{"agreement"}, 0, func(d *decided) proof.Index {
			d.agreement.Scopes, d.agreement.Version = []policy.Scope{"members", "quotient"}, 2
			digest, err := d.agreement.Digest()
			if err != nil {
				d.t.Fatal(err)
			}
			d.digest = digest
			return d.ask(nil)
		}},
		"an agreement that was revoked epochs ago": {[]string{"agreement"}, 0, func(d *decided) proof.Index {
			old, digest := d.agreement, d.digest
			d.agreement.Version, d.agreement.State = 2, policy.AgreementRevoked
			d.agree()
			d.close(nil, nil)
			d.agreement, d.digest = old, digest
			return d.ask(nil)
		}},
		"an agreement that was revoked meanwhile": {nil, 1, func(d *decided) proof.Index {
			old, digest := d.agreement, d.digest
			d.agreement.Version, d.agreement.State = 2, policy.AgreementRevoked
			d.agree()
			d.agreement, d.digest = old, digest
			return d.ask(nil)
		}},
		"the refusal of a revoked agreement": {nil, 0, func(d *decided) proof.Index {
			d.agreement.Version, d.agreement.State = 2, policy.AgreementRevoked
			d.agree()
			return d.ask(nil)
		}},
		"another purpose than the policy was told": {[]string{"input: purpose"}, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) { p.fields[proof.DisclosurePurpose] = "curiosite" })
		}},
		"another agency, recipient, provider, service, basis, agreement and time": {[]string{
			"input: agency", "input: agreement", "input: legal_basis", "input: provider", "input: recipient", "input: service", "input: time",
		}, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) {
				p.fields = map[proof.Field]string{
					proof.DisclosureAgency: "prefecture", proof.DisclosureRecipient: "13002526500013", proof.DisclosureProvider: "autre", proof.DisclosureService: "household@2",
					proof.DisclosureLegalBasis: "autre", proof.DisclosureAgreement: "cantine@2", proof.DisclosureAskedAt: "1",
				}
			})
		}},
		"an input that is none": {[]string{"input"}, 0, func(d *decided) proof.Index {
			return d.ask(func(p *plan) { p.fields[proof.DisclosureInput] = `{"agency":"mairie"}` })
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecided(t)
			i := c.do(d)
			d.publish()
			code, got, errs := d.replay(d.opened(i))
			if len(got.Decisions) != 1 || got.Unusable != 0 {
				t.Fatalf("exit code %d, %+v, %s", code, got, errs)
			}
			x := got.Decisions[0]
			var what []string
			for _, v := range x.Differences {
				what = append(what, v.What)
			}
			slices.Sort(what)
			if !slices.Equal(what, c.want) || len(x.Notes) != c.notes || (code == Refused) != (len(c.want) > 0) || code == Input {
				t.Errorf("exit code %d, %v, want %v: %+v", code, what, c.want, x)
			}
		})
	}
}

// TestReplayFindsWrongDelays: what is told later, or at once, and shouldn't be.
func TestReplayFindsWrongDelays(t *testing.T) {
	agreed := proof.Deferred{Authority: "Tribunal judiciaire d'Exempleville", Article: "CPP art. 60-1", Month: "2026-12"}
	delaying := func(d *decided) {
		d.agreement.Version++
		d.agreement.Deferral = &policy.Deferral{Authority: agreed.Authority, Article: agreed.Article, Reference: "2026/118", Days: 40} // from 1 November on
		d.agree()
	}
	later := func(d *decided, change func(*proof.Deferred)) func(proof.Commitment) proof.Entry {
		return func(c proof.Commitment) proof.Entry {
			e := agreed
			e.Commitment = c
			change(&e)
			return e
		}
	}
	as := func(*proof.Deferred) {}
	ended := func(d *decided, i proof.Index, change func(*proof.Opened)) proof.Index {
		o := proof.Opened{Deferred: i, Commitment: d.records[i].Commitment()}
		change(&o)
		at := d.add(o)
		d.records[at] = d.records[i]
		return at
	}
	access := func(d *decided, target proof.Index) proof.Index {
		return d.record(proof.SchemaAccess, func(r *proof.Record) error { return r.SetIndex(proof.AccessTarget, target) })
	}
	// looked has a delayed decision and a delayed access to its record, and ends them as end does.
	looked := func(end func(d *decided, i, a proof.Index) proof.Index) func(*decided) proof.Index {
		return func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			i := d.ask(nil)
			return end(d, i, access(d, i))
		}
	}
	none := func(*proof.Opened) {}
	turn := func(d *decided) { d.close(alone(d.filed()), nil) }
	for name, c := range map[string]struct {
		want bool
		do   func(d *decided) proof.Index
	}{
		"an access that tells of the delay": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			i := d.ask(nil)
			d.delay = nil
			return access(d, i)
		}},
		"an access at once, after the end": {false, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			i := d.ask(nil)
			ended(d, i, none)
			d.delay = nil
			return access(d, i)
		}},
		"an access that is delayed after the end": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			i := d.ask(nil)
			ended(d, i, none)
			return access(d, i)
		}},
		"an access to what is yet to come": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			a := access(d, proof.Index(len(d.entries)+1))
			d.ask(nil)
			return a
		}},
		"an access, told with its record": {false, looked(func(d *decided, i, a proof.Index) proof.Index { ended(d, i, none); return ended(d, a, none) })},
		"an access, told in the next epoch": {false, looked(func(d *decided, i, a proof.Index) proof.Index {
			ended(d, i, none)
			turn(d)
			return ended(d, a, none)
		})},
		"an access, told before its record": {true, looked(func(d *decided, i, a proof.Index) proof.Index {
			a = ended(d, a, none)
			turn(d)
			ended(d, i, none)
			return a
		})},
		"an access, told while its record isn't": {true, looked(func(d *decided, _, a proof.Index) proof.Index { return ended(d, a, none) })},
		"an access, told long after its record": {true, looked(func(d *decided, i, a proof.Index) proof.Index {
			ended(d, i, none)
			turn(d)
			turn(d)
			return ended(d, a, none)
		})},
		"an access that was lost before it was told": {false, looked(func(d *decided, i, a proof.Index) proof.Index {
			ended(d, i, none)
			turn(d)
			d.restart("restored", a, a)
			turn(d)
			return a
		})},
		"an access, not told after its record": {true, looked(func(d *decided, i, a proof.Index) proof.Index {
			ended(d, i, none)
			turn(d)
			turn(d)
			return a
		})},

		"as agreed": {false, func(d *decided) proof.Index { delaying(d); d.delay = later(d, as); return d.ask(nil) }},
		"its end": {false, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			return ended(d, d.ask(nil), func(*proof.Opened) {})
		}},
		"refused, as agreed": {false, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			return d.ask(func(p *plan) { p.in.Purpose = "curiosite" })
		}},
		"without an agreement that says so": {true, func(d *decided) proof.Index { d.delay = later(d, as); return d.ask(nil) }},
		"without any agreement": {true, func(d *decided) proof.Index {
			d.delay = later(d, as)
			return d.ask(func(p *plan) { p.in.Agreement, p.in.AgreementDigest = nil, policy.Digest{} })
		}},
		"at once": {true, func(d *decided) proof.Index { delaying(d); return d.ask(nil) }},
		"for longer": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, func(e *proof.Deferred) { e.Month = "2027-01" })
			return d.ask(nil)
		}},
		"by another authority": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, func(e *proof.Deferred) { e.Authority = "Préfecture" })
			return d.ask(nil)
		}},
		"by another article": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, func(e *proof.Deferred) { e.Article = "CPP art. 77-1" })
			return d.ask(nil)
		}},
		"the end of nothing": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = func(c proof.Commitment) proof.Entry { return proof.Opened{Deferred: 1, Commitment: c} }
			return d.ask(nil)
		}},
		"the end of another's": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			first := d.ask(nil)
			d.delay = func(c proof.Commitment) proof.Entry { return proof.Opened{Deferred: first, Commitment: c} }
			return d.ask(nil)
		}},
		"an access, with its record": {false, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			return access(d, d.ask(nil))
		}},
		"an access to what was told": {true, func(d *decided) proof.Index {
			i := d.ask(nil)
			d.delay = later(d, as)
			return access(d, i)
		}},
		"an access, for longer": {true, func(d *decided) proof.Index {
			delaying(d)
			d.delay = later(d, as)
			i := d.ask(nil)
			d.delay = later(d, func(e *proof.Deferred) { e.Month = "2030-01" })
			return access(d, i)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDecided(t)
			plain := d.ask(nil) // a decision like any other
			i := c.do(d)
			d.publish()
			code, got, errs := d.replay(d.opened(plain, i))
			found := got.Different == 1 && len(got.Decisions) > 0
			if found {
				found = false
				for _, x := range got.Decisions {
					if x.Index == uint64(i) && len(x.Differences) == 1 && x.Differences[0].What == "delay" {
						found = true
					}
				}
			}
			if found != c.want || (code == Refused) != c.want {
				t.Errorf("exit code %d, %+v, %s", code, got, errs)
			}
		})
	}
}

func TestReplayTable(t *testing.T) {
	d := newDecided(t)
	good := d.ask(nil)
	bad := d.ask(func(p *plan) { p.outcome, p.released = proof.OutcomeReleased, []string{"/data/adresse"} })
	access := d.some(1)[0]
	d.publish()
	file := d.opened(good, bad, access)
	code, out, errs := run("replay", "--log", d.dir, "--log-key", d.vkey, file)
	want := fmt.Sprintf(`INDEX  DISCLOSURE                            WHAT    RECORDED                RECORDED
%d      01a20ac2-88da-7d36-98b8-e03e4bb98177  fields  released /data/adresse  granted /data/quotient/valeur
2 decisions run again under 1 bundle: 1 differ, 0 could not be run
1 entry without a decision: access@v1
`, bad)
	want = strings.Replace(want, "RECORDED                RECORDED", "RECORDED                REPLAYED", 1)
	if code != Refused || out != want {
		t.Errorf("exit code %d, %s%s\nwant\n%s", code, out, errs, want)
	}

	// The same records as an answer of the API, and from standard input.
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	page := `{"next":9,"entries":[` + strings.Join(strings.Split(strings.TrimSpace(string(b)), "\n"), ",") + `,{"index":7,"kind":"disclosure@v1","state":"erased","code":"record.erased"}]}`
	var stdout, stderr bytes.Buffer
	code = Main([]string{"replay", "--log", d.dir, "--log-key", d.vkey, "--json", "-"}, strings.NewReader(page), &stdout, &stderr)
	var got replayReport
	if err := json.Unmarshal(stdout.Bytes(), &got); err != nil || code != Refused || got.Replayed != 2 || got.Others["erased"] != 1 {
		t.Errorf("exit code %d, %+v, %v, %s", code, got, err, stderr.String())
	}
}

// TestReplayUnusable: what can't be run again is neither right nor wrong.
func TestReplayUnusable(t *testing.T) {
	d := newDecided(t)
	i := d.ask(nil)
	d.publish()
	good := d.opened(i)
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	other := newDecided(t)
	j := other.ask(nil)
	other.publish()
	stolen := strings.Replace(string(text), fmt.Sprintf(`"index":%d`, i), `"index":2`, 1)
	for name, c := range map[string]struct {
		file string
		says string
	}{
		"another log's": {other.opened(j), "1 record could not be run again"}, "another entry's": {write(t, dir, "stolen", stolen), "1 record could not be run again"},
		"damaged": {write(t, dir, "damaged", `{"index":3,"kind":"disclosure@v1","state":"damaged"}`), "1 record could not be run again"}, "nothing": {write(t, dir, "nothing", ""), "no decision"},
		"erased": {write(t, dir, "erased", `{"index":3,"kind":"disclosure@v1","state":"erased"}`), "no decision"}, "cut": {write(t, dir, "cut", string(text[:len(text)/2])), "no opened record"},
		"another object": {write(t, dir, "object", `{"a":1}`), "no opened record"}, "no object": {write(t, dir, "list", `[1]`), "no opened record"}, "deep": {write(t, dir, "deep", strings.Repeat("[", 100_000)), "no opened record"},
		"no such file": {filepath.Join(dir, "none"), "no such file"}, "no receipt": {write(t, dir, "no receipt", `{"index":3,"state":"open"}`), "1 record could not be run again"},
	} {
		code, _, errs := d.replay(c.file)
		if code != Input || !strings.Contains(errs, c.says) {
			t.Errorf("%s: exit code %d, %s", name, code, errs)
		}
	}
	if code, out, errs := run("replay", "--log", d.dir, "--log-key", d.vkey); code != Input || out != "" || !strings.Contains(errs, "--broker") {
		t.Errorf("no files: exit code %d, %s%s", code, out, errs)
	}
	if code, out, errs := run("replay", "--log", d.dir, "--log-key", d.vkey, "--reason", "r", good); code != Input || out != "" || !strings.Contains(errs, "--broker") {
		t.Errorf("files and flags: exit code %d, %s%s", code, out, errs)
	}
	// A bundle that isn't served, and one whose bytes are others.
	name := filepath.Join(d.dir, "blob", d.bundle.Digest.Hex())
	if err := tiles.WriteFile(d.dir, "blob/"+d.bundle.Digest.Hex(), []byte("others")); err != nil {
		t.Fatal(err)
	}
	for _, says := range []string{"other bytes", "blob/"} {
		code, got, _ := d.replay(good)
		if code != Input || got.Unusable != 1 || !strings.Contains(got.Decisions[0].Unusable, says) {
			t.Errorf("exit code %d, %+v", code, got)
		}
		_ = os.Remove(name)
	}
}

// What is listed is bounded, and what can't be run doesn't crowd out what differs.
func TestReplayListIsBounded(t *testing.T) {
	out := replayReport{Others: map[string]int{}}
	for i := range uint64(3 * maxDecisions) {
		out.unusable(replayed{Index: i}, "damaged")
		out.list(replayed{Index: i})
	}
	last := replayed{Index: 7_000_000}
	last.differ("allow", "denied", "allowed")
	out.list(last)
	if len(out.Decisions) != 2*maxDecisions+1 || out.Omitted != 4*maxDecisions || out.Unusable != 3*maxDecisions || out.Decisions[2*maxDecisions].Index != last.Index {
		t.Errorf("%d listed, %d omitted, %d unusable", len(out.Decisions), out.Omitted, out.Unusable)
	}
	var text bytes.Buffer
	if err := out.print(&text, false); err != nil || !strings.Contains(text.String(), "80000 more aren't listed") || !strings.Contains(text.String(), "7000000 ") {
		t.Error(err, text.Len())
	}
}

// FuzzReadOpened: whatever stands in a file of records, reading it ends, and says what is wrong.
func FuzzReadOpened(f *testing.F) {
	f.Add([]byte(`{"index":3,"kind":"disclosure@v1","state":"erased"}` + "\n" + `{"entries":[{"index":1,"state":"open","receipt":"x"}],"audit":4}`))
	f.Add([]byte(`{"entries":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := Root()
		c.SetIn(bytes.NewReader(b))
		err := readOpened(c, "-", func(e openedEntry) error {
			_, _ = e.verified(nil, true)
			return nil
		})
		if err != nil && !strings.Contains(err.Error(), "-: value ") {
			t.Error(err)
		}
	})
}

// TestExport: the lines have the members that the standard demands, and show nobody.
func TestExport(t *testing.T) {
	d := newDecided(t)
	asked := d.ask(nil)
	answer := d.ask(func(p *plan) { p.role = proof.RoleAnswer })
	denied := d.ask(func(p *plan) { p.in.Purpose = "curiosite" })
	failed := d.ask(func(p *plan) { p.outcome, p.cause = proof.OutcomeFailed, "provider/timeout" })
	bare := d.ask(func(p *plan) { p.in.Agreement, p.in.AgreementDigest = nil, policy.Digest{} })
	access := d.record(proof.SchemaAccess, func(r *proof.Record) error {
		for f, v := range map[proof.Field]string{proof.AccessID: "01a20ac2-88da-7d36-98b8-e03e4bb98199", proof.AccessReader: "cour", proof.AccessRole: "auditor", proof.AccessTarget: "3", proof.AccessReason: "control", proof.AccessAt: "1000"} {
			if err := r.SetText(f, v); err != nil {
				return err
			}
		}
		return nil
	})
	erasure := d.record(proof.SchemaErasure, func(r *proof.Record) error {
		for f, v := range map[proof.Field]string{proof.ErasureID: "01a20ac2-88da-7d36-98b8-e03e4bb98188", proof.ErasureReach: "3", proof.ErasureGround: "rgpd-17", proof.ErasureAskedAt: "1000", proof.ErasureErasedAt: "2000"} {
			if err := r.SetText(f, v); err != nil {
				return err
			}
		}
		return nil
	})
	d.publish()
	file := d.opened(asked, answer, denied, failed, bare, access, erasure)
	lines := func(args ...string) (out []map[string]any) {
		t.Helper()
		code, text, errs := run(append([]string{"export", "--ldv", "--log-key", d.vkey, file}, args...)...)
		if code != Proven {
			t.Fatalf("exit code %d, %s", code, errs)
		}
		for l := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
			var v map[string]any
			if err := json.Unmarshal([]byte(l), &v); err != nil {
				t.Fatal(err)
			}
			out = append(out, v)
		}
		return out
	}
	first, again := lines(), lines("--own", "--base-url", "https://log.example/")
	if len(first) != 7 {
		t.Fatalf("%d lines", len(first))
	}
	ids := map[any]bool{}
	for n, l := range first {
		a := l["attributes"].(map[string]any)
		for _, m := range []string{"trace_id", "span_id", "status", "name", "start_time", "end_time", "attributes"} {
			if l[m] == nil || l[m] == "" {
				t.Errorf("line %d lacks %s", n, m)
			}
		}
		if len(l["trace_id"].(string)) != 32 || len(l["span_id"].(string)) != 16 || a["dpl.core.data_subject_id_type"] != notShown || len(a["dpl.core.data_subject_id"].(string)) != 32 {
			t.Errorf("line %d: %v", n, l)
		}
		if id := a["dpl.core.data_subject_id"]; ids[id] || again[n]["attributes"].(map[string]any)["dpl.core.data_subject_id"] == id {
			t.Errorf("line %d: the pseudonym links lines or exports", n)
		}
		ids[a["dpl.core.data_subject_id"]] = true
		for name := range a {
			if strings.HasPrefix(name, "regard.") {
				t.Errorf("line %d: %s isn't the standard's", n, name)
			}
		}
		if again[n]["span_id"] != l["span_id"] {
			t.Errorf("line %d: another span in another export", n)
		}
	}
	activity := func(l map[string]any) any { return l["attributes"].(map[string]any)["dpl.core.processing_activity_id"] }
	if want := "https://" + forgedOrigin + "/blob/" + d.digest.Hex(); activity(first[0]) != want || activity(again[0]) != "https://log.example/blob/"+d.digest.Hex() {
		t.Errorf("activity %v, %v, want %s", activity(first[0]), activity(again[0]), want)
	}
	if first[1]["parent_span_id"] != first[0]["span_id"] || first[0]["parent_span_id"] != nil || first[1]["span_id"] == first[0]["span_id"] {
		t.Errorf("spans: %v under %v", first[1], first[0])
	}
	for n, want := range []string{"Ok", "Ok", "Unset", "Error", "Unset", "Ok", "Ok"} {
		if first[n]["status"] != want {
			t.Errorf("line %d: %v, want %s", n, first[n]["status"], want)
		}
	}
	if activity(first[4]) != "urn:regard:activity:no-agreement" || activity(first[5]) != "urn:regard:activity:access:auditor" || activity(first[6]) != "urn:regard:activity:erasure" || first[3]["attributes"].(map[string]any)["exception.type"] != "provider/timeout" {
		t.Errorf("%v %v %v %v", activity(first[4]), activity(first[5]), activity(first[6]), first[3])
	}
	own := again[0]["attributes"].(map[string]any)
	if own["regard.agency"] != "mairie" || own["regard.purpose"] != "cantine" || own["regard.official"] != nil || own["regard.input"] != nil || fmt.Sprint(own["regard.released"]) != "[/data/quotient/valeur]" {
		t.Errorf("%v", own)
	}

	other := newDecided(t)
	j := other.ask(nil)
	other.publish()
	for name, c := range map[string]struct {
		args []string
		code int
	}{
		"no record": {[]string{"--ldv", "--log-key", d.vkey, write(t, t.TempDir(), "x", "")}, Input}, "not --ldv": {[]string{"--log-key", d.vkey, file}, Input}, "no key": {[]string{"--ldv", file}, Input}, "nothing": {[]string{"--ldv", "--log-key", d.vkey}, Input}, "base": {[]string{"--ldv", "--log-key", d.vkey, "--base-url", "log.example", file}, Input},
		"another log's": {[]string{"--ldv", "--log-key", d.vkey, other.opened(j)}, Refused},
		"no receipt":    {[]string{"--ldv", "--log-key", d.vkey, write(t, t.TempDir(), "x", `{"index":1,"state":"open","receipt":"x"}`)}, Input},
	} {
		if code, out, errs := run(append([]string{"export"}, c.args...)...); code != c.code || out != "" || errs == "" {
			t.Errorf("%s: exit code %d, %s%s", name, code, out, errs)
		}
	}
}
