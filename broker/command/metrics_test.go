package command

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/regard-broker/regard/broker/config"
	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
	"github.com/regard-broker/regard/ledger/ledgertest"
	"github.com/regard-broker/regard/ledger/monitor"
	"github.com/regard-broker/regard/ledger/witness"
)

var (
	metricName = regexp.MustCompile(`\bregard_[a-z0-9_]+\b`)
	metricHelp = regexp.MustCompile(`(?m)^# TYPE (regard_[a-z0-9_]+) (\w+)$`)
)

// seriesName is that of one of a histogram's series.
var seriesName = regexp.MustCompile(`_(bucket|sum|count)$`)

// published are the metrics in a page of Prometheus's text format, with the names that a histogram gives to its series.
func published(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range metricHelp.FindAllStringSubmatch(text, -1) {
		out[m[1]] = true
		if m[2] == "histogram" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				out[m[1]+suffix] = true
			}
		}
	}
	return out
}

func get(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %d, %v, %s", url, res.StatusCode, err, b)
	}
	return string(b)
}

func witnessKey(t *testing.T) string {
	t.Helper()
	key, err := witness.NewKey("witness.example")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// described are the metrics that a collector may have.
func described(c prometheus.Collector) map[string]bool {
	ch := make(chan *prometheus.Desc)
	go func() {
		c.Describe(ch)
		close(ch)
	}()
	out := map[string]bool{}
	for d := range ch {
		out[metricName.FindString(d.String())] = true // Desc tells its name in this way alone
	}
	return out
}

// witnessMetrics are those of a witness that was asked once.
func witnessMetrics(t *testing.T) string {
	t.Helper()
	_, log, err := note.GenerateKey(rand.Reader, "log.example/x")
	if err != nil {
		t.Fatal(err)
	}
	key := witnessKey(t)
	state := filepath.Join(t.TempDir(), "witness.db")
	if err := witness.Create(t.Context(), state); err != nil {
		t.Fatal(err)
	}
	w, err := witness.Open(t.Context(), witness.Config{Key: key, State: state, Logs: []witness.Log{{Origin: "log.example/x", VKey: log}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	w.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/add-checkpoint", strings.NewReader("x")))
	rec := httptest.NewRecorder()
	w.Ops().ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	return rec.Body.String()
}

// clusterMetrics are those of two brokers that share a log, and of the signer that grows its tree.
func clusterMetrics(t *testing.T) (broker, signer string) {
	t.Helper()
	c := pgtest.Own(t)
	const main, signed, tree = "main", "signed", "tree"
	for _, name := range []string{main, signed, tree} {
		if err := c.SQL(t.Context(), "postgres", "CREATE DATABASE "+name); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "b")
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	url := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if code, out, errs := run("cluster", "init", "--origin", "regard.example/x", "--store-url-file", url("owner.store", c.Superuser(main)), "--signed-url-file", url("owner.signed", c.Superuser(signed)),
		"--trillian-url-file", url("owner.tree", c.Superuser(tree))); code != OK {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	socket := filepath.Join(t.TempDir(), "log.sock")
	ops := ledgertest.FreeAddress(t)
	set := []string{
		"store.postgres.url_file=" + url("store", c.DSN(main, "regard_broker")), "store.postgres.keeper_url_file=" + url("keeper", c.DSN(main, "regard_keeper")),
		"ledger.signed_url_file=" + url("signed", c.DSN(signed, "regard_signer")), "ledger.trillian.address=unix:" + socket, "public.dir=" + filepath.Join(dir, "public"),
		"keys.keystore.path=" + filepath.Join(dir, "data", "keystore"),
		"signer.store_url_file=" + filepath.Join(dir, "owner.tree"), "signer.listen=unix:" + socket, "signer.ops=" + ops,
	}
	load := func(signer bool, more ...string) *config.Config {
		t.Helper()
		cfg, err := config.Load(config.Source{File: file, Set: append(set[:len(set):len(set)], more...), Signer: signer})
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	s, err := serveSigner(t.Context(), load(true), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	var follows *Instance
	for _, name := range []string{"one", "two"} {
		i, err := Start(t.Context(), load(false, "cluster.name="+name, "data_dir="+filepath.Join(dir, name)), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := i.Stop(context.Background()); err != nil {
				t.Error(err)
			}
		})
		follows = i
	}
	// What follows hands over what it records: an agency, for one.
	data := filepath.Join(dir, "two", "admin.sock")
	if code, out, errs := run("keygen", "--name", "Mairie", "--out", filepath.Join(dir, "mairie")); code != OK {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	if code, out, errs := run("agency", "add", "mairie", "--name", "Mairie", "--siret", "21750001600019", "--cert", filepath.Join(dir, "mairie.pem"), "--socket", data); code != OK {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	text := get(t, "http://"+follows.Addresses["ops"]+"/metrics")
	for _, want := range []string{"regard_leads 0", "regard_cluster_handed_total 1", "regard_cluster_waiting 0", "regard_cluster_refused_total 0", "regard_cluster_term 1", "regard_cluster_members 2"} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("the broker that follows doesn't publish %s", want)
		}
	}
	return text, get(t, "http://"+ops+"/metrics")
}

// Whatever dashboards, alerts and documentation name is what a broker, a signer, a witness or a monitor publishes; and the other way round, nothing that a broker or a signer publishes is shown nowhere.
func TestMetricsAreThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "b")
	file, err := Init(Setup{Dir: dir, Origin: "regard.example/x", API: "127.0.0.1:0", Public: "127.0.0.1:0", Ops: "127.0.0.1:0", Epoch: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	vkey, err := witness.VKey(witnessKey(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Source{File: file, Set: []string{
		"portal.listen=127.0.0.1:0", "portal.url=http://localhost:8444", "portal.operator.name=x", "portal.operator.email=x@example.org",
		"portal.identity.issuer=http://127.0.0.1:1/x", "portal.identity.client_id=x", "portal.identity.client_secret_file=" + write("secret", "x"),
		"signed_dir=" + t.TempDir(), "witnesses.faulty=0", "witnesses.deadline=50ms", "witnesses.timeout=100ms",
		"witnesses.policy=" + write("witnesses", "witness w "+vkey+" http://127.0.0.1:1\nquorum w\n"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	i, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := i.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	// A request of somebody who isn't registered is counted like any other.
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "secrets", "broker.pem"), filepath.Join(dir, "secrets", "broker.key"))
	if err != nil {
		t.Fatal(err)
	}
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{pair}}}} // #nosec G402 -- only that it is asked counts
	defer stranger.CloseIdleConnections()
	res, err := stranger.Get("https://" + i.Addresses["api"] + "/v1/services")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	var text string
	ledgertest.Await(t, "the request to be counted, which it is when its answer is on its way", func() bool {
		text = get(t, "http://"+i.Addresses["ops"]+"/metrics")
		return strings.Contains(text, "\nregard_request_duration_seconds_bucket{") && strings.Contains(text, "\nregard_requests_total{")
	})
	if !strings.Contains(text, "\nregard_ready 1\n") {
		t.Error("regard_ready doesn't say that the broker is ready")
	}
	broker := published(text)
	if !strings.Contains(text, "\nregard_keys_embedded 1\n") {
		t.Error("regard_keys_embedded doesn't say that the keys are on this disk")
	}
	known := maps.Clone(broker)
	maps.Copy(known, published(witnessMetrics(t)))
	sharing, signer := clusterMetrics(t)
	for _, text := range []string{sharing, signer} {
		maps.Copy(broker, published(text))
	}
	if !broker["regard_signer_master"] || !broker["regard_cluster_term"] {
		t.Error("metrics of brokers that share a log, or of the signer, are missing: this test is broken")
	}
	maps.Copy(known, broker)
	maps.Copy(known, described(new(monitor.Monitor).Collector()))

	i.Broker.Drain()
	if text := get(t, "http://"+i.Addresses["ops"]+"/metrics"); !strings.Contains(text, "\nregard_ready 0\n") {
		t.Error("regard_ready doesn't say that the broker takes no more requests")
	}

	root := filepath.Join("..", "..")
	files, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	inDatabase := []string{"regard_broker", "regard_keeper", "regard_signer", "regard_owner", "regard_grow", "regard_add", "regard_integrate"}
	for _, f := range append(files, filepath.Join(root, "deploy", "grafana", "broker.json"), filepath.Join(root, "deploy", "grafana", "rules.yaml")) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range metricName.FindAllString(string(b), -1) {
			shown[name] = true
			if !known[name] && !slices.Contains(inDatabase, name) {
				t.Errorf("%s names %s, and nobody publishes it", f, name)
			}
		}
	}
	if len(shown) < 40 {
		t.Errorf("only %d names found: this test is broken", len(shown))
	}
	for _, name := range slices.Sorted(maps.Keys(broker)) {
		if series := seriesName.MatchString(name); !series && !shown[name] && !shown[name+"_bucket"] {
			t.Errorf("%s is on no dashboard, in no alert and in no documentation", name)
		}
	}
}

// What an alert says to read is there, and the alerts that docs/operate.md names are.
func TestAlertsLeadSomewhere(t *testing.T) {
	rules, err := os.ReadFile(filepath.Join("..", "..", "deploy", "grafana", "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`docs/([a-z]+\.md), "([^"]+)"`).FindAllStringSubmatch(string(rules), -1)
	if len(found) < 5 {
		t.Fatalf("%d references: this test is broken", len(found))
	}
	operate, err := os.ReadFile(filepath.Join("..", "..", "docs", "operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Regard[A-Z][A-Za-z]+)`").FindAllStringSubmatch(string(operate), -1)
	if len(named) < 15 {
		t.Fatalf("%d alerts in operate.md: this test is broken", len(named))
	}
	for _, m := range named {
		if !strings.Contains(string(rules), "- alert: "+m[1]+"\n") {
			t.Errorf("operate.md names the alert %s, which isn't there", m[1])
		}
	}
	for _, m := range found {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", m[1]))
		if err != nil || !regexp.MustCompile(`(?m)^##+ `+regexp.QuoteMeta(m[2])+`$`).Match(text) {
			t.Errorf("%s has no section %q (%v)", m[1], m[2], err)
		}
	}
}
