package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/ledger/fsck"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/mirror"
	"github.com/regard-broker/regard/ledger/monitor"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/tiles"
)

// published is a log of the present, with its policy in a file.
func published(t *testing.T) (p *ledgertest.Published, url, policy string) {
	t.Helper()
	p = ledgertest.NewPublished(t)
	p.Govern()
	p.Disclose(300)
	p.TurnAt(proof.TimeOf(time.Now()))
	p.Sign()
	s := httptest.NewServer(tiles.Handler(p.Dir))
	t.Cleanup(s.Close)
	return p, s.URL, write(t, t.TempDir(), "policy", p.PolicyText)
}

func TestFsckCommand(t *testing.T) {
	p, url, policy := published(t)
	for _, place := range []string{url, p.Dir} {
		code, out, errs := run("fsck", place, "--policy", policy)
		if code != Proven || !strings.Contains(out, "SOUND") || !strings.Contains(out, "300 disclosure@v1") || errs != "" {
			t.Errorf("%d %s %s", code, out, errs)
		}
	}
	state := filepath.Join(t.TempDir(), "state")
	for _, from := range []uint64{0, p.Size()} {
		code, out, errs := run("fsck", url, "--policy", policy, "--json", "--state", state, "--checkpoint", filepath.Join(p.Dir, "checkpoint"))
		var r fsck.Report
		if err := json.Unmarshal([]byte(out), &r); err != nil || code != Proven || !r.Complete || r.From != from || r.Findings == nil || r.Witnesses == nil {
			t.Errorf("%d %s %s %v", code, out, errs, err)
		}
	}
	p.Raw([]byte("x"))
	p.Sign()
	code, out, _ := run("fsck", url, "--policy", policy)
	if code != Refused || !strings.Contains(out, "FAULTS: 1") || !strings.Contains(out, "entry.malformed") || !strings.Contains(out, "what to do: Keep") || !strings.Contains(out, "entry 307:") {
		t.Errorf("%d %s", code, out)
	}
	p.SignWith()
	if code, out, _ := run("fsck", url, "--policy", policy, "--json"); code != Refused || !strings.Contains(out, "checkpoint.unwitnessed") {
		t.Errorf("%d %s", code, out)
	}
	key := write(t, t.TempDir(), "key", p.VKey+"\n")
	if code, out, _ := run("fsck", url, "--log-key", key); code != Refused || !strings.Contains(out, "without a quorum") {
		t.Errorf("%d %s", code, out)
	}
	for _, args := range [][]string{
		{"fsck"}, {"fsck", url, url}, {"fsck", url}, {"fsck", "http://127.0.0.1:1", "--policy", policy, "--attempts", "1"}, {"fsck", t.TempDir(), "--policy", policy}, {"fsck", filepath.Join(t.TempDir(), "none"), "--policy", policy},
		{"fsck", url, "--policy", policy, "--checkpoint", policy}, {"fsck", url, "--policy", policy, "--timeout", "0s"}, {"fsck", url, "--log-key", ledgertest.NewPublished(t).VKey},
		{"fsck", url, "--policy", policy, "--state", policy},
	} {
		if code, _, errs := run(args...); code != Input || errs == "" {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
}

func TestMirrorCommand(t *testing.T) {
	p, url, policy := published(t)
	dir := filepath.Join(t.TempDir(), "mirror")
	code, out, errs := run("mirror", url, dir, "--policy", policy)
	if code != Proven || !strings.Contains(out, "307 entries") || errs != "" {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	if code, out, errs := run("fsck", dir, "--policy", policy); code != Proven {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if code, out, errs := run("mirror", url, dir, "--policy", policy); code != Proven || !strings.Contains(out, "307 entries, 0 of them new") || errs != "" {
		t.Errorf("there is nothing new, and it says %d %s %s", code, out, errs)
	}
	h := p.Blob([]byte("lost"))
	if err := os.Remove(filepath.Join(p.Dir, fsck.BlobName(h))); err != nil {
		t.Fatal(err)
	}
	p.Append(proof.PolicyActivated{Revision: "r2", Bundle: h})
	p.Sign()
	code, out, _ = run("mirror", url, dir, "--policy", policy, "--json")
	var r copied
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != Refused || len(r.Missing) != 1 || r.Size != p.Size() || r.Added != 1 {
		t.Errorf("%d %s %v", code, out, err)
	}
	forked := p.Checkpoint(p.Size(), proof.Hash{1}, p.Witnesses...)
	if err := tiles.WriteFile(p.Dir, "checkpoint", forked); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := run("mirror", url, dir, "--policy", policy); code != Refused || !strings.Contains(errs, mirror.ErrFork.Error()) || !strings.Contains(errs, filepath.Join(dir, "evidence")) {
		t.Errorf("%d %s", code, errs)
	}
	if code, _, errs := run("mirror", "http://127.0.0.1:1", dir, "--policy", policy, "--attempts", "1"); code != Input || strings.Count(errs, "refused") != 1 {
		t.Errorf("one mistake is said once: %d %s", code, errs)
	}
	for _, args := range [][]string{
		{"mirror", url}, {"mirror", url, dir}, {"mirror", "http://127.0.0.1:1", dir, "--policy", policy, "--attempts", "1"}, {"mirror", url, policy, "--policy", policy}, {"mirror", url, dir, "--policy", policy, "--every", "0s"},
		{"mirror", url, dir, "--policy", policy, "--serve", "nowhere:x"},
	} {
		if code, _, errs := run(args...); code != Input || errs == "" {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
}

// A log that serves something else than it signed is refuted, by mirror as by fsck. A mirror that is damaged itself is not.
func TestMirrorOfADamagedLog(t *testing.T) {
	p, url, policy := published(t)
	name := filepath.Join(p.Dir, "tile", "entries", "000")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	if err := os.WriteFile(name, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{{"mirror", url, t.TempDir()}, {"fsck", url}} {
		if code, out, errs := run(append(command, "--policy", policy)...); code != Refused {
			t.Errorf("%s: %d %s %s", command[0], code, out, errs)
		}
	}
}

// What isn't said of the log but of the machine, the flags or the network has exit code 2, whatever library says it.
func TestNothingIsRefuted(t *testing.T) {
	p, url, policy := published(t)
	for _, args := range [][]string{
		{"keygen", "a", "--out", filepath.Join(t.TempDir(), "none", "x")}, {"nothing"}, {"fsck", "--nothing"}, {"help", "--nothing"}, {"completion", "zsh", "x"}, {"tlog-proof", policy},
		{"reconcile", "-", "--policy", policy}, {"monitor", url, "--policy", policy, "--state", t.TempDir(), "--once", "--listen", "localhost:0"},
	} {
		if code, _, errs := run(args...); code != Input || errs == "" {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
	var errs bytes.Buffer
	if code := Main([]string{"keygen", "a", "--out", filepath.Join(t.TempDir(), "x")}, strings.NewReader(""), closed{}, &errs); code != Input || errs.Len() == 0 {
		t.Errorf("the output is closed: %d %s", code, errs.String())
	}
	if code, _, errs := run("fsck", filepath.Dir(p.Dir), "--policy", policy); code != Input || !strings.Contains(errs, "directory public") {
		t.Errorf("a directory beside the log: %d %s", code, errs)
	}
}

// TestOneRule: what another log signed can't be checked, by no command; a false signature of a key that was given is refuted by each, and so is a log that doesn't have what it signed.
func TestOneRule(t *testing.T) {
	receipts, dir := load(t)
	histories, _, _ := loadHistories(t)
	receipt, history := receipts.Good[0].Text, histories.Good[0].Text
	rPolicy, hPolicy := write(t, dir, "policy", receipts.Common.Policy), write(t, dir, "hpolicy", histories.Common.Policy)
	_, other, err := note.GenerateKey(rand.Reader, "regard.example/log")
	if err != nil {
		t.Fatal(err)
	}
	// forge changes a byte of the signature after a name, behind the key's id.
	forge := func(text string) string {
		t.Helper()
		at := strings.LastIndex(text, "— ")
		at += strings.Index(text[at+len("— "):], " ") + len("— ") + 30
		was := text[at]
		now := byte('A')
		if was == now {
			now = 'B'
		}
		return text[:at] + string(now) + text[at+1:]
	}
	held := func(name, receipt string) string {
		b, err := json.Marshal(map[string]any{"id": "x", "role": "agency", "state": "witnessed", "receipts": []string{receipt}})
		if err != nil {
			t.Fatal(err)
		}
		return write(t, dir, name, string(b)+"\n")
	}
	p, url, policy := published(t)
	log := func(change func(copy string)) string {
		t.Helper()
		copy := filepath.Join(t.TempDir(), "log")
		if err := os.CopyFS(copy, os.DirFS(p.Dir)); err != nil {
			t.Fatal(err)
		}
		change(copy)
		return copy
	}
	forged := log(func(copy string) {
		name := filepath.Join(copy, "checkpoint")
		b, err := os.ReadFile(name)
		if err == nil {
			err = os.WriteFile(name, []byte(forge(string(b))), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	lacking := log(func(copy string) {
		if err := os.Remove(filepath.Join(copy, "tile", "entries", "000")); err != nil {
			t.Fatal(err)
		}
	})
	huge := log(func(copy string) {
		if err := os.Truncate(filepath.Join(copy, "tile", "entries", "000"), 1<<20); err != nil {
			t.Fatal(err)
		}
	})
	nothing := write(t, dir, "nothing", "")
	for _, c := range []struct {
		want int
		args []string
	}{
		{Input, []string{"verify", "--log-key", other, write(t, dir, "receipt", receipt)}},
		{Input, []string{"verify-history", "--log-key", other, write(t, dir, "history", history)}},
		{Input, []string{"reconcile", "--log-key", other, held("held", receipt)}},
		{Input, []string{"fsck", url, "--log-key", other}},
		{Input, []string{"mirror", url, t.TempDir(), "--log-key", other}},
		{Input, []string{"replay", nothing, "--log", url, "--log-key", other}},
		{Refused, []string{"verify", "--policy", rPolicy, "--allow-provisional", write(t, dir, "forged receipt", forge(receipt))}},
		{Refused, []string{"verify-history", "--policy", hPolicy, "--allow-provisional", write(t, dir, "forged history", forge(history))}},
		{Refused, []string{"reconcile", "--policy", rPolicy, "--allow-provisional", held("forged held", forge(receipt))}},
		{Refused, []string{"fsck", forged, "--policy", policy}},
		{Refused, []string{"mirror", forged, t.TempDir(), "--policy", policy}},
		{Refused, []string{"replay", nothing, "--log", forged, "--policy", policy}},
		{Refused, []string{"fsck", lacking, "--policy", policy}},
		{Refused, []string{"mirror", lacking, t.TempDir(), "--policy", policy}},
		{Refused, []string{"replay", nothing, "--log", lacking, "--policy", policy}},
		{Refused, []string{"fsck", huge, "--policy", policy}},
		{Refused, []string{"mirror", huge, t.TempDir(), "--policy", policy}},
		{Refused, []string{"replay", nothing, "--log", huge, "--policy", policy}},
	} {
		if code, out, errs := run(c.args...); code != c.want || out+errs == "" {
			t.Errorf("%s: %d, want %d: %s%s", c.args, code, c.want, out, errs)
		}
	}
}

type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, os.ErrClosed }

// background runs a command until the returned function sends SIGTERM, which returns its exit code.
func background(t *testing.T, args ...string) (out *output.Buffer, stop func() int) {
	t.Helper()
	out = &output.Buffer{}
	done := make(chan int, 1)
	go func() { done <- Main(args, strings.NewReader(""), out, out) }()
	return out, func() int {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case code := <-done:
			return code
		case <-time.After(patience):
			t.Fatalf("it doesn't end: %s", out)
			return 0
		}
	}
}

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// eventually waits for what another goroutine brings about.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(25 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

// A mirror follows and serves until SIGTERM.
func TestMirrorFollows(t *testing.T) {
	p, url, policy := published(t)
	addr, dir := ledgertest.FreeAddress(t), t.TempDir()
	out, stop := background(t, "mirror", url, dir, "--policy", policy, "--follow", "--every", "50ms", "--serve", addr)
	served := func() string { _, body := get(t, "http://"+addr+"/checkpoint"); return body }
	eventually(t, "it serves nothing", func() bool { return strings.HasPrefix(served(), ledgertest.Origin) })
	p.Disclose(10)
	cp := p.Sign()
	eventually(t, "it doesn't follow", func() bool { return served() == string(cp.Note()) })
	h := p.Blob([]byte("lost"))
	if err := os.Remove(filepath.Join(p.Dir, fsck.BlobName(h))); err != nil {
		t.Fatal(err)
	}
	p.Append(proof.PolicyActivated{Revision: "r2", Bundle: h})
	cp = p.Sign()
	eventually(t, "it doesn't follow", func() bool { return served() == string(cp.Note()) })
	time.Sleep(300 * time.Millisecond) // several looks
	p.Blob([]byte("lost"))
	eventually(t, "it doesn't fetch what was missing", func() bool { _, err := os.Stat(filepath.Join(dir, fsck.BlobName(h))); return err == nil })
	if code := stop(); code != Proven {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(out.String(), "as it should"); n != 1 {
		t.Errorf("what is missing is said %d times: %s", n, out)
	}
	if code, out, _ := run("fsck", dir, "--policy", policy); code != Proven {
		t.Error(out)
	}
}

func TestMonitorCommand(t *testing.T) {
	p, url, policy := published(t)
	state := filepath.Join(t.TempDir(), "state")
	base := []string{"monitor", url, "--policy", policy, "--state", state, "--once"}
	code, out, errs := run(append(base, "--receipt", filepath.Join(p.Dir, "checkpoint"))...)
	if code != Proven || !strings.Contains(out, "QUIET") || errs != "" {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	p.Raw([]byte("x"))
	p.Sign()
	code, out, _ = run(append(base, "--json")...)
	var st monitor.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != Refused || len(st.Alarms) != 1 || len(st.Events) != 1 {
		t.Fatalf("%d %s %v", code, out, err)
	}
	if code, out, errs := run(append(base, "--json")...); code != Refused || !strings.Contains(out, `"events": []`) || errs != "" {
		t.Errorf("nothing new is an empty list: %d %s %s", code, out, errs)
	}
	if code, out, _ := run(base...); code != Refused || !strings.Contains(out, "ALARMS: 1") || !strings.Contains(out, "what to do") {
		t.Errorf("%d %s", code, out)
	}
	if code, _, errs := run(append(base, "--acknowledge", "entry.malformed@entry 1")...); code != Input || !strings.Contains(errs, "no alarm") {
		t.Errorf("acknowledging what isn't there: %d %s", code, errs)
	}
	if code, out, _ := run(append(base, "--acknowledge", st.Alarms[0].Key())...); code != Proven || !strings.Contains(out, "acknowledged") {
		t.Errorf("%d %s", code, out)
	}
	if code, out, errs := run("monitor", "http://127.0.0.1:1", "--policy", policy, "--state", t.TempDir(), "--once", "--attempts", "1"); code != Input || strings.Count(errs, "no place serves the log") != 1 || !strings.Contains(out, ": NOT FOLLOWED\n") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	secret := write(t, t.TempDir(), "secret", "short")
	for _, args := range [][]string{
		{"monitor", url, "--policy", policy}, {"monitor", "--policy", policy, "--state", state}, {"monitor", url, "--state", state}, append(base, "--receipt", policy), append(base, "--receipt", filepath.Join(state, "none")),
		append(base, "--webhook", url), append(base, "--webhook", url, "--webhook-secret", secret), append(base, "--every", "0s"), {"monitor", url, url, "--policy", policy, "--state", state},
	} {
		if code, _, errs := run(args...); code != Input || errs == "" {
			t.Errorf("%v: %d %s", args, code, errs)
		}
	}
}

// A monitor says alarms as they come, serves metrics and its status, sends to the webhook, and ends with SIGTERM.
func TestMonitorRuns(t *testing.T) {
	p, url, policy := published(t)
	var sent output.Buffer
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(&sent, r.Body) }))
	defer hook.Close()
	addr := ledgertest.FreeAddress(t)
	secret := write(t, t.TempDir(), "secret", strings.Repeat("s", 40))
	state := t.TempDir()
	out, stop := background(t, "monitor", url, "--policy", policy, "--state", state, "--every", "50ms", "--listen", addr, "--webhook", hook.URL, "--webhook-secret", secret)
	eventually(t, "it isn't well", func() bool { code, _ := get(t, "http://"+addr+"/healthz"); return code == http.StatusOK })
	p.Raw([]byte("x"))
	p.Sign()
	eventually(t, "no alarm", func() bool { return strings.Contains(out.String(), "RAISED critical entry.malformed@entry 307") })
	eventually(t, "nothing is sent", func() bool { return strings.Contains(sent.String(), `"code":"entry.malformed"`) })
	if code, body := get(t, "http://"+addr+"/metrics"); code != http.StatusOK || !strings.Contains(body, `regard_monitor_alarms{code="entry.malformed",severity="critical"} 1`) {
		t.Errorf("%d %s", code, body)
	}
	if code, body := get(t, "http://"+addr+"/status"); code != http.StatusOK || !strings.Contains(body, `"entry.malformed"`) {
		t.Errorf("%d %s", code, body)
	}
	if code, said, errs := run("monitor", url, "--policy", policy, "--state", state, "--acknowledge", "entry.malformed@entry 307"); code != Proven || !strings.Contains(said, "is running") {
		t.Errorf("%d %s %s", code, said, errs)
	}
	eventually(t, "it doesn't count as acknowledged", func() bool {
		_, body := get(t, "http://"+addr+"/metrics")
		return !strings.Contains(body, "entry.malformed")
	})
	if code, _, errs := run("monitor", url, "--policy", policy, "--state", state, "--once"); code != Input || !strings.Contains(errs, monitor.ErrLocked.Error()) {
		t.Errorf("%d %s", code, errs)
	}
	if code := stop(); code != Proven {
		t.Errorf("exit code %d", code)
	}
	if n := strings.Count(out.String(), "RAISED"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}
