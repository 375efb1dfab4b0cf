package policy

import (
	"errors"
	"fmt"

	"github.com/open-policy-agent/opa/v1/ast"
)

// checkReasons refuses a policy in which a reason to refuse could stand beside a grant. A grant is sought first and the reasons only if there
// is none, so a reason that somebody adds must not be without effect: each must have a line `not condition` where the grant demands
// that very condition.
func checkReasons(c *ast.Compiler) error {
	grants, reasons := c.GetRulesExact(ast.MustParseRef(grantRule)), c.GetRules(ast.MustParseRef(reasonsRule))
	if len(grants) == 0 || len(reasons) == 0 {
		return bundleError("no rule %s or no rule %s", grantRule, reasonsRule)
	}
	demanded := demands(c, grants, map[string]bool{})
	var errs []error
	for _, r := range reasons {
		ok := false
		for _, e := range r.Body {
			if ref := bareRef(e); ref != nil && e.Negated && demanded[ref.String()] {
				ok = true
			}
		}
		if !ok || r.Else != nil {
			errs = append(errs, fmt.Errorf("%s: this reason does not say `not` of a condition that every grant demands, so it might not refuse", r.Location))
		}
	}
	if len(errs) > 0 {
		return bundleError("%v", errors.Join(errs...))
	}
	return nil
}

// demands returns the rules that hold whenever one of rules does, which all define the same: what each of their bodies names plainly, and
// what that demands in turn.
func demands(c *ast.Compiler, rules []*ast.Rule, above map[string]bool) map[string]bool {
	var all map[string]bool
	for _, r := range rules {
		if r.Default || r.Else != nil {
			return nil // holds without a body, or with another
		}
		one := map[string]bool{}
		for _, e := range r.Body {
			ref := bareRef(e)
			if ref == nil || e.Negated || len(e.With) > 0 || above[ref.String()] {
				continue
			}
			name := ref.String()
			next := c.GetRulesExact(ref)
			if len(next) == 0 {
				continue
			}
			one[name], above[name] = true, true
			for n := range demands(c, next, above) {
				one[n] = true
			}
			delete(above, name)
		}
		if all == nil {
			all = one
			continue
		}
		for n := range all {
			if !one[n] {
				delete(all, n)
			}
		}
	}
	return all
}

// bareRef returns the rule that an expression consists of, nil if it is anything else.
func bareRef(e *ast.Expr) ast.Ref {
	t, ok := e.Terms.(*ast.Term)
	if !ok {
		return nil
	}
	ref, ok := t.Value.(ast.Ref)
	if !ok || !ref.HasPrefix(ast.DefaultRootRef) || !ref.IsGround() {
		return nil
	}
	return ref
}
