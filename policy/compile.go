package policy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"
)

const (
	rootPackage = "regard"      // of the policy
	testPackage = "regard_test" // of its tests
	entrypoint  = "data.regard.decision"
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

// program is a bundle that was compiled. It is safe for concurrent use.
type program struct {
	bundle *Bundle
	query  rego.PreparedEvalQuery
}

// compile compiles the policy of a bundle, without its tests. Errors wrap ErrBundle and name file and line.
func compile(ctx context.Context, b *Bundle) (*program, error) {
	modules, err := parse(b, false)
	if err != nil {
		return nil, err
	}
	compiler, err := compileModules(modules, false)
	if err != nil {
		return nil, err
	}
	if len(compiler.GetRules(ast.MustParseRef(entrypoint))) == 0 {
		return nil, bundleError("no rule %s", entrypoint)
	}
	query, err := rego.New(
		rego.Query(entrypoint),
		rego.Compiler(compiler),
		rego.Store(inmem.NewWithOpts(inmem.OptRoundTripOnWrite(false), inmem.OptReturnASTValuesOnRead(true))),
		rego.StrictBuiltinErrors(true),
		rego.Capabilities(capabilities(false)),
		rego.SetRegoVersion(ast.RegoV1),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, bundleError("preparing %s: %v", entrypoint, err)
	}
	return &program{bundle: b, query: query}, nil
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
		want := rootPackage
		if isTest(name) {
			want = testPackage
		}
		if got := m.Package.Path[1:]; len(got) == 0 || got[0].Value.Compare(ast.String(want)) != 0 {
			// A rule in any other package would not be read, and a test in the policy's own could change it.
			errs = append(errs, fmt.Errorf("%s: %s is not package %s or below", m.Package.Location, m.Package, want))
			continue
		}
		modules[name] = m
	}
	if len(errs) > 0 {
		return nil, bundleError("%v", errors.Join(errs...))
	}
	return modules, nil
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
	compiler := ast.NewCompiler().WithCapabilities(capabilities(true)).WithStrict(true).WithDefaultRegoVersion(ast.RegoV1)
	results, err := tester.NewRunner().SetCompiler(compiler).SetModules(modules).RaiseBuiltinErrors(true).
		SetTimeout(testLimit).SetParallel(1).Run(ctx, modules)
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
