package policy

import (
	"context"
	"fmt"
	"testing"

	"github.com/open-policy-agent/opa/v1/ast"
)

func builtin(t testing.TB) *Bundle {
	t.Helper()
	b, err := Embedded().Load()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRego(t *testing.T) {
	results, err := builtin(t).Test(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(results) < 25 {
		t.Errorf("%d Rego tests ran, which can't be all", len(results))
	}
	for _, r := range results {
		t.Run(r.Name, func(t *testing.T) {
			if !r.Pass {
				t.Errorf("%s: fails", r.Location)
			}
		})
	}
}

// TestRegoMutations breaks the policy in every way of two kinds, and demands that a Rego test notices each: a rule that never holds, as
// if it was deleted (what refers to it must still compile), and a rule with one line less.
func TestRegoMutations(t *testing.T) {
	b := builtin(t)
	original, err := parse(b, false)
	if err != nil {
		t.Fatal(err)
	}
	if whole, err := parse(b, true); err != nil || detected(t.Context(), t, whole) {
		t.Fatalf("the Rego tests fail without a mutation (%v)", err)
	}
	rules := 0
	for name, m := range original {
		for i, r := range m.Rules {
			rules++
			mutate := func(what string, body ast.Body) {
				t.Run(fmt.Sprintf("%s/%s:%d/%s", r.Head.Name, name, r.Location.Row, what), func(t *testing.T) {
					modules, err := parse(b, true)
					if err != nil {
						t.Fatal(err)
					}
					modules[name].Rules[i].Body = body
					if !detected(t.Context(), t, modules) {
						t.Errorf("no Rego test fails when %s %s", r.Head, what)
					}
				})
			}
			// The rest stays, so that what the head takes from it is still defined.
			never := ast.NewBody(ast.NewExpr(ast.BooleanTerm(false)))
			for _, e := range r.Body {
				never.Append(e.Copy())
			}
			mutate("never holds", never)
			if r.Body.Equal(ast.NewBody(ast.NewExpr(ast.BooleanTerm(true)))) {
				continue // a plain definition has no line to lose
			}
			for j := range r.Body {
				if r.Body[j].IsAssignment() {
					continue // what it defines is used by the head
				}
				body := ast.NewBody()
				for k := range r.Body {
					if k != j {
						body.Append(r.Body[k].Copy())
					}
				}
				if len(body) == 0 {
					body = ast.NewBody(ast.NewExpr(ast.BooleanTerm(true)))
				}
				mutate(fmt.Sprintf("loses line %d", j+1), body)
			}
		}
	}
	if rules < 35 {
		t.Errorf("only %d rules were mutated", rules)
	}
}

func detected(ctx context.Context, t *testing.T, modules map[string]*ast.Module) bool {
	results, err := runTests(ctx, modules)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if !r.Pass {
			return true
		}
	}
	return false
}
