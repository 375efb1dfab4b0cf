package witness

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"filippo.io/torchwood"
	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"
)

// A log that others wrote, Tessera with its own client of the protocol, publishes only what this witness cosigned; torchwood's policy code verifies it.
func TestTesseraLog(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	l := newLog(t, "log.tessera.example/test")
	w, url := open(t, newConfig(t, l))
	policy := fmt.Sprintf("log %s\nwitness w1 %s %s\nquorum w1\n", l.vkey, w.VKey(), url)
	group, err := tessera.NewWitnessGroupFromPolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	verify, err := torchwood.ParsePolicy([]byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// Twice: the second appender goes on where the witness saw the log stand.
	size := 0
	for range 2 {
		driver, err := posix.New(ctx, posix.Config{Path: dir})
		if err != nil {
			t.Fatal(err)
		}
		appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
			WithCheckpointSigner(l.signer).WithCheckpointInterval(100*time.Millisecond).WithBatching(16, 20*time.Millisecond).
			WithWitnesses(group, &tessera.WitnessOptions{Timeout: 5 * time.Second}))
		if err != nil {
			t.Fatal(err)
		}
		await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 20*time.Millisecond)
		for range 40 {
			_, cp, err := await.Await(ctx, appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", size))))
			if err != nil {
				t.Fatal(err)
			}
			if size++; size%20 == 0 {
				if _, _, err := torchwood.VerifyCheckpoint(cp, verify); err != nil {
					t.Errorf("torchwood refuses the checkpoint: %v\n%s", err, cp)
				}
			}
		}
		if err := shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
	seen, err := w.Seen(ctx)
	if err != nil || len(seen) != 1 || seen[0].Size != 80 {
		t.Fatalf("%+v %v", seen, err)
	}
	// What the witness keeps is the log's own checkpoint with its cosignature.
	v, err := note.NewVerifier(l.vkey)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := note.Open(seen[0].Note, note.VerifierList(v)); err != nil || len(n.UnverifiedSigs) != 1 || !bytes.Contains(seen[0].Note, []byte("witness.example/w1")) {
		t.Errorf("%v\n%s", err, seen[0].Note)
	}
}
