package verdict

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Seen is what a reader remembers of a log from one check to the next. It holds nothing about a person. The zero value remembers nothing.
type Seen struct {
	Policy string `json:"policy"` // SHA-256 of the file with the keys, in hexadecimal
	// Checkpoint is that of the largest tree that the policy's quorum of witnesses had seen, as it was signed and cosigned: whoever is shown another tree of its size has the evidence of it. "": none was.
	Checkpoint string `json:"checkpoint"`
	// At is when it was last checked, Changed when the keys last became others (0: never), as times of proofs.
	At      proof.Time `json:"at"`
	Changed proof.Time `json:"changed"`
}

// changeSaid is for how long a change of the keys is said.
const changeSaid = proof.Time(30 * 24 * time.Hour / time.Millisecond)

// CompareSeen compares a history with what the reader remembers, and returns what to remember from now on: of what isn't held to be true, what was. Policy is the file with the keys.
//
// It sees keys that changed, a tree that became smaller (of several brokers one may have it a moment later, so that it is fetched again before that is said), and one that is another of the same size. That a larger one goes on from the one before it can't tell: those who follow the log do. A page is compared before, for that of one access has limits of its own.
// What the policy's log didn't sign isn't compared, whoever put it there.
func (r *Report) CompareSeen(was Seen, policy []byte, in Input) Seen {
	before, known := in.checkpoint([]byte(was.Checkpoint))
	if known && r.split(before, in) {
		return was
	}
	if r.State != Proven && r.State != Limited && r.State != Provisional {
		return was
	}
	l, v := in.Lang, in.Verdict
	digest := sha256.Sum256(policy)
	now := Seen{Policy: fmt.Sprintf("%x", digest), At: in.Now, Changed: was.Changed}
	smaller := known && v.Size < before.Size()
	switch {
	// While witnesses are late, another page may rest on the smaller tree that they confirmed, and be as sound.
	case (v.State == proof.Witnessed || !in.Policy.Demands()) && !smaller:
		now.Checkpoint = string(in.History.Checkpoint)
	case known:
		now.Checkpoint = was.Checkpoint
	}
	if was.Policy == "" {
		return now
	}
	if smaller {
		r.Smaller = true
		r.addLimit(Limit{
			fmt.Sprintf(l.pick("Ce registre de %d entrées est plus petit que celui que ce navigateur a vu le %s (%d entrées).", "This log of %d entries is smaller than the one that this browser saw on %s (%d entries)."), v.Size, l.when(was.At), before.Size()),
			l.pick("Un registre ne fait que croître : réessayez dans quelques minutes. Si cela dure, demandez-en la raison à l'exploitant, puis à la CNIL.", "A log only grows: try again in a few minutes. If it stays so, ask the operator for the reason, then the data protection authority."),
			Worrying,
		}, l)
	}
	if was.Policy != now.Policy {
		now.Changed = in.Now
	}
	if now.Changed != 0 && in.Now-now.Changed < changeSaid {
		r.addLimit(Limit{
			fmt.Sprintf(l.pick("Les clés avec lesquelles ce navigateur vérifie ont changé le %s.", "The keys by which this browser checks changed on %s."), l.when(now.Changed)),
			l.pick("Comparez leurs empreintes, plus bas, avec celles publiées ailleurs.", "Compare their fingerprints, below, with those published elsewhere."),
			Worrying,
		}, l)
		return now
	}
	for i := range r.Checks {
		if c := &r.Checks[i]; c.Code == checkNames[checkSignature].code {
			c.Says = append(c.Says, fmt.Sprintf(l.pick("Ce sont les mêmes clés qu'à la dernière vérification de ce navigateur, le %s.", "These are the keys of this browser's last check, on %s."), l.when(was.At)))
		}
	}
	return now
}

// CompareBefore compares the history of saved evidence with the signed checkpoint that the browser had seen before, and says what the two show; split: two trees of one size, which refutes the report.
func (r *Report) CompareBefore(note []byte, in Input) (says string, split bool) {
	l := in.Lang
	before, known := in.checkpoint(note)
	now, sound := in.checkpoint(in.History.Checkpoint)
	switch {
	case !known || !sound:
		return l.pick("Ce que le navigateur dit avoir vu avant ne prouve rien : le registre de votre politique n'a pas signé les deux.", "What the browser says that it had seen before proves nothing: the log of your policy didn't sign both."), false
	case r.split(before, in):
		return fmt.Sprintf(l.pick("Ce fichier suffit comme preuve, gardez-le : il contient deux arbres différents de %d entrées, tous deux signés par le registre. Le navigateur avait vu l'un avant, et l'historique repose sur l'autre.",
			"This file is evidence enough, keep it: it holds two different trees of %d entries, both signed by the log. The browser had seen one before, and the history rests on the other."), now.Size()), true
	case before.Size() == now.Size():
		return l.pick("Le navigateur avait vu le même arbre avant.", "The browser had seen the same tree before."), false
	}
	return fmt.Sprintf(l.pick("Le navigateur avait vu avant un arbre de %d entrées, signé lui aussi : rien ici ne montre que l'un continue l'autre, ni le contraire.", "The browser had seen a tree of %d entries before, signed as well: nothing here shows that one goes on from the other, nor that it doesn't."), before.Size()), false
}

// checkpoint verifies one of the policy's log, which is that of the history.
func (in Input) checkpoint(note []byte) (proof.Checkpoint, bool) {
	if in.History == nil || len(note) == 0 {
		return proof.Checkpoint{}, false
	}
	c, err := proof.VerifyCheckpoint(note, in.Policy)
	return c, err == nil
}

// split refutes a history if its log signed another tree of the same size before. That holds whatever else is wrong, and is graver.
func (r *Report) split(before proof.Checkpoint, in Input) bool {
	l := in.Lang
	now, ok := in.checkpoint(in.History.Checkpoint)
	if !ok || now.Origin() != before.Origin() || now.Size() != before.Size() || now.Root() == before.Root() {
		return false
	}
	root := func(c proof.Checkpoint) string {
		b := c.Root()
		return base64.StdEncoding.EncodeToString(b[:])
	}
	r.refuted(&Refutation{What: l.pick("le registre a montré deux histoires différentes", "the log has shown two different histories"), When: all(in.History, l),
		Detail: fmt.Sprintf("two trees of %d entries are signed: one has the root %s, the one seen before %s", now.Size(), root(now), root(before)), Reference: Reference(in.Digest)}, l)
	r.Cause, r.Rows = "", nil // they agree with one of the two
	check := Check{Code: "seen", Title: l.pick("Le registre est celui qui a été vu avant", "The log is the one that was seen before"), State: Failed, Not: []string{r.Refuted.What + ", " + r.Refuted.When + "."}}
	for _, c := range []struct {
		fr, en string
		proof.Checkpoint
	}{{"maintenant", "now", now}, {"avant", "before", before}} {
		when := l.pick(c.fr, c.en)
		check.Evidence = append(check.Evidence, Fact{l.pick("racine, ", "root, ") + when, root(c.Checkpoint)}, Fact{l.pick("témoins, ", "witnesses, ") + when, strings.Join(c.Witnesses(), ", ")})
	}
	r.Checks = append(r.Checks, check)
	return true
}
