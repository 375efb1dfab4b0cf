package clustertest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/broker/brokertest"
	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/deploy/pgcluster"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/keys/keystore"
	"github.com/regard-broker/regard/keys/vault"
	"github.com/regard-broker/regard/keys/vault/vaulttest"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/ledgertest/output"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedpg"
	"github.com/regard-broker/regard/ledger/signer"
	"github.com/regard-broker/regard/ledger/witness"
	"github.com/regard-broker/regard/policy"
)

const (
	origin = "regard.example/log"
	siret  = "21750001600019" // with a right check digit
)

// patience is how long something that must come is waited for, and within which agencies must be served again.
const patience = time.Minute

// options say what a world is made of.
type options struct {
	own      bool         // PostgreSQL servers of its own: one for store and tree, one for the signed checkpoint
	settings []string     // of the first one
	slow     bool         // the same, on disks that can be slow
	vault    bool         // root keys in a real Vault, else in a keystore that all brokers open
	witness  bool         // one cosigns the log; not with a Vault
	brokers  int          // 0: two
	prepare  func(*world) // before the first broker starts
}

// world is what several brokers take: databases, Trillian, keys, a provider, and agencies that ask all the time.
type world struct {
	t        testing.TB
	main     *pgcluster.Cluster        // store and tree
	apart    *pgcluster.Cluster        // signed checkpoint
	slow     func(fsync time.Duration) // makes both so
	store    string                    // names of databases
	signed   string
	tree     string
	vault    *vaulttest.Server
	init     vault.InitConfig // of the root keys in it
	signers  []*logServer
	brokers  []*member
	provider *counted
	load     *load
	// What all brokers reach by one wire.
	toProvider, toWitness *wire
	witness               string // its line in a policy
	public                string
	policy                *proof.Policy
	keys                  []string // for verification
	agency                tls.Certificate
}

// member is one of the brokers, whichever process it is at the moment.
type member struct {
	*process
	name                     string
	config                   *brokerChild
	toStore, toSigned, toLog *wire
	toVault                  *wire // if there is one
}

// logServer is a process that is log server and signer.
type logServer struct {
	*process
	toTree *wire
}

// process is this test binary again.
type process struct {
	t      testing.TB
	name   string
	config child
	cmd    *exec.Cmd
	out    *output.Buffer
	ended  chan struct{}
}

func newProcess(t testing.TB, name string, c child) *process {
	p := &process{t: t, name: name, config: c, out: &output.Buffer{}}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", name, p.out)
		}
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	text, err := json.Marshal(p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	cmd, ended := p.cmd, make(chan struct{})
	p.ended = ended
	go func() { defer close(ended); _ = cmd.Wait() }()
}

func (p *process) signal(s syscall.Signal) {
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s)
	}
}

// kill is kill -9.
func (p *process) kill() {
	if p.cmd != nil {
		p.signal(syscall.SIGKILL)
		<-p.ended
	}
}

// terminate ends it in good order.
func (p *process) terminate(t testing.TB) {
	t.Helper()
	p.signal(syscall.SIGTERM)
	ledgertest.Await(t, "the end of "+p.name, func() bool { return p.over() })
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%s ended with %d", p.name, code)
	}
}

func (p *process) over() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

func newWorld(t testing.TB, o options) *world {
	t.Helper()
	w := &world{t: t, public: t.TempDir(), provider: newCounted(t), agency: brokertest.NewCurrentIdentity(t, "agency")}
	w.toProvider = newWire(t, "", w.provider.Listener.Addr().String())
	w.databases(o)
	certs := t.TempDir()
	server := brokertest.NewCurrentIdentity(t, "broker", "127.0.0.1")
	brokertest.WriteIdentity(t, server, filepath.Join(certs, "cert"), filepath.Join(certs, "key"))
	var logs []string
	for i := range 2 {
		logs = append(logs, w.signer(i, 0))
	}
	b := brokerChild{PublicDir: w.public, Cert: filepath.Join(certs, "cert"), Key: filepath.Join(certs, "key")}
	if o.vault {
		w.vault = vaulttest.New(t)
		var res *vault.InitResult
		w.init, res = w.vault.Initialise(vault.InitConfig{WrapKey: "wrap", CheckpointKey: "checkpoint"})
		cfg := w.vault.Config(w.init, res, vault.RoleSequencer)
		w.unwrap(&cfg)
		b.Vault = &vaultClient{cfg.Address, cfg.TransitMount, cfg.AppRoleMount, cfg.WrapKey, cfg.CheckpointKey, cfg.RoleIDFile, cfg.SecretIDFile}
	} else {
		b.Keystore = newKeystore(t)
	}
	if o.witness {
		b.Witnesses = w.newWitness(b.Keystore)
	}
	for i := range max(o.brokers, 2) {
		w.addBroker(fmt.Sprintf("broker%d", i+1), b, logs)
	}
	if o.prepare != nil {
		o.prepare(w)
	}
	for _, m := range w.brokers {
		m.start()
	}
	for _, m := range w.brokers {
		m.await("to be ready", func(s status) bool { return s.NotReady == "" })
	}
	w.keys = w.brokers[0].status(t).LogKeys
	var err error
	if w.policy, err = proof.ParsePolicy([]byte("log " + strings.Join(w.keys, "\nlog ") + "\nquorum none\n")); err != nil {
		t.Fatal(err)
	}
	w.register()
	roots := x509.NewCertPool()
	roots.AddCert(server.Leaf)
	w.load = newLoad(w, roots)
	return w
}

func (w *world) databases(o options) {
	t, ctx := w.t, w.t.Context()
	if o.own || o.slow {
		if o.slow {
			var main, apart func(time.Duration)
			w.main, main = pgtest.Slow(t)
			w.apart, apart = pgtest.Slow(t)
			w.slow = func(d time.Duration) { main(d); apart(d) }
		} else {
			w.main, w.apart = pgtest.Own(t, o.settings...), pgtest.Own(t)
		}
		w.store, w.signed, w.tree = "store", "signed", "tree"
		for _, x := range []struct {
			c    *pgcluster.Cluster
			name string
		}{{w.main, w.store}, {w.apart, w.signed}, {w.main, w.tree}} {
			if err := x.c.SQL(ctx, "postgres", "CREATE DATABASE "+x.name); err != nil {
				t.Fatal(err)
			}
		}
	} else {
		w.main, w.store = pgtest.Database(t)
		w.apart, w.signed = pgtest.Database(t)
		_, w.tree = pgtest.Database(t)
	}
	if err := store.Migrate(ctx, w.main.Superuser(w.store)); err != nil {
		t.Fatal(err)
	}
	if err := signedpg.Prepare(ctx, w.apart.Superuser(w.signed), origin); err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Init(ctx, w.main.Superuser(w.tree)); err != nil {
		t.Fatal(err)
	}
}

// newKeystore makes root keys that several processes can open: none of the tests changes them.
func newKeystore(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	cfg := inDir(dir)
	if err := errors.Join(keystore.CreateKeyFile(cfg.KeyFile), keystore.Create(cfg)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newWitness starts one that cosigns the log whose keys are in a keystore, and returns the policy that names it.
func (w *world) newWitness(keystoreDir string) (policy string) {
	w.t.Helper()
	k, err := keystore.Open(inDir(keystoreDir))
	if err != nil {
		w.t.Fatal(err)
	}
	pub, err := k.PublicKeys(w.t.Context())
	if err := errors.Join(err, k.Close()); err != nil {
		w.t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey(origin, pub[0].Key)
	if err != nil {
		w.t.Fatal(err)
	}
	key, err := witness.NewKey("witness.example/w")
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := witness.Config{Key: key, State: filepath.Join(w.t.TempDir(), "w.db"), Logs: []witness.Log{{Origin: origin, VKey: vkey}}, ClientRate: 1e4, ClientBurst: 1e4}
	if err := witness.Create(w.t.Context(), cfg.State); err != nil {
		w.t.Fatal(err)
	}
	x, err := witness.Open(context.WithoutCancel(w.t.Context()), cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewServer(x.Handler())
	w.t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
		if err := x.Close(); err != nil {
			w.t.Error(err)
		}
	})
	w.toWitness = newWire(w.t, "", srv.Listener.Addr().String())
	w.witness = "witness w " + x.VKey()
	return w.witness + " http://" + w.toWitness.at + "\nquorum w\n"
}

// unwrap puts the secret-id where every process can use it: wrapped, it can be used once.
func (w *world) unwrap(cfg *vault.Config) {
	w.t.Helper()
	token, err := os.ReadFile(cfg.SecretIDFile)
	if err != nil {
		w.t.Fatal(err)
	}
	secret, err := w.vault.Admin().Logical().Unwrap(strings.TrimSpace(string(token)))
	if err != nil {
		w.t.Fatal(err)
	}
	id, ok := secret.Data["secret_id"].(string)
	if !ok {
		w.t.Fatalf("no secret_id in %v", secret.Data)
	}
	w.vault.Write(cfg.SecretIDFile, id+"\n")
	cfg.SecretIDWrapped = false
}

// signer starts a log server that is a signer, too, and returns its address.
func (w *world) signer(i int, late time.Duration) string {
	w.t.Helper()
	socket := filepath.Join(shortDir(w.t), "log")
	wire := wireTo(w.t, w.main)
	p := newProcess(w.t, fmt.Sprintf("signer%d", i+1), child{Signer: &signerChild{DSN: through(wire, w.main.Superuser(w.tree)), Listen: "unix:" + socket, Ops: ledgertest.FreeAddress(w.t), Late: late}})
	p.start()
	w.signers = append(w.signers, &logServer{p, wire})
	p.awaitSigner(w.t)
	return socket
}

func (p *process) awaitSigner(t testing.TB) {
	t.Helper()
	ledgertest.Await(t, p.name, func() bool {
		res, err := http.Get("http://" + p.config.Signer.Ops + "/metrics")
		if err != nil {
			return false
		}
		res.Body.Close()
		return true
	})
}

// master says whether a signer is the one that integrates.
func (p *process) master() bool {
	res, err := http.Get("http://" + p.config.Signer.Ops + "/metrics")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return err == nil && bytes.Contains(text, []byte("regard_signer_master 1\n"))
}

// master waits until one signer integrates, and returns it and the others.
func (w *world) master(t testing.TB) (master *logServer, others []*logServer) {
	t.Helper()
	ledgertest.Await(t, "a master among the signers", func() bool {
		master, others = nil, nil
		for _, p := range w.signers {
			if p.master() {
				master = p
			} else {
				others = append(others, p)
			}
		}
		return master != nil
	})
	return master, others
}

// addBroker prepares a broker, which reaches everything by wires of its own.
func (w *world) addBroker(name string, b brokerChild, logs []string) {
	w.t.Helper()
	m := &member{name: name}
	m.toStore = wireTo(w.t, w.main)
	m.toSigned = wireTo(w.t, w.apart)
	m.toLog = newWire(w.t, "log", logs[0])
	b.Name, b.Listen, b.Ops = name, ledgertest.FreeAddress(w.t), ledgertest.FreeAddress(w.t)
	b.Store, b.Keeper = through(m.toStore, w.main.DSN(w.store, "regard_broker")), through(m.toStore, w.main.DSN(w.store, "regard_keeper"))
	b.Signed = through(m.toSigned, w.apart.DSN(w.signed, "regard_signer"))
	b.Trillian = []string{"unix:" + m.toLog.at}
	for _, l := range logs[1:] {
		b.Trillian = append(b.Trillian, "unix:"+l)
	}
	if b.Vault != nil {
		m.toVault = newWire(w.t, "", w.vault.Addr())
		v := *b.Vault
		v.Address = "http://" + m.toVault.at
		b.Vault = &v
	}
	m.config = &b
	m.process = newProcess(w.t, name, child{Broker: &b})
	w.brokers = append(w.brokers, m)
}

// wireTo lays a wire to a PostgreSQL server.
func wireTo(t testing.TB, c *pgcluster.Cluster) *wire {
	t.Helper()
	const name = ".s.PGSQL.5432"
	return newWire(t, name, filepath.Join(hostOf(c.DSN("", "")), name))
}

func hostOf(dsn string) string { return strings.TrimPrefix(strings.Fields(dsn)[0], "host=") }

// through is an address of a database that leads through a wire.
func through(w *wire, dsn string) string {
	return strings.Replace(dsn, hostOf(dsn), filepath.Dir(w.at), 1)
}

// ask asks a broker's operations endpoint.
func (m *member) ask() (s status, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.config.Ops+"/status", nil)
	if err != nil {
		return s, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return s, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return s, fmt.Errorf("status %d", res.StatusCode)
	}
	return s, json.NewDecoder(res.Body).Decode(&s)
}

func (m *member) status(t testing.TB) status {
	t.Helper()
	s, err := m.ask()
	if err != nil {
		t.Fatalf("%s: %v", m.name, err)
	}
	return s
}

func (m *member) await(what string, so func(status) bool) {
	m.t.Helper()
	ledgertest.Await(m.t, m.name+" "+what, func() bool {
		s, err := m.ask()
		return err == nil && so(s)
	})
}

// leader waits until one broker leads, and returns it and the others.
func (w *world) leader(t testing.TB) (leader *member, others []*member) {
	t.Helper()
	ledgertest.Await(t, "a leader", func() bool {
		leader, others = nil, nil
		for _, m := range w.brokers {
			if s, err := m.ask(); err == nil && s.Leads {
				leader = m
			} else {
				others = append(others, m)
			}
		}
		return leader != nil
	})
	return leader, others
}

const definition = `format: regard/service@v1
id: quotient
version: 1
title: {fr: "Quotient", en: "Quotient"}
provider: {id: caisse, name: "Caisse d'exemple", siret: "13002526500013"}
endpoint: %s/quotient
method: GET
subjects:
  pivot: {birth_name: nomNaissance, each_given_name: "prenoms[]", birth_date: dateNaissance, sex: sexeEtatCivil, birth_place: codeCogInseeCommuneNaissance, birth_country: codeCogInseePaysNaissance, required: [birth_name, birth_country]}
scopes:
  quotient: {title: {fr: "Quotient familial", en: "Family quotient"}, fields: [/data/valeur]}
answer:
  /data/valeur: integer
errors: {code: /errors/0/code, title: /errors/0/title, detail: /errors/0/detail}
limits: {first_byte: 30s, total: 30s, wait: 10s, answer_bytes: 65536, concurrent: 64, persons: 2}
`

// registration is what an operator does once.
type registration struct {
	Certificate []byte // PEM
	Service     []byte
}

func register(r *http.Request, b *broker.Broker) error {
	var reg registration
	if err := json.NewDecoder(r.Body).Decode(&reg); err != nil {
		return err
	}
	block, _ := pem.Decode(reg.Certificate)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	if err := b.AddAgency(r.Context(), "mairie", "Mairie d'Exemple", siret, cert); err != nil {
		return err
	}
	if _, err := b.PutService(r.Context(), reg.Service); err != nil {
		return err
	}
	_, err = b.PutAgreement(r.Context(), policy.Agreement{
		ID: "cantine", Agency: "mairie", Service: "quotient", Scopes: []policy.Scope{"quotient"},
		Purposes: []policy.Purpose{"cantine"}, LegalBases: []policy.LegalBasis{"crpa-l114-8"},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(time.Hour),
	})
	return err
}

func (w *world) register() {
	w.t.Helper()
	text, err := json.Marshal(registration{brokertest.CertificatePEM(w.agency), fmt.Appendf(nil, definition, "http://"+w.toProvider.at)})
	if err != nil {
		w.t.Fatal(err)
	}
	res, err := http.Post("http://"+w.brokers[0].config.Ops+"/register", "application/json", bytes.NewReader(text))
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		said, _ := io.ReadAll(res.Body)
		w.t.Fatalf("registering: %s", said)
	}
}

// counted is a provider that keeps what it was asked.
type counted struct {
	*httptest.Server
	mu    sync.Mutex
	asked map[string]int // by the disclosure's id
}

func newCounted(t testing.TB) *counted {
	p := &counted{asked: map[string]int{}}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("nomNaissance")
		p.mu.Lock()
		p.asked[r.Header.Get("X-Request-Id")]++
		p.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"data":{"valeur":%d}}`, value(name))
	}))
	t.Cleanup(p.Close)
	return p
}

// value is what the provider knows of a person.
func value(name string) int {
	n := 0
	for _, c := range name {
		n = (n*31 + int(c)) % 1_000_003
	}
	return n
}

// letters writes a number as a name.
func letters(n int64) string {
	return strings.Map(func(r rune) rune { return r - '0' + 'A' }, strconv.FormatInt(n, 10))
}
