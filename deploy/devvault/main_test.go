package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regard-broker/regard/deploy/devvault/server"
)

// The way tests use the program: wait for the ready file, work, let go of standard input.
func TestRunUntilStdinCloses(t *testing.T) {
	ready := filepath.Join(t.TempDir(), "ready.json")
	stdin, parent := io.Pipe()
	var stderr bytes.Buffer
	ended := make(chan error, 1)
	go func() { ended <- run([]string{"-ready-file", ready, "-exit-on-stdin-eof"}, stdin, &stderr) }()

	var at server.Ready
	for at.Address == "" {
		select {
		case err := <-ended:
			t.Fatalf("ended before it was ready: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
		if raw, err := os.ReadFile(ready); err == nil {
			if err := json.Unmarshal(raw, &at); err != nil {
				t.Fatalf("half a ready file: %v", err)
			}
		}
	}
	res, err := http.Get(at.Address + "/v1/sys/health")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("health: status %d, want 200", res.StatusCode)
	}

	parent.Close()
	if err := <-ended; err != nil {
		t.Errorf("run: %v", err)
	}
	if _, err := os.Stat(ready); !os.IsNotExist(err) {
		t.Errorf("the ready file outlives the server: %v", err)
	}
	if !strings.Contains(stderr.String(), "Do NOT use it in production") {
		t.Error("no warning on standard error")
	}
	if strings.Contains(stderr.String(), at.RootToken) {
		t.Error("the root token is on standard error")
	}
}

func TestRefusesStrayArguments(t *testing.T) {
	if err := run([]string{"server"}, strings.NewReader(""), io.Discard); err == nil || !strings.Contains(err.Error(), `"server"`) {
		t.Errorf("%v, want a refusal that names the argument", err)
	}
}
