package manifests

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// others are the metrics in the rules that aren't ours: of Prometheus itself and of node_exporter.
var others = []string{"up", "node_filesystem_avail_bytes", "node_filesystem_size_bytes", "node_filesystem_readonly", "node_textfile_mtime_seconds"}

// Prometheus loads the rules, each alert says to whom it matters and what it is about, and is of metrics that somebody publishes (which of ours there are, broker/command tests).
func TestRules(t *testing.T) {
	text, err := os.ReadFile(deploy("grafana", "rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	groups, errs := rulefmt.Parse(text, false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	seen := map[string]bool{}
	promql := parser.NewParser(parser.Options{})
	for _, g := range groups.Groups {
		for _, r := range g.Rules {
			expr, err := promql.ParseExpr(r.Expr)
			if err != nil {
				t.Fatalf("%s: %v", r.Alert, err)
			}
			parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
				if v, ok := n.(*parser.VectorSelector); ok && !strings.HasPrefix(v.Name, "regard_") && !slices.Contains(others, v.Name) {
					t.Errorf("%s names %s: whose is it?", r.Alert, v.Name)
				}
				return nil
			})
			if seen[r.Alert] {
				t.Errorf("two alerts are named %s", r.Alert)
			}
			seen[r.Alert] = true
			if s := r.Labels["severity"]; s != "page" && s != "ticket" {
				t.Errorf("%s has the severity %q", r.Alert, s)
			}
			if r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s doesn't say what it is about", r.Alert)
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("%d alerts", len(seen))
	}
}

type target struct {
	Expr, RefID, LegendFormat string
	Datasource                struct{ Type, UID string }
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []target
}

// Each panel of the dashboard has a place of its own and expressions that Prometheus reads, of the brokers and signers that were chosen.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile(deploy("grafana", "broker.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		UID, Title    string
		SchemaVersion int
		Panels        []panel
		Templating    struct{ List []struct{ Name, Type string } }
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(&d); err != nil {
		t.Fatal(err)
	}
	if d.UID == "" || d.Title == "" || d.SchemaVersion < 39 || len(d.Panels) < 20 {
		t.Fatalf("%q %q %d, %d panels", d.UID, d.Title, d.SchemaVersion, len(d.Panels))
	}
	variables := map[string]bool{}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	if !variables["datasource"] || !variables["instance"] || !variables["signer"] {
		t.Errorf("variables %v", variables)
	}
	ids, cells := map[int]bool{}, map[[2]int]string{}
	promql := parser.NewParser(parser.Options{})
	for _, p := range d.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: no id or title of its own", p.ID, p.Title)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := cells[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("%q lies on %q, or outside", p.Title, other)
				}
				cells[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || len(p.Targets) == 0 {
			t.Errorf("%q says nothing or shows nothing", p.Title)
		}
		refs := map[string]bool{}
		for _, x := range p.Targets {
			if refs[x.RefID] || x.RefID == "" || x.Datasource.UID != "${datasource}" {
				t.Errorf("%q: target %q of %q", p.Title, x.RefID, x.Datasource.UID)
			}
			refs[x.RefID] = true
			chosen := `instance=~"$instance"`
			if strings.Contains(x.Expr, "regard_signer_") {
				chosen = `instance=~"$signer"`
			}
			if !strings.Contains(x.Expr, chosen) {
				t.Errorf("%q shows what wasn't chosen: %s", p.Title, x.Expr)
			}
			if _, err := promql.ParseExpr(strings.ReplaceAll(x.Expr, "$__rate_interval", "5m")); err != nil {
				t.Errorf("%q: %s: %v", p.Title, x.Expr, err)
			}
		}
	}
}
