// Command gosec runs gosec's rules over the packages of the module in the current directory (tests and nested modules apart)
// and fails on any finding. gosec's own command links the client libraries of language models to propose repairs; without
// them there is half as much to build and to trust.
//
// A finding that is right but harmless gets "// #nosec Gnnn -- why" on its line; without a rule and a reason it stays a finding.
package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/securego/gosec/v2"
	"github.com/securego/gosec/v2/analyzers"
	"github.com/securego/gosec/v2/issue"
	"github.com/securego/gosec/v2/rules"
)

// leftOut are the rules not applied, each for a reason.
var leftOut = []string{
	"G104", // unhandled errors: flags what can't fail (hash.Write, strings.Builder) along with the rest; staticcheck and review
	"G115", // integer conversions: flags each conversion of a length or a log index, whatever was checked before it
	"G304", // file path from a variable: secrets and data are configured by path, that is the operator's right
}

func main() {
	findings, err := run(os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "gosec:", err)
		os.Exit(2)
	}
	if findings > 0 {
		fmt.Fprintf(os.Stderr, "gosec: %d findings\n", findings)
		os.Exit(1)
	}
}

func run(out io.Writer) (int, error) {
	packages, err := directories()
	if err != nil {
		return 0, err
	}
	config := gosec.NewConfig()
	config.SetGlobal(gosec.NoSecRequireRules, "true")
	config.SetGlobal(gosec.NoSecRequireJustification, "true")

	const withTests, withGenerated, tracking = false, true, false
	a := gosec.NewAnalyzer(config, withTests, withGenerated, tracking, runtime.GOMAXPROCS(0), log.New(io.Discard, "", 0))
	a.LoadRules(rules.Generate(tracking, rules.NewRuleFilter(true, leftOut...)).RulesInfo())
	a.LoadAnalyzers(analyzers.Generate(tracking, analyzers.NewAnalyzerFilter(true, leftOut...)).AnalyzersInfo())
	if err := a.Process(nil, packages...); err != nil {
		return 0, err
	}

	issues, metrics, failures := a.Report()
	for file, list := range failures {
		return 0, fmt.Errorf("%s: %s", file, list[0].Err)
	}
	// A load that went wrong in silence must not pass for a clean module.
	if metrics.NumFiles == 0 {
		return 0, fmt.Errorf("looked at no file in %d packages", len(packages))
	}
	here, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	slices.SortFunc(issues, func(a, b *issue.Issue) int { return strings.Compare(a.FileLocation(), b.FileLocation()) })
	for _, i := range issues {
		file, err := filepath.Rel(here, i.File)
		if err != nil {
			file = i.File
		}
		fmt.Fprintf(out, "%s:%s:%s: %s: %s (severity %s, confidence %s)\n", file, i.Line, i.Col, i.RuleID, i.What, i.Severity, i.Confidence)
	}
	fmt.Fprintf(out, "%d packages, %d files, %d lines, %d #nosec\n", len(packages), metrics.NumFiles, metrics.NumLines, metrics.NumNosec)
	return len(issues), nil
}

// directories lists the module's packages as the go command sees them, so without nested modules. Patterns given as
// arguments narrow it.
func directories() ([]string, error) {
	patterns := os.Args[1:]
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	cmd := exec.Command("go", append([]string{"list", "-f", "{{if .GoFiles}}{{.Dir}}{{end}}"}, patterns...)...) // #nosec G204 G702 -- a developer's own arguments
	cmd.Stderr = os.Stderr
	list, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	dirs := strings.Fields(string(bytes.TrimSpace(list)))
	if len(dirs) == 0 {
		return nil, fmt.Errorf("no packages to look at")
	}
	return dirs, nil
}
