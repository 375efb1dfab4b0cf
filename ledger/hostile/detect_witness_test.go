package hostile_test

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"

	"github.com/regard-broker/regard/ledger/hostile"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/witness"
)

// bench is three real witnesses over HTTP, of which a policy demands two.
type bench struct {
	s      *scene
	dir    string
	urls   []string
	policy *proof.Policy
	// second are the witnesses that cosign what contradicts what they cosigned before, from a second state.
	second map[int]string
}

func newBench(s *scene, corrupt ...int) *bench {
	s.t.Helper()
	b := &bench{s: s, dir: s.t.TempDir(), second: map[int]string{}}
	text := "log " + s.o.VKey + "\n"
	for i := range 3 {
		key := must(witness.NewKey(fmt.Sprintf("w%d.example/real", i+1)))
		text += fmt.Sprintf("witness w%d %s\n", i+1, must(witness.VKey(key)))
		b.urls = append(b.urls, b.start(key, fmt.Sprintf("w%d", i)))
		if slices.Contains(corrupt, i) {
			b.second[i] = b.start(key, fmt.Sprintf("w%d-second", i))
		}
	}
	b.policy = must(proof.ParsePolicy([]byte(text + "group g 2 w1 w2 w3\nquorum g\n")))
	return b
}

func (b *bench) start(key, name string) string {
	b.s.t.Helper()
	state := filepath.Join(b.dir, name+".db")
	b.s.ok(witness.Create(b.s.t.Context(), state))
	w := must(witness.Open(b.s.t.Context(), witness.Config{Key: key, State: state, Logs: []witness.Log{{Origin: hostile.Origin, VKey: b.s.o.VKey}}}))
	srv := httptest.NewServer(w.Handler())
	b.s.t.Cleanup(func() {
		srv.Close()
		if err := w.Close(); err != nil {
			b.s.t.Error(err)
		}
	})
	return srv.URL
}

// cosign brings the whole tree of an operator to witnesses, of which it knows the size that each saw last, and returns the checkpoint with what they cosigned.
func (b *bench) cosign(o *hostile.Operator, seen map[string]uint64, urls ...string) proof.Checkpoint {
	b.s.t.Helper()
	note := o.Signed(o.Size())
	for _, url := range urls {
		a := must(o.AskWitness(b.s.t.Context(), url, min(seen[url], o.Size()), o.Size()))
		if a.Status == http.StatusOK {
			note = append(bytes.Clone(note), a.Body...)
			seen[url] = o.Size()
		}
	}
	return must(proof.VerifyCheckpoint(note, b.policy))
}

// other returns the history that somebody is shown beside the log, if there is one.
func (s *scene) other() *hostile.Operator {
	for _, view := range []func() *hostile.Operator{s.person, s.public, s.holders} {
		if o := view(); o != s.o {
			return o
		}
	}
	return nil
}

// witnesses are asked to cosign all that is shown to anybody. An accusation is a history that doesn't get the quorum.
func witnesses(corrupt ...int) *detector {
	return &detector{func(s *scene) func() error {
		b, seen := newBench(s, corrupt...), map[string]uint64{}
		return func() error {
			// The log goes to two of them, which is all it needs, so that the third is left for the other history.
			if cp := b.cosign(s.o, seen, b.urls[:2]...); !cp.Witnessed() {
				return fmt.Errorf("the log gets %d cosignatures", len(cp.Witnesses()))
			}
			other := s.other()
			if other == nil {
				return nil
			}
			urls := slices.Clone(b.urls)
			for i, second := range b.second {
				urls[i] = second
			}
			if cp := b.cosign(other, seen, urls...); !cp.Witnessed() {
				return fmt.Errorf("the second history gets %d cosignatures, too few for a quorum", len(cp.Witnesses()))
			}
			return nil
		}
	}}
}
