package analyst

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
)

// Hit is something in the log that was found by computing it from what the agency knows. By chance there is none: each would be a collision of SHA-256 or of random values of 256 bits.
type Hit struct {
	Guess string
	Entry int // in View.Entries: whom it is about is known now; -1 if it isn't about one entry
	Item  int // in View.Items; -1
	From  int // in View.Held
}

// dummy is the log index of the leaves that pad a roll.
const dummy = proof.Index(1<<64 - 1)

// Guess recomputes hashes from all that the agency knows and looks for them. agencies are those whose requests it guesses. effort is about how many hashes it computes for each kind of guess: if
// there are more, it takes some of them, evenly.
func Guess(v *View, agencies []string, effort int) []Hit {
	g := &guessing{v: v, effort: effort, held: v.held()}
	g.repeats()
	g.commitments(agencies)
	g.siblings()
	g.rolls()
	return g.hits
}

type guessing struct {
	v      *View
	effort int
	held   []bool
	hits   []Hit
}

// stride is the step at which n things are taken so that the effort isn't exceeded.
func (g *guessing) stride(n int) int { return 1 + n/max(1, g.effort) }

// fieldLine is a line of an opening: "<i> open|none <salt> [<value>]", or "<i> hidden <digest>".
type fieldLine []string

// openingLines reads an opening as the text in which the agency has it.
func openingLines(o proof.Opening) (head string, lines []fieldLine) {
	text, err := o.AppendText(nil)
	if err != nil {
		return "", nil
	}
	rows := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for _, r := range rows[1:] {
		lines = append(lines, strings.Fields(r))
	}
	return rows[0], lines
}

func openingOf(head string, lines []fieldLine) (proof.Opening, bool) {
	var b bytes.Buffer
	fmt.Fprintln(&b, head)
	for _, l := range lines {
		fmt.Fprintln(&b, strings.Join(l, " "))
	}
	o, err := proof.ParseOpening(b.Bytes())
	return o, err == nil
}

// repeats looks for salts and digests that two receipts share, with each other or with what is public: no value of 32 bytes may stand twice.
func (g *guessing) repeats() {
	type place struct{ held, field int }
	seen := map[string]place{}
	for k, h := range g.v.Held {
		_, lines := openingLines(h.Opening)
		for i, l := range lines {
			if was, ok := seen[l[2]]; ok && was != (place{k, i}) {
				g.hits = append(g.hits, Hit{"two receipts share a salt or digest", -1, -1, k})
			}
			seen[l[2]] = place{k, i}
		}
	}
	leaves := map[[32]byte]int{}
	for k, h := range g.v.Held {
		if h.Item < 0 {
			continue
		}
		if other, ok := leaves[h.Leaf.Salt]; ok && g.v.Held[other].Entry != h.Entry {
			g.hits = append(g.hits, Hit{"two leaves of rolls share a salt", -1, h.Item, k})
		}
		leaves[h.Leaf.Salt] = k
	}
}

// commitments computes the commitments that other requests would have if they were made with the salts of a receipt: about the person of another receipt, or by another agency.
func (g *guessing) commitments(agencies []string) {
	at := map[proof.Commitment]int{}
	for i := range g.v.Entries {
		if e := &g.v.Entries[i]; !g.held[i] && e.Commitment != (proof.Commitment{}) {
			at[e.Commitment] = i
		}
	}
	subjects := map[string][2]fieldLine{}
	for _, h := range g.v.Held {
		if _, lines := openingLines(h.Opening); len(lines) > 1 && lines[0][1] == "open" && lines[1][1] == "open" {
			subjects[lines[1][3]] = [2]fieldLine{lines[0], lines[1]}
		}
	}
	people := slices.Sorted(maps.Keys(subjects))
	for k, h := range g.v.Held {
		head, lines := openingLines(h.Opening)
		if len(lines) == 0 {
			continue
		}
		try := func(changed ...fieldLine) {
			next := slices.Clone(lines)
			for _, c := range changed {
				i, err := strconv.Atoi(c[0])
				if err != nil || i >= len(next) {
					return
				}
				next[i] = fieldLine{c[0], "open", lines[i][2], c[3]}
			}
			if o, ok := openingOf(head, next); ok {
				if i, ok := at[o.Commitment()]; ok {
					g.hits = append(g.hits, Hit{"a commitment with the salts of a receipt", i, -1, k})
				}
			}
		}
		if h.Opening.Schema() != proof.SchemaDisclosure {
			continue
		}
		step := g.stride(100 * len(g.v.Held) * len(people)) // an opening costs as much as a hundred hashes
		for n := k % step; n < len(people); n += step {
			s := subjects[people[n]]
			try(s[0], s[1])
		}
		for _, a := range agencies {
			try(fieldLine{strconv.Itoa(int(proof.DisclosureAgency)), "open", "", base64.StdEncoding.EncodeToString([]byte(a))})
		}
	}
}

// known are values of 32 bytes that somebody might have used as a salt, or as the secret from which salts are made.
func (g *guessing) known() [][32]byte {
	out := [][32]byte{{}}
	for _, m := range g.v.Markers {
		out = append(out, m.VRF)
		if m.Closed != nil {
			out = append(out, m.Closed.Previous, m.Closed.Index)
		}
	}
	for _, h := range g.v.Held {
		out = append(out, g.v.Entries[h.Entry].Commitment)
		if h.Item >= 0 {
			out = append(out, g.v.Items[h.Item].Label)
		}
		if key, p := h.Opening.Value(proof.DisclosurePayloadKey); p == proof.Present && len(key) == 32 {
			out = append(out, [32]byte(key))
		}
	}
	return out
}

// salts are those of the receipts' fields.
func (g *guessing) salts() (out [][32]byte) {
	for _, h := range g.v.Held {
		_, lines := openingLines(h.Opening)
		for _, l := range lines {
			if b, err := base64.StdEncoding.DecodeString(l[2]); err == nil && len(b) == 32 {
				out = append(out, [32]byte(b))
			}
		}
	}
	return out
}

// leafHash is the RFC 6962 leaf hash of a roll's leaf.
func leafHash(leaf proof.Hash) proof.Hash {
	var b [33]byte
	copy(b[1:], leaf[:])
	return sha256.Sum256(b[:])
}

// siblings compares the leaf beside an own one in a roll with what the leaf of any other entry would be under every known salt: it would say that the entry is about that person.
func (g *guessing) siblings() {
	beside := map[proof.Hash]int{}
	epochs := map[proof.Epoch]bool{}
	for k, h := range g.v.Held {
		if h.Item >= 0 && len(h.Leaf.Path) > 0 {
			beside[h.Leaf.Path[0]] = k
			epochs[g.v.Items[h.Item].Epoch] = true
		}
	}
	if len(beside) == 0 {
		return
	}
	look := func(guess string, i int, index proof.Index, salt [32]byte) {
		if k, ok := beside[leafHash(proof.RollLeaf(salt, index))]; ok {
			g.hits = append(g.hits, Hit{guess, i, g.v.Held[k].Item, k})
		}
	}
	known, salts := g.known(), g.salts()
	leaves := map[proof.Epoch][][32]byte{} // salts of own leaves
	for _, h := range g.v.Held {
		if h.Item >= 0 {
			e := g.v.Items[h.Item].Epoch
			leaves[e] = append(leaves[e], h.Leaf.Salt)
		}
	}
	step := g.stride(2 * len(known) * len(g.v.Entries))
	step2 := g.stride(len(salts) * len(g.v.Entries))
	for i := range g.v.Entries {
		e := &g.v.Entries[i]
		if !e.Kind.Filed() || !epochs[e.Epoch] || g.held[i] {
			continue
		}
		for n := i % step; n < len(known); n += step {
			s := known[n]
			look("a leaf of a roll under a known salt", i, e.Index, s)
			look("a leaf of a roll under a salt made from a known secret", i, e.Index, proof.RollSalt(s, e.Index))
		}
		for _, s := range leaves[e.Epoch] {
			look("a leaf of a roll under a known salt", i, e.Index, s)
			look("a leaf of a roll under a salt made from a known secret", i, e.Index, proof.RollSalt(s, e.Index))
		}
		look("a leaf of a roll under a salt made from a known secret", i, e.Index, proof.RollSalt([32]byte{}, e.Index))
		look("a leaf of a roll salted with the entry's commitment", i, e.Index, e.Commitment)
		look("a leaf of a roll salted with the entry's hash", i, e.Index, proof.LeafHash(e.Text))
		for s := i % step2; s < len(salts); s += step2 {
			look("a leaf of a roll under a field's salt", i, e.Index, salts[s])
		}
	}
	for _, s := range known {
		look("a dummy of a roll under a known salt", -1, dummy, s)
	}
	for _, s := range salts {
		look("a dummy of a roll under a field's salt", -1, dummy, s)
	}
}

// rolls computes the roll that each entry alone would have under the secrets that anybody can think of, and looks for it in the index.
func (g *guessing) rolls() {
	secrets := [][32]byte{{}}
	for _, m := range g.v.Markers {
		secrets = append(secrets, m.VRF)
	}
	step := g.stride(10 * len(secrets) * len(g.v.Items) * len(g.v.Entries) / max(1, len(g.v.Markers)*len(g.v.Markers)))
	for n := 0; n < len(g.v.Items); n += step {
		it := &g.v.Items[n]
		for i := range g.v.Entries {
			e := &g.v.Entries[i]
			if e.Epoch != it.Epoch || !e.Kind.Filed() || g.held[i] {
				continue
			}
			for s, secret := range secrets {
				if s > 0 && proof.Epoch(s-1) != e.Epoch {
					continue
				}
				if roll, err := proof.NewRoll(secret, it.Label, []proof.Index{e.Index}); err == nil && roll.Root() == it.Root {
					g.hits = append(g.hits, Hit{"a roll of one entry under a secret that anybody knows", i, n, -1})
				}
			}
		}
	}
}
