package holder_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/holder"
	"github.com/regard-broker/regard/broker/service"
	"github.com/regard-broker/regard/ledger/proof"
)

// childEnv makes this program a provider with its guard, as TestKill starts it.
const childEnv = "REGARD_HOLDER_CHILD"

type childConfig struct {
	Dir, URL, Cert, Key, Root, LogKey, Definition string
}

func TestMain(m *testing.M) {
	if file := os.Getenv(childEnv); file != "" {
		if err := child(file); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// child runs until it is killed.
func child(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var c childConfig
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return err
	}
	root, err := os.ReadFile(c.Root)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	policy, err := proof.NewPolicy(c.LogKey)
	if err != nil {
		return err
	}
	def, err := service.Parse([]byte(c.Definition))
	if err != nil {
		return err
	}
	identify, err := holder.Definitions([]*service.Definition{def})
	if err != nil {
		return err
	}
	g, err := holder.NewGuard(context.Background(), holder.GuardConfig{
		Dir: c.Dir, Providers: []string{"caisse"}, Broker: holder.Connection{URL: c.URL, Certificate: pair, Roots: roots}, Policy: policy, AcceptSigned: true, Identify: identify,
		Times: holder.Times{Poll: 20 * time.Millisecond, SettleEvery: 100 * time.Millisecond},
	})
	if err != nil {
		return err
	}
	s := httptest.NewServer(g.Handler(http.HandlerFunc(household)))
	fmt.Println(s.URL)
	select {}
}

// TestKill: the guard's process is killed (kill -9) at any instant while it answers. Every answer that reached the agency was noted before, and is settled by the process that comes after it.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	dir := t.TempDir()
	c := childConfig{Dir: w.guardIn, URL: w.url, Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), Root: filepath.Join(dir, "root"), Definition: w.yaml}
	brokertest.WriteIdentity(t, w.own, c.Cert, c.Key)
	if err := os.WriteFile(c.Root, w.root, 0o600); err != nil {
		t.Fatal(err)
	}
	vkeys, err := w.b.LogKeys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.LogKey = vkeys[0]
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "child.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		t.Helper()
		cmd := exec.Command(os.Args[0], "-test.run=NONE")
		cmd.Env = append(os.Environ(), childEnv+"="+file)
		cmd.Stderr = t.Output()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		proxy := httputil.NewSingleHostReverseProxy(u)
		proxy.ErrorLog = log.New(io.Discard, "", 0)
		w.enter(proxy.ServeHTTP)
		return cmd
	}
	released := map[string]bool{}
	var mu sync.Mutex
	for round := range 4 {
		cmd := start()
		var dead atomic.Bool
		var wg sync.WaitGroup
		for n := range 6 {
			wg.Go(func() {
				for i := 0; !dead.Load(); i++ {
					a, err := w.b.Disclose(context.Background(), w.caller, w.request(fmt.Sprintf("Exemple %c %c %c", 'A'+round, 'A'+n, 'A'+i%26)))
					if err == nil && a.Outcome == broker.Released {
						mu.Lock()
						released[idOf(a)] = true
						mu.Unlock()
					}
				}
			})
		}
		eventually(t, "some answers", func() error {
			mu.Lock()
			defer mu.Unlock()
			if len(released) < 5*(round+1) {
				return fmt.Errorf("only %d", len(released))
			}
			return nil
		})
		time.Sleep(time.Duration(rand.IntN(600)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		dead.Store(true)
		wg.Wait()
	}
	cmd := start()
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	s, err := holder.OpenStore(t.Context(), w.guardIn, holder.RoleProvider)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "everything to settle", func() error {
		var out bytes.Buffer
		if err := s.Export(t.Context(), &out); err != nil {
			return err
		}
		left := len(released)
		for line := range strings.Lines(out.String()) {
			var x holder.Exported
			if err := json.Unmarshal([]byte(line), &x); err != nil {
				return err
			}
			if x.State == "refuted" {
				t.Fatalf("refuted: %s", x.Code)
			}
			if x.State == "settled" && released[x.ID] {
				left--
			}
		}
		if left > 0 {
			return fmt.Errorf("%d of %d answers are not settled", left, len(released))
		}
		return nil
	})
}
