package audit

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/ledger/monitor"
)

// asCommand makes the test binary the command itself, so that it can be killed.
const asCommand = "REGARD_AUDIT_TEST_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

// killed runs the command and kills it after a time, unless it has ended by then.
func killed(t *testing.T, after time.Duration, args ...string) {
	t.Helper()
	c := exec.Command(os.Args[0], args...)
	c.Env = append(os.Environ(), asCommand+"=1")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(after, func() { _ = c.Process.Kill() }) // SIGKILL; it may have ended
	_ = c.Wait()
}

// TestKilled kills the commands that keep something again and again while they work on a growing log: what they kept is whole each time, nothing is lost and nothing is said twice.
func TestKilled(t *testing.T) {
	p, url, policy := published(t)
	dir, state, fsckState := t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "fsck")
	p.Raw([]byte("x"))
	p.Disclose(20_000)
	p.Sign()
	for i := range 8 {
		after := time.Duration(20+40*i) * time.Millisecond
		killed(t, after, "mirror", url, dir, "--policy", policy, "--follow", "--every", "5ms")
		killed(t, after, "monitor", url, "--policy", policy, "--state", state, "--every", "5ms")
		killed(t, after, "fsck", url, "--policy", policy, "--state", fsckState)
		if _, err := os.Stat(filepath.Join(dir, "checkpoint")); err == nil {
			// The one malformed entry is all that is wrong with it.
			if code, out, errs := run("fsck", dir, "--policy", policy, "--json"); code != Refused || !strings.Contains(out, `"complete": true`) || !strings.Contains(out, `"faults": 1,`) {
				t.Fatalf("after %d kills the mirror is not whole: %d %s %s", i+1, code, out, errs)
			}
		}
		p.Disclose(300)
		p.Sign()
	}
	if code, out, errs := run("mirror", url, dir, "--policy", policy); code != Proven {
		t.Errorf("%d %s %s", code, out, errs)
	}
	code, out, errs := run("monitor", url, "--policy", policy, "--state", state, "--once", "--json")
	var st monitor.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != Refused || len(st.Alarms) != 1 || st.Size != p.Size() || len(st.Events) > 1 {
		t.Errorf("%d %s %s %v", code, out, errs, err)
	}
	if code, out, errs := run("fsck", url, "--policy", policy, "--state", fsckState, "--json"); code != Refused || !strings.Contains(out, `"faults": 1,`) || !strings.Contains(out, `"complete": true`) {
		t.Errorf("%d %s %s", code, out, errs)
	}
}
