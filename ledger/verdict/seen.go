package verdict

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Seen is what a reader remembers of a log from one check to the next. It holds nothing about a person. The zero value remembers nothing.
type Seen struct {
	Policy string `json:"policy"` // SHA-256 of the file with the keys, in hexadecimal
	// Size and Root are those of the largest tree that the policy's quorum of witnesses had seen; Size is a number below 1<<53.
	Size uint64 `json:"size"`
	Root string `json:"root"` // base64
	// At is when it was last checked, Changed when the keys last became others (0: never), as times of proofs.
	At      proof.Time `json:"at"`
	Changed proof.Time `json:"changed"`
}

// changeSaid is for how long a change of the keys is said.
const changeSaid = proof.Time(30 * 24 * time.Hour / time.Millisecond)

// CompareSeen compares a history with what the reader remembers, and returns what to remember from now on: of what isn't held to be true, what was. Policy is the file with the keys.
//
// It sees keys that changed, a tree that became smaller (of several brokers one may have it a moment later, so that it is fetched again before that is said), and one that is another of the same size. That a larger one goes on from the one before it can't tell: those who follow the log do. A page is compared before, for that of one access has limits of its own.
func (r *Report) CompareSeen(was Seen, policy []byte, in Input) Seen {
	if r.State != Proven && r.State != Limited && r.State != Provisional {
		return was
	}
	l, v := in.Lang, in.Verdict
	digest := sha256.Sum256(policy)
	root := base64.StdEncoding.EncodeToString(v.Root[:])
	now := Seen{Policy: fmt.Sprintf("%x", digest), At: in.Now, Changed: was.Changed}
	// While witnesses are late, another page may rest on the smaller tree that they confirmed, and be as sound.
	remembered := v.State == proof.Witnessed || !in.Policy.Demands()
	if remembered {
		now.Size, now.Root = v.Size, root
	}
	switch {
	case was.Policy == "":
		return now
	case was.Policy != now.Policy:
		now.Changed = in.Now
	case was.Size == v.Size && was.Root != root:
		r.refuted(&Refutation{What: l.pick("le registre a montré deux histoires différentes à ce navigateur", "the log has shown two different histories to this browser"), When: all(in.History, l),
			Detail: fmt.Sprintf("a tree of %d entries with the root %s, and before with %s", v.Size, root, was.Root), Reference: Reference(in.Digest)}, l)
		r.Rows = nil // they agree with one of the two
		return was
	case was.Size > v.Size:
		r.Smaller = true
		r.addLimit(Limit{
			fmt.Sprintf(l.pick("Ce registre de %d entrées est plus petit que celui que ce navigateur a vu le %s (%d entrées).", "This log of %d entries is smaller than the one that this browser saw on %s (%d entries)."), v.Size, l.when(was.At), was.Size),
			l.pick("Un registre ne fait que croître : réessayez dans quelques minutes. Si cela dure, demandez-en la raison à l'exploitant, puis à la CNIL.", "A log only grows: try again in a few minutes. If it stays so, ask the operator for the reason, then the data protection authority."),
			Worrying,
		}, l)
		now.Size, now.Root = was.Size, was.Root
	case !remembered:
		now.Size, now.Root = was.Size, was.Root
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
