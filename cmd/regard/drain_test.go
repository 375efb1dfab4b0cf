package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/regard-broker/regard/broker/client"
)

// TestLingers ends the real program while agencies ask: first it is seen not to be ready, and refuses what comes; only then nobody listens any more. What was in hand is answered all the same.
func TestLingers(t *testing.T) {
	k := &killed{t: t, dir: t.TempDir(), bin: programsDir(t), args: []string{"serve", "--config", "b/regard.yaml", "--set", "limits.linger=5m", "--set", "limits.drain=2m"}}
	held, release := make(chan bool, 100), make(chan bool)
	var once sync.Once
	broker, agency := k.begin(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Query().Get("nomNaissance"), "SLOW") {
			held <- true
			<-release
		}
		fmt.Fprint(w, `{"data": {"quotient": {"valeur": 1234}}}`)
	})
	t.Cleanup(func() { once.Do(func() { close(release) }) }) // before the provider closes
	ask := func(name string, i int) error {
		res, err := agency.Disclose(t.Context(), question(name, i), fmt.Sprintf("key-%d", i))
		if err == nil && (res.Outcome != "released" || string(res.Data) != `{"data":{"quotient":{"valeur":1234}}}`) {
			t.Errorf("request %d: %+v", i, res)
		}
		return err
	}
	// In hand when the signal comes:
	const slow = 4
	answers := make(chan error, slow)
	for i := range slow {
		go func() { answers <- ask("SLOW "+string(rune('A'+i)), i) }()
	}
	for range slow {
		<-held
	}
	// And a steady load, which is answered until the signal and told to come again after it, until nobody listens.
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	answered, refused, closed := make(chan bool, 1), make(chan bool, 1), make(chan bool, 1)
	tell := func(c chan bool) {
		select {
		case c <- true:
		default:
		}
	}
	for w := range 3 {
		load.Go(func() {
			for i := 100 * (w + 1); ctx.Err() == nil; i++ {
				err := ask(fmt.Sprintf("EXEMPLE %c%c", 'A'+w, 'A'+i%26), i)
				var p *client.Problem
				switch {
				case err == nil:
					tell(answered)
				case errors.As(err, &p) && p.Status == http.StatusServiceUnavailable && p.Code == "broker.stopping" && p.RetryAfter() > 0:
					tell(refused)
				case errors.Is(err, syscall.ECONNREFUSED):
					tell(closed)
				case ctx.Err() == nil && !gone(err):
					t.Errorf("an agency was told: %v", err)
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
	}
	<-answered
	if err := broker.process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	await(t, "an agency to be told to come again", refused, broker)
	res, err := http.Get("http://" + k.ops + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz answers %s", res.Status)
	}
	if len(closed) > 0 || len(answers) > 0 {
		t.Errorf("nobody listens any more, or what was in hand is at its end: %d", len(answers))
	}
	if err := broker.process.Signal(syscall.SIGINT); err != nil { // which ends the lingering, and nothing else
		t.Fatal(err)
	}
	await(t, "the port to close", closed, broker)
	once.Do(func() { close(release) })
	for range slow {
		if err := <-answers; err != nil {
			t.Errorf("a request that was in hand: %v", err)
		}
	}
	if err := <-broker.ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	broker.ended <- nil
	stop()
	load.Wait()
}

// gone says whether a connection ended that carried no request: of one that is kept alive, and closed when the listener is.
func gone(err error) bool {
	return strings.Contains(err.Error(), "EOF") || errors.Is(err, syscall.ECONNRESET) || strings.Contains(err.Error(), "server sent GOAWAY")
}

// await waits for something that must come.
func await(t *testing.T, what string, c chan bool, broker *serving) {
	t.Helper()
	select {
	case <-c:
	case err := <-broker.ended:
		broker.ended <- err
		t.Fatalf("waiting for %s, and it ended with %v\n%s", what, err, broker.said)
	case <-time.After(patience):
		t.Fatalf("waiting for %s\n%s", what, broker.said)
	}
}
