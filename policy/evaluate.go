package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/metrics"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// policyError is the reason of a refusal that no rule gave.
var policyError = Reason{
	Code: CodePolicyError,
	FR:   "La politique n'a pas rendu de décision valable ; dans le doute, la demande est refusée.",
	EN:   "The policy gave no valid decision; in doubt, the request is refused.",
}

// decide evaluates one input. With ErrEvaluation comes a refusal that is to be recorded; with any other error, the zero Decision.
func (p *program) decide(ctx context.Context, n *normalInput, limit time.Duration) (Decision, error) {
	if ctx.Err() != nil {
		return Decision{}, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	reserveStack(-1)
	d := Decision{bundle: p.bundle.digest, revision: p.bundle.revision, input: n.canonical}
	err := p.evaluate(ctx, n, limit, &d)
	if errors.Is(err, ErrUnavailable) {
		return Decision{}, err
	}
	if err != nil {
		d.grant, d.reasons = Grant{}, []Reason{policyError}
	}
	return d, err
}

// evaluate asks for the grant, and only if there is none, for the reasons.
func (p *program) evaluate(ctx context.Context, n *normalInput, limit time.Duration, d *Decision) error {
	// An evaluation takes microseconds, so it watches its own limit and not the context: that would cost it a goroutine.
	cancel := topdown.NewCancel()
	timer := time.AfterFunc(limit, cancel.Cancel)
	defer timer.Stop()
	input := n.value(&p.services)
	// No built-in of ours reads the clock or draws at random; should one ever, it gets the request's time, and an error.
	options := func(more ...rego.EvalOption) []rego.EvalOption {
		return append(more,
			rego.EvalParsedInput(input),
			rego.EvalTime(n.Time),
			rego.EvalSeed(noRandomness{}),
			rego.EvalExternalCancel(cancel),
			rego.EvalMetrics(metrics.NoOp()),
			rego.EvalGenerateJSON(keepTerm),
		)
	}
	var grant *ast.Term
	var err error
	if p.residue != nil {
		grant, err = p.residue.eval(ctx, input, n.Time, cancel)
	} else {
		// To look a rule up by the input pays when there are several, and what is left of grant is one.
		grant, err = eval(ctx, p.grant, options(rego.EvalRuleIndexing(false)))
	}
	if err != nil {
		return err
	}
	if grant != nil {
		return d.readGrant(n, grant)
	}
	reasons, err := eval(ctx, p.reasons, options())
	if err != nil {
		return err
	}
	return d.readReasons(reasons)
}

// eval returns nil if the query is undefined.
func eval(ctx context.Context, q rego.PreparedEvalQuery, options []rego.EvalOption) (*ast.Term, error) {
	rs, err := q.Eval(ctx, options...)
	if err != nil {
		return nil, evaluationError(err)
	}
	if len(rs) == 0 {
		return nil, nil
	}
	if len(rs) == 1 && len(rs[0].Expressions) == 1 {
		if t, ok := rs[0].Expressions[0].Value.(*ast.Term); ok {
			return t, nil
		}
	}
	return nil, fmt.Errorf("not one value: %w", ErrEvaluation)
}

func keepTerm(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }

type noRandomness struct{}

func (noRandomness) Read([]byte) (int, error) {
	return 0, errors.New("a policy has no randomness")
}

// evaluationError says where it went wrong; OPA's message is left out because it may quote the input.
func evaluationError(err error) error {
	if topdown.IsCancel(err) {
		return fmt.Errorf("%w: the evaluation reached its time limit", ErrUnavailable)
	}
	var e *topdown.Error
	if errors.As(err, &e) && e.Location != nil {
		return fmt.Errorf("%s: %s: %w", e.Location, e.Code, ErrEvaluation)
	}
	return ErrEvaluation
}

// readGrant takes the grant from the value of its rule, which must have exactly the shape that policy/README.md describes.
// A bundle can only narrow what was asked for: anything beyond it is no decision.
func (d *Decision) readGrant(n *normalInput, t *ast.Term) error {
	o, ok := t.Value.(ast.Object)
	if !ok || o.Len() != 3 {
		return grantError("is not an object of fields, obligations and scopes")
	}
	scopes, ok := member[Scope](o, keyScopes)
	if !ok || len(scopes) == 0 {
		return grantError("has no list of scopes")
	}
	obligations, ok := member[Obligation](o, keyObligations)
	if !ok {
		return grantError("has no list of obligations")
	}
	for _, o := range obligations {
		if !o.known() {
			return grantError("has an obligation that the broker doesn't know")
		}
	}
	fields, err := readFields(n, scopes, o.Get(keyFields))
	if err != nil {
		return err
	}
	d.grant = Grant{&grant{
		agency: n.Agency.ID, service: n.Service.Ref(), scopes: scopes, fields: fields, obligations: obligations, bundle: d.bundle,
	}}
	if n.Agreement != nil {
		d.grant.body.agreement = n.Agreement.Ref()
	}
	return nil
}

var (
	keyFields = ast.StringTerm("fields")
	keyCode   = ast.StringTerm("code")
	keyFR     = ast.StringTerm("fr")
	keyEN     = ast.StringTerm("en")
)

func grantError(what string) error { return fmt.Errorf("%s %s: %w", grantRule, what, ErrEvaluation) }

func reasonsError(what string) error {
	return fmt.Errorf("%s %s: %w", reasonsRule, what, ErrEvaluation)
}

// member reads an array or set of strings from an object, as a set.
func member[S ~string](o ast.Object, key *ast.Term) ([]S, bool) {
	list, ok := stringList[S](o.Get(key))
	return set(list), ok
}

func stringList[S ~string](t *ast.Term) ([]S, bool) {
	var list []S
	ok := eachItem(t, func(t *ast.Term) bool {
		s, ok := t.Value.(ast.String)
		if list == nil {
			list = make([]S, 0, 8)
		}
		list = append(list, S(s))
		return ok
	})
	return list, ok
}

// eachItem calls f with the items of an array or set until it returns false.
func eachItem(t *ast.Term, f func(*ast.Term) bool) bool {
	if t == nil {
		return false
	}
	switch v := t.Value.(type) {
	case *ast.Array:
		return !v.Until(func(t *ast.Term) bool { return !f(t) })
	case ast.Set:
		return !v.Until(func(t *ast.Term) bool { return !f(t) })
	}
	return false
}

// readFields checks the fields of each granted scope against those that the service declares for it.
func readFields(n *normalInput, scopes []Scope, t *ast.Term) ([]Pointer, error) {
	if t == nil {
		return nil, grantError("has no fields")
	}
	fields, ok := t.Value.(ast.Object)
	if !ok || fields.Len() != len(scopes) {
		return nil, grantError("has no object of fields with the scopes that it grants")
	}
	var all []Pointer
	for _, scope := range scopes {
		if _, ok := slices.BinarySearch(n.scopes, scope); !ok {
			return nil, grantError("has a scope that was not asked for or that the service doesn't declare")
		}
		declared := n.Service.Scopes[scope]
		list := declared
		if granted := fields.Get(ast.StringTerm(string(scope))); !isList(granted, declared) { // it is most often
			var ok bool
			if list, ok = stringList[Pointer](granted); !ok || len(list) == 0 {
				return nil, grantError("has a scope without a list of fields")
			}
			for _, f := range list {
				if _, ok := slices.BinarySearch(declared, f); !ok {
					return nil, grantError("has a field that its scope doesn't have")
				}
			}
		}
		all = append(all, list...)
	}
	return set(all), nil
}

// isList reports whether a term is the array of exactly these strings. An empty one is no list of a grant.
func isList[S ~string](t *ast.Term, want []S) bool {
	if t == nil || len(want) == 0 {
		return false
	}
	a, ok := t.Value.(*ast.Array)
	if !ok || a.Len() != len(want) {
		return false
	}
	for i, w := range want {
		if s, ok := a.Elem(i).Value.(ast.String); !ok || S(s) != w {
			return false
		}
	}
	return true
}

// maxReasons and maxSentence bound what a refusal says; a sentence is in bytes.
const (
	maxReasons  = 64
	maxSentence = 8 << 10
)

func (d *Decision) readReasons(t *ast.Term) error {
	var reasons []Reason
	ok := eachItem(t, func(t *ast.Term) bool {
		o, ok := t.Value.(ast.Object)
		if !ok || o.Len() != 3 || len(reasons) == maxReasons {
			return false
		}
		var r Reason
		for key, to := range map[*ast.Term]*string{keyCode: (*string)(&r.Code), keyFR: &r.FR, keyEN: &r.EN} {
			t := o.Get(key)
			if t == nil {
				return false
			}
			s, ok := t.Value.(ast.String)
			if !ok || !isSentence(string(s)) {
				return false
			}
			*to = string(s)
		}
		reasons = append(reasons, r)
		return isToken(string(r.Code)) && r.Code != CodePolicyError
	})
	if !ok || len(reasons) == 0 {
		return reasonsError("is not a list of at least one reason with code, fr and en, and nothing is granted")
	}
	slices.SortFunc(reasons, func(a, b Reason) int { return strings.Compare(string(a.Code), string(b.Code)) })
	for i := 1; i < len(reasons); i++ {
		if reasons[i-1].Code == reasons[i].Code {
			return reasonsError("gives a code twice")
		}
	}
	d.reasons = reasons
	return nil
}

func isSentence(s string) bool { return s != "" && len(s) <= maxSentence && isText(s) }
