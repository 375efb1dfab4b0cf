package witness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// childEnv names the file with the configuration of a witness that this very program runs instead of its tests.
const childEnv = "REGARD_TEST_WITNESS"

// child is how a witness is run in a process of its own. DieAt kills it when the state of that many requests is durable and the answer hasn't left; 0: never.
type child struct {
	Key, State string
	Logs       []Log
	DieAt      int
}

func (c Config) child(dieAt int) child { return child{c.Key, c.State, c.Logs, dieAt} }

func TestMain(m *testing.M) {
	if file := os.Getenv(childEnv); file != "" {
		runChild(file)
		return
	}
	os.Exit(m.Run())
}

func runChild(file string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		fail(err)
	}
	var c child
	if err := json.Unmarshal(b, &c); err != nil {
		fail(err)
	}
	cfg := Config{Key: c.Key, State: c.State, Logs: c.Logs, ClientRate: 1e6, ClientBurst: 1e6}
	if c.DieAt > 0 {
		n := 0 // updates come one after another
		cfg.at = func() {
			if n++; n == c.DieAt {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	}
	w, err := Open(context.Background(), cfg)
	if err != nil {
		fail(err)
	}
	srv := &Server{file: &File{}, log: w.log}
	if err := srv.listen("127.0.0.1:0", w.Handler(), 256, false); err != nil {
		fail(err)
	}
	fmt.Println(srv.listener[0].Addr())
	fail(srv.serving[0]())
}

// run starts a witness in another process and returns its URL.
func (c child) run(t *testing.T) (string, *exec.Cmd) {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "child.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+file)
	cmd.Stderr = io.Discard
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the witness did not start: %v", err)
	}
	return "http://" + strings.TrimSpace(addr), cmd
}

// Killed between store and answer, a witness remembers what nobody got a cosignature of: another root of that size is refused, and the log can go on.
func TestKilledBetweenStoreAndAnswer(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 30, "entry")
	fork := l.fork(t, 10)
	fork.grow(t, 30, "fork")
	cfg := newConfig(t, l)
	url, cmd := cfg.child(2).run(t)
	if a := post(t, url, l.ask(t, 0, 10)); a.status != http.StatusOK {
		t.Fatalf("%+v", a)
	}
	if res, err := http.Post(url+"/add-checkpoint", "", strings.NewReader(l.ask(t, 10, 20))); err == nil {
		res.Body.Close()
		t.Fatalf("an answer came from a witness that was killed: %d", res.StatusCode)
	}
	_ = cmd.Wait()
	url, _ = cfg.child(0).run(t)
	if a := post(t, url, fork.ask(t, 10, 20)); a.status != http.StatusConflict || a.body != "20\n" {
		t.Errorf("growth from what was cosigned before: %+v", a)
	}
	if a := post(t, url, fork.ask(t, 20, 20)); a.status != http.StatusUnprocessableEntity {
		t.Errorf("another root of the size: %+v", a)
	}
	if a := post(t, url, fork.ask(t, 20, 30)); a.status != http.StatusUnprocessableEntity {
		t.Errorf("growth of the fork: %+v", a)
	}
	if a := post(t, url, l.ask(t, 20, 20)); a.status != http.StatusOK {
		t.Errorf("the cosignature that got lost, again: %+v", a)
	}
	if a := post(t, url, l.ask(t, 20, 30)); a.status != http.StatusOK {
		t.Errorf("growth: %+v", a)
	}
}

// Two histories of a log are sent to a witness that is killed again and again, at any instant: of each size it has cosigned one root at most, and all of one history.
func TestKillCampaign(t *testing.T) {
	l := newLog(t, "log.example/one")
	l.grow(t, 400, "entry")
	fork := l.fork(t, 1)
	fork.grow(t, 400, "fork")
	cfg := newConfig(t, l)
	var mu sync.Mutex
	cosigned := map[int64]int{} // size → side
	next := int64(1)
	r := rand.New(rand.NewPCG(7, 7))
	for range 8 {
		url, cmd := cfg.child(0).run(t)
		// After some cosignatures, and at any instant from then on.
		enough, after := 4+r.IntN(8), time.Duration(r.IntN(5000))*time.Microsecond
		kill := sync.OnceFunc(func() { time.AfterFunc(after, func() { _ = cmd.Process.Kill() }) })
		var wg sync.WaitGroup
		for side, log := range []*somebodysLog{l, fork} {
			wg.Go(func() {
				at := int64(0)
				for {
					mu.Lock()
					size := min(next+at%3, 400)
					mu.Unlock()
					old := min(at, size)
					res, err := http.Post(url+"/add-checkpoint", "", strings.NewReader(log.ask(t, old, size)))
					if err != nil {
						return // killed
					}
					b, err := io.ReadAll(res.Body)
					res.Body.Close()
					switch {
					case err != nil:
						return
					case res.StatusCode == http.StatusOK && len(b) > 0:
						mu.Lock()
						if was, ok := cosigned[size]; ok && was != side && size > 1 {
							t.Errorf("both roots of size %d are cosigned", size)
						}
						cosigned[size] = side
						if enough--; enough == 0 {
							kill()
						}
						next = max(next, size+1)
						mu.Unlock()
						at = size
					case res.StatusCode == http.StatusConflict:
						if at, err = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err != nil {
							t.Errorf("409 with %q", b)
							return
						}
						mu.Lock()
						next = max(next, at)
						mu.Unlock()
					case res.StatusCode == http.StatusUnprocessableEntity:
						time.Sleep(time.Millisecond)
					default:
						t.Errorf("%d %s", res.StatusCode, b)
						return
					}
				}
			})
		}
		wg.Wait()
		_ = cmd.Wait()
	}
	sides := map[int]int{}
	for size, side := range cosigned {
		if size > 1 { // the first entry is the same on both
			sides[side]++
		}
	}
	if len(sides) != 1 || len(cosigned) < 20 {
		t.Errorf("cosigned by history: %v", sides)
	}
}
