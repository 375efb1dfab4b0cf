package audit

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// finding is what is said about one receipt.
type finding struct {
	File     string `json:"file"`
	Proven   bool   `json:"proven"`
	Problem  string `json:"problem,omitempty"`
	State    string `json:"state"`
	Kind     string `json:"kind,omitempty"`
	Index    uint64 `json:"log_index"`
	Epoch    uint64 `json:"epoch"`
	Origin   string `json:"origin,omitempty"`
	TreeSize uint64 `json:"tree_size"`
	Root     string `json:"root,omitempty"`

	Witnesses  []witness `json:"witnesses,omitempty"`
	Unverified []string  `json:"unverified_signatures,omitempty"`

	InRoll   bool       `json:"in_roll"`
	RollSize uint64     `json:"roll_size,omitempty"`
	Closed   *time.Time `json:"epoch_closed,omitempty"`
	// Covers is the type of the identifier whose roll it is, of which alone the verdict speaks.
	Covers string `json:"covers,omitempty"`
	// Caveats: "homonyms" or "partial-pivot".
	Caveats []string `json:"caveats,omitempty"`

	// Unusable: nothing in it is known to be wrong, but it can't be read, isn't a receipt, or lacks the quorum that the policy demands.
	Unusable bool `json:"unusable,omitempty"`

	// Payload: "" was not asked, "matches", or why it doesn't.
	Payload string `json:"payload,omitempty"`

	Says []string `json:"says,omitempty"`       // what is proven, in words
	Not  []string `json:"not_proven,omitempty"` // what isn't
}

type witness struct {
	Name string     `json:"name"`
	At   *time.Time `json:"at,omitempty"`
}

func newWitness(c proof.Cosignature) witness {
	w := witness{Name: c.Name}
	if c.Unix > 0 && c.Unix < 1<<40 {
		at := time.Unix(int64(c.Unix), 0).UTC() // #nosec G115 -- bounded above
		w.At = &at
	}
	return w
}

// acceptProvisional is the help of --allow-provisional where receipts are verified.
const acceptProvisional = "accept receipts that carry the log's signature alone"

func verifyCommand() *cobra.Command {
	var look logFlags
	var payload string
	var asJSON bool
	c := &cobra.Command{
		Use: "verify RECEIPT…", Short: "Verify receipts", Args: files,
		Long: `verify checks receipts offline: the signature of the log, the quorum of witnesses if the policy names one, that the entry stands in the tree, that the opened fields
are those that the entry commits to, and, if the receipt is settled, that the entry is in the person's only roll of its closed epoch.

With --log-key, or a policy whose quorum is none, the log's signature is enough, and the verdict says "provisional": the operator could still show others another history. With a
quorum, a receipt that lacks it is unusable unless --allow-provisional is given.

A settled receipt speaks about one identifier of somebody in one epoch. The verdict names the type of that identifier and what it leaves open: requests under other identifiers,
homonyms of a "person", whether anybody but the operator checked the epoch's index.

Each file has its finding, whatever the others are. Exit codes: 0 everything is verified, 1 something is refuted, 2 nothing is refuted, but something is unusable: a file that
can't be read or is no receipt, no key, or no quorum.

With --payload it also checks that the data are the very bytes that were recorded: a file with the data, or the whole answer of the API.`,
		Example: `  regard-audit verify --policy log.policy answer.receipt
  regard-audit verify --log-key regard.example.fr/2026+1a2b3c4d+AX… --payload answer.data.json answer.receipt
  regard-audit verify --log-key log.vkey --json *.receipt`,
		RunE: func(c *cobra.Command, args []string) error {
			p, err := look.readPolicy(c)
			if err != nil {
				return err
			}
			if payload != "" && len(args) > 1 {
				return errors.New("--payload goes with one receipt")
			}
			findings := []finding{}
			refused, unusable := false, 0
			for _, name := range args {
				f := verifyFile(c, name, p, look.provisional, payload)
				refused = refused || !f.Proven && !f.Unusable
				if f.Unusable {
					unusable++
				}
				findings = append(findings, f)
			}
			return conclude(c, asJSON, findings, refused, unusable)
		},
	}
	look.keys(c, acceptProvisional)
	f := c.Flags()
	f.StringVar(&payload, "payload", "", "file with the data, or with the whole answer")
	f.BoolVar(&asJSON, "json", false, "write JSON")
	return c
}

// verifyFile makes the finding about a file, also if it can't be read: what else there is to say must not depend on it.
func verifyFile(c *cobra.Command, name string, p *proof.Policy, provisional bool, payload string) finding {
	r, err := readReceipt(c, name)
	if err != nil {
		return finding{File: name, State: proof.State(0).String(), Unusable: true, Problem: err.Error() + "."}
	}
	f := verify(r, p, provisional)
	f.File = name
	if payload == "" {
		return f
	}
	b, err := readUpTo(c, payload, maxWithAnswer)
	if err != nil {
		f.Unusable, f.Proven = f.Unusable || f.Proven, false
		f.Problem = join(f.Problem, err.Error()+".")
		return f
	}
	f.checkPayload(r.Opening(), b)
	return f
}

func verify(r *proof.Receipt, p *proof.Policy, provisional bool) finding {
	// A policy that demands no witnesses accepts the log's signature alone.
	v, err := r.Verify(p, proof.VerifyOptions{AllowProvisional: provisional || !p.Demands()})
	agreed, derr := r.CheckDelay()
	if err == nil {
		err = derr
	}
	f := finding{Proven: err == nil, State: v.State.String()}
	if err != nil {
		f.Problem = problem(err)
		f.Unusable = errors.Is(err, proof.ErrNotWitnessed) || errors.Is(err, proof.ErrOtherLog)
		if !errors.Is(err, proof.ErrNotWitnessed) {
			return f
		}
	}
	f.Kind, f.Index, f.Epoch, f.Origin, f.TreeSize, f.Root = string(v.Kind), uint64(v.Index), uint64(v.Epoch), v.Origin, v.Size, base64.StdEncoding.EncodeToString(v.Root[:])
	f.Unverified, f.InRoll, f.RollSize = v.Unverified, v.InRoll, v.RollSize
	f.say("The log %s signed a tree of %d entries.", v.Origin, v.Size)
	f.say("The entry stands in it at index %d, in epoch %d.", v.Index, v.Epoch)
	f.say("The fields that this receipt opens are those that the entry commits to.")
	switch {
	case v.State >= proof.Witnessed:
		names := make([]string, 0, len(v.Witnesses))
		for _, w := range v.Witnesses {
			f.Witnesses = append(f.Witnesses, newWitness(w))
			names = append(names, w.Name)
		}
		f.say("The quorum of witnesses saw this tree: %s.", strings.Join(names, ", "))
	case !p.Demands():
		f.deny("that others were shown the same tree: your policy names no quorum of witnesses, so all of this rests on the log's own signature.")
	default:
		f.deny("that others were shown the same tree: the quorum of witnesses is missing, so all of this rests on the log's own signature.")
	}
	subject, err := r.Opening().Subject()
	switch e := r.Entry().(type) {
	case proof.Deferred:
		f.say("A law delays that the person learns of it: %s, by %s. The delay has to end by the end of %s.", e.Article, e.Authority, e.Month)
		if agreed {
			f.say("That is the delay of the agreement which the record names.")
		} else {
			f.deny("that a delay was agreed on, and this one: the agreement is not open to you.")
		}
	case proof.Opened:
		f.say("It ends the delay of the entry at index %d, if that has the same commitment: compare the two receipts.", e.Deferred)
	}
	if v.InRoll && err == nil {
		f.roll(subject, v)
	} else if v.Kind == proof.KindDeferred {
		f.deny("that the person will see it: they are told by the entry that ends the delay. Fetch its receipt then.")
	} else {
		f.deny("that the person will see this entry: it is not settled. Fetch the receipt again when its epoch is closed.")
	}
	for _, name := range v.Unverified {
		f.deny("the signature line of %q: your policy doesn't know its key.", name)
	}
	return f
}

// roll says what the roll of a subject shows, and about whom.
func (f *finding) roll(subject proof.Subject, v proof.Verdict) {
	closed := v.Closed.Time()
	f.Closed, f.Covers = &closed, string(subject.Type())
	f.say("The entry is in the only roll that this identifier has in epoch %d, which was closed at %s; the roll has room for %d entries.", v.Epoch, closed.Format(time.RFC3339), v.RollSize)
	f.say("The identifier is of type %s, and all that is said of rolls covers it alone.", subject.Type())
	switch p, pivot := subject.Pivot(); {
	case subject.Type() == proof.TypePerson:
		f.Caveats = append(f.Caveats, "homonyms")
		f.deny("that it is about one person: an identifier of type person has no place of birth, and others may have the same names, date and sex.")
	case pivot && !p.Complete():
		f.Caveats = append(f.Caveats, "partial-pivot")
		f.deny("that anybody will be shown it: it was asked with a part of an identity, which identifies nobody, and is filed as asked.")
	}
	f.deny("anything about requests under other identifiers of the same person, or in other epochs.")
	f.deny("that all entries of the epoch are in a roll: a receipt doesn't hold what auditors said of its index. A history does.")
	f.deny("anything about entries whose details were lost with a restored backup (restart@v1 in the log says which): they are in nobody's roll.")
}

// problem says why, for people.
func problem(err error) string {
	switch {
	case errors.Is(err, proof.ErrNotWitnessed):
		return "The receipt is provisional: the quorum of witnesses is missing. Fetch it again from the broker, or give --allow-provisional."
	case errors.Is(err, proof.ErrOtherLog):
		return "It is not of the log whose key you gave (" + err.Error() + "). Is this the log's key?"
	}
	return "What it claims is not proven (" + err.Error() + "). Keep it: it is evidence against whoever made it."
}

func (f *finding) say(format string, args ...any) {
	f.Says = append(f.Says, fmt.Sprintf(format, args...))
}
func (f *finding) deny(format string, args ...any) {
	f.Not = append(f.Not, fmt.Sprintf(format, args...))
}

// checkPayload compares the data, or the member data of an answer, byte by byte through their keyed digest.
func (f *finding) checkPayload(o proof.Opening, b []byte) {
	if errors.Is(o.CheckPayload(b), proof.ErrHidden) {
		f.Proven, f.Unusable, f.Payload = false, false, "no digest"
		f.Problem = join(f.Problem, "The receipt opens no digest of the data: it is for another reader, or no data were released.")
		return
	}
	candidates := [][]byte{b}
	var answer struct {
		Receipt string          `json:"receipt"`
		Data    json.RawMessage `json:"data"`
	}
	if json.Unmarshal(b, &answer) == nil && answer.Receipt != "" && answer.Data != nil {
		candidates = append(candidates, answer.Data)
	}
	for _, c := range candidates {
		if o.CheckPayload(c) == nil {
			f.Payload = "matches"
			f.say("The data are, byte by byte, those that were recorded.")
			return
		}
	}
	f.Proven, f.Unusable, f.Payload = false, false, "differs"
	f.Problem = join(f.Problem, "The data are not those that were recorded. They have to be the very bytes of the answer, not formatted anew.")
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + " " + b
}

func (f *finding) print(w io.Writer) {
	printVerdict(w, verdict.English, f.File, f.Proven, f.Unusable, f.State, f.Problem, f.Says, f.Not)
}

// conclude writes what was found of each file, and says by its error how the command ends.
func conclude[F any, P interface {
	*F
	print(io.Writer)
}](c *cobra.Command, asJSON bool, findings []F, refused bool, unusable int) error {
	if asJSON {
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		if err := e.Encode(findings); err != nil {
			return err
		}
	} else {
		for i := range findings {
			P(&findings[i]).print(c.OutOrStdout())
		}
	}
	switch {
	case refused:
		return errRefused
	case unusable > 0:
		return fmt.Errorf("of %s %s unusable", many(len(findings), "file", "files"), many(unusable, "is", "are"))
	}
	return nil
}

// printVerdict is how every verdict about a file reads: what it is in one word, why, and what is proven and what isn't.
func printVerdict(w io.Writer, lang verdict.Lang, file string, proven, unusable bool, state, problem string, says, not []string) {
	words := struct{ proven, unusable, refuted, yes, no string }{"PROVEN, " + state, "UNUSABLE", "REFUTED", "proven      ", "not proven  "}
	if lang == verdict.French {
		by := map[string]string{proof.Provisional.String(): "provisoire", proof.Witnessed.String(): "confirmé par les témoins"}
		words = struct{ proven, unusable, refuted, yes, no string }{"PROUVÉ, " + by[state], "INUTILISABLE", "RÉFUTÉ", "prouvé      ", "non prouvé  "}
	}
	word := words.proven
	switch {
	case unusable:
		word = words.unusable
	case !proven:
		word = words.refuted
	}
	fmt.Fprintf(w, "%s: %s\n", file, word)
	if problem != "" {
		fmt.Fprintf(w, "  %s\n", problem)
	}
	for _, s := range says {
		fmt.Fprintf(w, "  %s%s\n", words.yes, s)
	}
	for _, s := range not {
		fmt.Fprintf(w, "  %s%s\n", words.no, s)
	}
}
