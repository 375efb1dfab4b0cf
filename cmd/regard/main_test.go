package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/regard-broker/regard/broker/admin"
	"github.com/regard-broker/regard/cmd/regard-audit/audit"
	"github.com/regard-broker/regard/deploy/freeport"
	"github.com/regard-broker/regard/deploy/pgcluster"
)

func TestMain(m *testing.M) {
	testscript.Main(clean{m}, map[string]func(){
		"regard":       main,
		"regard-audit": func() { os.Exit(audit.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// clean removes the programs that tests built.
type clean struct{ *testing.M }

func (c clean) Run() int {
	code := c.M.Run()
	if programsBuilt != "" {
		_ = os.RemoveAll(programsBuilt)
	}
	return code
}

// TestScripts runs what people type. Brokers are processes of their own, providers are here.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"API", "PUBLIC", "OPS", "W1", "W2", "W3"} {
				port, err := freeport.New("127.0.0.1")
				if err != nil {
					return err
				}
				e.Defer(port.Close)
				e.Setenv(name, port.Addr())
			}
			e.Setenv("DEVVAULT", os.Getenv("REGARD_DEVVAULT"))
			bundle, err := filepath.Abs("../../policy/bundle")
			if err != nil {
				return err
			}
			e.Setenv("POLICY", bundle)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "vault":
				return os.Getenv("REGARD_DEVVAULT") != "", nil
			case "postgresql":
				_, err := pgcluster.Find()
				return err == nil || os.Getenv("CI") != "", nil // where it has to be there, its absence is an error
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"provider": provider, "asked": asked, "ready": ready, "hup": hup, "expand": expand, "fetch": fetch, "until": until, "logkey": logKey, "id": id, "epoch": epochOf, "vaultfile": vaultFile, "release": release, "closed": closed, "open": opened, "database": database, "typed": typed, "configured": configured},
	})
}

// upstream is a script's provider.
type upstream struct {
	asked atomic.Int64
	gate  chan bool // closed by release: the provider answers to SLOW then
}

var upstreams sync.Map // *testscript.TestScript → *upstream

func upstreamOf(ts *testscript.TestScript) *upstream {
	v, ok := upstreams.Load(ts)
	if !ok {
		ts.Fatalf("this script has no provider")
	}
	return v.(*upstream)
}

// provider starts a provider of the service household; $PROVIDER is its address. provider FILE: with TLS, and FILE has its certificate.
func provider(ts *testscript.TestScript, _ bool, args []string) {
	u := &upstream{gate: make(chan bool)}
	upstreams.Store(ts, u)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.asked.Add(1)
		if strings.EqualFold(r.URL.Query().Get("nomNaissance"), "SLOW") {
			<-u.gate
		}
		fmt.Fprint(w, `{"data": {"quotient": {"valeur": 1234}, "membres": [{"nom": "MARTIN", "prenoms": "CAMILLE", "naissance": "1990-01-31", "sexe": "F"}], "adresse": "1 rue de la Paix"}}`)
	}))
	ts.Defer(s.Close)
	if len(args) == 0 {
		s.Start()
	} else {
		s.Config.ErrorLog = log.New(io.Discard, "", 0) // of refused handshakes
		s.StartTLS()
		ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	}
	ts.Setenv("PROVIDER", s.URL)
}

// asked N: the provider was asked that often.
func asked(ts *testscript.TestScript, _ bool, args []string) {
	if got := fmt.Sprint(upstreamOf(ts).asked.Load()); got != args[0] {
		ts.Fatalf("the provider was asked %s times, not %s", got, args[0])
	}
}

// release lets the provider answer.
func release(ts *testscript.TestScript, _ bool, _ []string) { close(upstreamOf(ts).gate) }

// patience is how long a script waits for what must come.
const patience = 2 * time.Minute

// closed ADDRESS waits until nobody listens there any more.
func closed(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", args[0])
		if err != nil {
			return
		}
		c.Close()
		if time.Now().After(end) {
			ts.Fatalf("somebody still listens")
		}
	}
}

// open ADDRESS waits until somebody listens there.
func opened(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", args[0])
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("nobody listens: %v", err)
		}
	}
}

// ready SOCKET waits for a broker.
func ready(ts *testscript.TestScript, neg bool, args []string) {
	c := admin.NewClient(ts.MkAbs(args[0]))
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		st, err := c.Status(context.Background())
		if (err == nil && st.Ready) != neg {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("not in time: %v %s", err, st.Problem)
		}
	}
}

// production is docs/production.md, and what to replace in it on the machine of a test.
func production(ts *testscript.TestScript) (string, *strings.Replacer) {
	b, err := os.ReadFile(runbook)
	ts.Check(err)
	return string(b), strings.NewReplacer("/run/postgresql", ts.Getenv("PGHOST"), "/run/user/1000", ts.Getenv("WORK"))
}

// runbook is absolute: scripts run elsewhere.
var runbook = func() string {
	p, err := filepath.Abs("../../docs/production.md")
	if err != nil {
		panic(err)
	}
	return p
}()

// typed BEGINNING types the one command of docs/production.md that begins so, and fails if it does.
func typed(ts *testscript.TestScript, _ bool, args []string) {
	text, here := production(ts)
	var found []string
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "$ "); ok && strings.HasPrefix(command, args[0]) {
			found = append(found, command)
		}
	}
	if len(found) != 1 {
		ts.Fatalf("docs/production.md has %d commands that begin with %q: %q", len(found), args[0], found)
	}
	ts.Check(ts.Exec("bash", "-euc", "umask 077\n"+here.Replace(found[0]))) // as its second command has it for all that follow
}

// configured FILE adds what docs/production.md says that several brokers have in their configuration.
func configured(ts *testscript.TestScript, _ bool, args []string) {
	text, here := production(ts)
	_, text, _ = strings.Cut(text, "Add to `regard.yaml`:\n")
	_, text, _ = strings.Cut(text, "```yaml\n")
	text, _, ok := strings.Cut(text, "```\n")
	if !ok {
		ts.Fatalf("docs/production.md doesn't say what to add")
	}
	f, err := os.OpenFile(ts.MkAbs(args[0]), os.O_WRONLY|os.O_APPEND, 0)
	ts.Check(err)
	for line := range strings.Lines(text) {
		_, err := f.WriteString(here.Replace(strings.TrimPrefix(line, "   "))) // it stands in a list
		ts.Check(err)
	}
	ts.Check(f.Close())
}

// database [NAME…] starts a PostgreSQL server for the script, and writes the connection string of an empty database into the file dsn. For each NAME it makes a database of the role owner, and files
// NAME.ROLE that say how to reach it as the owner and as a broker's roles, which aren't there yet.
func database(ts *testscript.TestScript, _ bool, names []string) {
	dir, err := os.MkdirTemp("", "regard-script-") // the server's user can't pass through the script's
	ts.Check(err)
	ts.Check(os.Chmod(dir, 0o711)) // #nosec G302 -- see above
	c, err := pgcluster.Start(context.Background(), pgcluster.Config{Dir: filepath.Join(dir, "data"), Settings: []string{"fsync = off"}})
	ts.Check(err)
	ts.Defer(func() { ts.Check(errors.Join(c.Close(), os.RemoveAll(dir))) })
	ts.Check(c.SQL(context.Background(), "postgres", "CREATE DATABASE script"))
	ts.Check(os.WriteFile(ts.MkAbs("dsn"), []byte(c.Superuser("script")+"\n"), 0o600))
	// For PostgreSQL's own commands, as its administrator.
	for _, word := range strings.Fields(c.Superuser("postgres")) {
		key, value, _ := strings.Cut(word, "=")
		if variable := map[string]string{"host": "PGHOST", "port": "PGPORT", "user": "PGUSER"}[key]; variable != "" {
			ts.Setenv(variable, value)
		}
	}
	if len(names) > 0 {
		ts.Check(c.SQL(context.Background(), "postgres", "CREATE ROLE owner LOGIN CREATEROLE"))
	}
	for _, name := range names {
		ts.Check(c.SQL(context.Background(), "postgres", "CREATE DATABASE "+name+" OWNER owner"))
		for _, role := range []string{"owner", "regard_broker", "regard_keeper", "regard_signer"} {
			ts.Check(os.WriteFile(ts.MkAbs(name+"."+role), []byte(c.DSN(name, role)+"\n"), 0o600))
		}
	}
}

// hup SOCKET sends SIGHUP to the broker.
func hup(ts *testscript.TestScript, _ bool, args []string) {
	st, err := admin.NewClient(ts.MkAbs(args[0])).Status(context.Background())
	ts.Check(err)
	ts.Check(syscall.Kill(st.PID, syscall.SIGHUP))
}

// expand FILE… puts the values of variables into files.
func expand(ts *testscript.TestScript, _ bool, args []string) {
	for _, f := range args {
		f = ts.MkAbs(f)
		b, err := os.ReadFile(f)
		ts.Check(err)
		ts.Check(os.WriteFile(f, []byte(os.Expand(string(b), ts.Getenv)), 0o600))
	}
}

// fetch URL FILE writes status, headers and body.
func fetch(ts *testscript.TestScript, _ bool, args []string) {
	res, err := http.Get(args[0])
	ts.Check(err)
	defer res.Body.Close()
	f, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	fmt.Fprintln(f, res.Status)
	ts.Check(res.Header.Write(f))
	_, err = f.ReadFrom(res.Body)
	ts.Check(err)
	ts.Check(f.Close())
}

// until TEXT FILE waits until the file holds the text; until TEXT URL until what is served there does; until TEXT -- COMMAND… until the command's output does.
func until(ts *testscript.TestScript, _ bool, args []string) {
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		var b []byte
		if args[1] == "--" {
			_ = ts.Exec(args[2], args[3:]...)
			b = []byte(ts.ReadFile("stdout") + ts.ReadFile("stderr"))
		} else if strings.HasPrefix(args[1], "http://") {
			if res, err := http.Get(args[1]); err == nil {
				b, _ = io.ReadAll(res.Body)
				res.Body.Close()
			}
		} else {
			b, _ = os.ReadFile(ts.MkAbs(args[1]))
		}
		if strings.Contains(string(b), args[0]) {
			return
		}
		if time.Now().After(end) {
			ts.Fatalf("no %q in time in:\n%s", args[0], b)
		}
	}
}

// logkey STATUS FILE writes the log's newest key.
func logKey(ts *testscript.TestScript, _ bool, args []string) {
	var st admin.Status
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &st))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(st.Log.Keys[0]+"\n"), 0o600))
}

// id RESULT sets $ID to the disclosure's id.
func id(ts *testscript.TestScript, _ bool, args []string) {
	var r struct {
		ID string `json:"id"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &r))
	ts.Setenv("ID", r.ID)
}

// epoch RECORDS sets $EPOCH to the epoch of the first opened record.
func epochOf(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile(`\\nepoch ([0-9]+)\\n`).FindStringSubmatch(ts.ReadFile(args[0]))
	if m == nil {
		ts.Fatalf("no epoch in %s", args[0])
	}
	ts.Setenv("EPOCH", m[1])
}

// vaultfile READY TOKEN sets $VAULT to the test server's address and writes its root token.
func vaultFile(ts *testscript.TestScript, _ bool, args []string) {
	var r struct {
		Address string `json:"address"`
		Root    string `json:"root_token"`
	}
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &r))
	ts.Setenv("VAULT", r.Address)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(r.Root), 0o600))
}
