package policy

import (
	"context"
	"fmt"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// residue is what OPA leaves of grant when it knows everything but the input, if that is one conjunction over the input alone. It is evaluated as it is, without the rule around it and what package rego
// does for any query: a tenth of a decision.
type residue struct {
	body     ast.Body
	compiler *ast.Compiler
}

// granted is the variable that a residue binds.
const granted = "granted"

// residueOf returns nil if what is left is more than that: then it is evaluated like every query.
func residueOf(ctx context.Context, modules map[string]*ast.Module) (*residue, error) {
	c, err := compileModules(modules, false)
	if err != nil {
		return nil, err
	}
	left, err := rego.New(
		rego.Query(granted+" = "+grantRule),
		rego.Compiler(c),
		rego.StrictBuiltinErrors(true),
		rego.Capabilities(capabilities(false)),
		rego.SetRegoVersion(ast.RegoV1),
	).Partial(ctx)
	if err != nil {
		return nil, bundleError("preparing %s: %v", grantRule, err)
	}
	if len(left.Queries) != 1 || len(left.Support) != 0 {
		return nil, nil
	}
	alone := true
	ast.WalkRefs(left.Queries[0], func(r ast.Ref) bool {
		alone = alone && !r.HasPrefix(ast.DefaultRootRef)
		return false
	})
	if !alone {
		return nil, nil
	}
	r := &residue{}
	if r.compiler, err = compileModules(map[string]*ast.Module{}, false); err != nil {
		return nil, err
	}
	if r.body, err = r.compiler.QueryCompiler().Compile(left.Queries[0]); err != nil {
		return nil, bundleError("preparing %s: %v", grantRule, err)
	}
	return r, nil
}

// eval returns nil if nothing is granted.
func (r *residue) eval(ctx context.Context, input ast.Value, now time.Time, cancel topdown.Cancel) (grant *ast.Term, err error) {
	conflict := false
	err = topdown.NewQuery(r.body).
		WithCompiler(r.compiler).
		WithInput(ast.NewTerm(input)).
		WithTime(now).
		WithSeed(noRandomness{}).
		WithCancel(cancel).
		WithMetrics(metrics.NoOp()).
		WithStrictBuiltinErrors(true).
		Iter(ctx, func(found topdown.QueryResult) error {
			t := found[granted]
			conflict = conflict || t == nil || grant != nil && !grant.Equal(t)
			grant = t
			return nil
		})
	if err != nil {
		return nil, evaluationError(err)
	}
	if conflict { // as of a rule with two values
		return nil, fmt.Errorf("not one value: %w", ErrEvaluation)
	}
	return grant, nil
}
