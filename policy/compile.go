package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

// The names that a bundle must have.
const (
	rootPackage = "regard"
	grantRule   = "data.regard.decision.grant"   // what is granted; undefined if nothing is
	reasonsRule = "data.regard.decision.reasons" // why nothing is
	testSuffix  = "_test"                        // of the packages in files *_test.rego, and of no other
)

// builtins are what a policy may call: pure functions of their arguments, whose answer depends neither on the host (clock, time
// zones, network, randomness, environment) nor on the other decisions, and whose work is bounded by their arguments.
var builtins = []string{
	"eq", "equal", "neq", "gt", "gte", "lt", "lte", "assign", "internal.member_2", "internal.member_3", "internal.template_string",
	"plus", "minus", "mul", "div", "rem", "round", "ceil", "floor", "abs",
	"and", "or", "intersection", "union", "count", "sum", "product", "max", "min", "sort",
	"array.concat", "array.slice", "array.reverse", "array.flatten",
	"object.get", "object.keys", "object.filter", "object.remove", "object.subset", "object.union", "object.union_n",
	"concat", "sprintf", "contains", "startswith", "endswith", "lower", "upper", "indexof", "substring", "split", "replace", "format_int",
	"trim", "trim_left", "trim_prefix", "trim_right", "trim_suffix", "trim_space", "strings.any_prefix_match", "strings.any_suffix_match",
	"regex.match", "to_number", "is_number", "is_string", "is_boolean", "is_array", "is_set", "is_object", "is_null", "type_name",
}

// capabilities restricts OPA to builtins, and to the network not at all. Tests may also name their cases.
func capabilities(testing bool) *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool {
		return !slices.Contains(builtins, b.Name) && (!testing || b.Name != ast.InternalTestCase.Name)
	})
	c.AllowNet = []string{} // nil would mean any host
	c.WasmABIVersions = nil
	return c
}

// compiling lets one compilation run at a time in this process: OPA's compiler writes to terms that all compilations share (ast.transformTerm sets the value of
// package-level terms, if only to what it was).
var compiling sync.Mutex

// program is a bundle that was compiled. It is safe for concurrent use.
type program struct {
	bundle         *Bundle
	grant, reasons rego.PreparedEvalQuery
	residue        *residue // of grant, instead of it; nil if there is none
	services       services
}

// compile compiles the policy of a bundle, without its tests. Errors wrap ErrBundle and name file and line.
//
// With inline, OPA evaluates as much of the policy as it can without an input: what is left of grant is one conjunction over the input,
// which takes half the time. It decides the same; a test holds the two together.
func compile(ctx context.Context, b *Bundle, inline bool) (*program, error) {
	compiling.Lock()
	defer compiling.Unlock()
	modules, err := parse(b, false)
	if err != nil {
		return nil, err
	}
	c, err := compileModules(modules, false)
	if err != nil {
		return nil, err
	}
	if err := checkReasons(c); err != nil {
		return nil, err
	}
	p := &program{bundle: b}
	if inline {
		if p.residue, err = residueOf(ctx, modules); err != nil {
			return nil, err
		}
	}
	if p.grant, err = query(ctx, modules, grantRule, inline); err != nil {
		return nil, err
	}
	if p.reasons, err = query(ctx, modules, reasonsRule, inline); err != nil {
		return nil, err
	}
	return p, nil
}

func query(ctx context.Context, modules map[string]*ast.Module, rule string, inline bool) (q rego.PreparedEvalQuery, err error) {
	var options []rego.PrepareOption
	if inline {
		options = append(options, rego.WithPartialEval())
	}
	// Each query has a compiler of its own: partial evaluation leaves its result in it, under a name that is always the same.
	c, err := compileModules(modules, false)
	if err != nil {
		return q, err
	}
	q, err = rego.New(
		rego.Query(rule),
		rego.Compiler(c),
		rego.Store(inmem.NewWithOpts(inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))),
		rego.StrictBuiltinErrors(true),
		rego.Capabilities(capabilities(false)),
		rego.SetRegoVersion(ast.RegoV1),
	).PrepareForEval(ctx, options...)
	if err != nil {
		return q, bundleError("preparing %s: %v", rule, err)
	}
	return q, nil
}

// parse parses the modules of a bundle by path, with or without its tests.
func parse(b *Bundle, tests bool) (map[string]*ast.Module, error) {
	modules := map[string]*ast.Module{}
	var errs []error
	for _, name := range b.Paths() {
		if name == manifestName || isTest(name) && !tests {
			continue
		}
		m, err := ast.ParseModuleWithOpts(name, string(b.files[name]), ast.ParserOptions{
			RegoVersion: ast.RegoV1, ProcessAnnotation: true, Capabilities: capabilities(tests),
		})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := checkPackage(name, m.Package); err != nil {
			errs = append(errs, err)
			continue
		}
		modules[name] = m
	}
	if len(errs) > 0 {
		return nil, bundleError("%v", errors.Join(errs...))
	}
	return modules, nil
}

// checkPackage sees to it that every rule is where it looks to be: a rule outside of the root would not be read, and a test in the
// policy's own package could change the policy under test.
func checkPackage(name string, p *ast.Package) error {
	root, _ := p.Path[1].Value.(ast.String)
	last, _ := p.Path[len(p.Path)-1].Value.(ast.String)
	switch {
	case root != rootPackage:
		return fmt.Errorf("%s: %s is not in package %s", p.Location, p, rootPackage)
	case isTest(name) != strings.HasSuffix(string(last), testSuffix):
		return fmt.Errorf("%s: the packages of *_test.rego files, and only they, end in %s", p.Location, testSuffix)
	}
	return nil
}

func compileModules(modules map[string]*ast.Module, tests bool) (*ast.Compiler, error) {
	c := ast.NewCompiler().WithCapabilities(capabilities(tests)).WithStrict(true).WithDefaultRegoVersion(ast.RegoV1)
	c.Compile(modules)
	if c.Failed() {
		return nil, bundleError("%v", c.Errors)
	}
	return c, nil
}

// testLimit bounds the time of one Rego test.
const testLimit = 10 * time.Second

// TestResult is what became of one Rego test.
type TestResult struct {
	Name     string // package and rule
	Location string // file and line
	Pass     bool
}

// Test runs the Rego tests in the bundle and returns what became of each, by name. The error, which wraps ErrBundle, says that they
// could not be run; a test that fails is not an error.
func (b *Bundle) Test(ctx context.Context) ([]TestResult, error) {
	modules, err := parse(b, true)
	if err != nil {
		return nil, err
	}
	return runTests(ctx, modules)
}

func runTests(ctx context.Context, modules map[string]*ast.Module) ([]TestResult, error) {
	compiling.Lock()
	defer compiling.Unlock()
	compiler := ast.NewCompiler().WithCapabilities(capabilities(true)).WithStrict(true).WithDefaultRegoVersion(ast.RegoV1)
	results, err := tester.NewRunner().SetCompiler(compiler).SetModules(modules).RaiseBuiltinErrors(true).
		SetTimeout(testLimit).SetParallel(1).RunTests(ctx, nil)
	if err != nil {
		return nil, bundleError("%v", err)
	}
	var out []TestResult
	for r := range results {
		out = append(out, TestResult{
			Name: strings.TrimPrefix(r.Package, "data.") + "." + r.Name, Location: r.Location.String(),
			Pass: r.Pass() && !r.Skip,
		})
	}
	slices.SortFunc(out, func(a, b TestResult) int { return strings.Compare(a.Name, b.Name) })
	return out, ctx.Err()
}

// check runs the bundle's own tests and refuses it if one fails. It returns how many there are.
func (b *Bundle) check(ctx context.Context) (int, error) {
	if !slices.ContainsFunc(slices.Collect(maps.Keys(b.files)), isTest) {
		return 0, nil
	}
	results, err := b.Test(ctx)
	if err != nil {
		return 0, err
	}
	var failed []string
	for _, r := range results {
		if !r.Pass {
			failed = append(failed, r.Location+": "+r.Name)
		}
	}
	if len(failed) > 0 {
		return 0, bundleError("%d of %d tests fail:\n%s", len(failed), len(results), strings.Join(failed, "\n"))
	}
	return len(results), nil
}
