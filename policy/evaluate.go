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
	d := Decision{bundle: p.bundle.digest, revision: p.bundle.revision, input: n.canonical}
	result, err := p.evaluate(ctx, n, limit)
	if err == nil {
		err = d.read(n, result)
	}
	if errors.Is(err, ErrUnavailable) {
		return Decision{}, err
	}
	if err != nil {
		d.grant, d.reasons = Grant{}, []Reason{policyError}
	}
	return d, err
}

func (p *program) evaluate(ctx context.Context, n *normalInput, limit time.Duration) (*ast.Term, error) {
	// An evaluation takes microseconds, so it watches its own limit and not the context: that would cost it a goroutine.
	cancel := topdown.NewCancel()
	timer := time.AfterFunc(limit, cancel.Cancel)
	defer timer.Stop()
	rs, err := p.query.Eval(ctx,
		rego.EvalParsedInput(n.value()),
		// No built-in of ours reads the clock or draws at random; should one ever, it gets the request's time, and an error.
		rego.EvalTime(n.Time),
		rego.EvalSeed(noRandomness{}),
		rego.EvalExternalCancel(cancel),
		rego.EvalMetrics(metrics.NoOp()),
		rego.EvalGenerateJSON(keepTerm),
	)
	if err != nil {
		return nil, evaluationError(err)
	}
	if len(rs) != 1 || len(rs[0].Expressions) != 1 {
		return nil, fmt.Errorf("%s is undefined: %w", entrypoint, ErrEvaluation)
	}
	t, ok := rs[0].Expressions[0].Value.(*ast.Term)
	if !ok {
		return nil, fmt.Errorf("%s is not a term: %w", entrypoint, ErrEvaluation)
	}
	return t, nil
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

// read takes the decision from the value of the entry point, which must have exactly the shape that policy/README.md describes.
// A bundle can only narrow what was asked for: anything beyond it is no decision.
func (d *Decision) read(n *normalInput, t *ast.Term) error {
	o, ok := t.Value.(ast.Object)
	if !ok || o.Len() != 5 {
		return shapeError("is not an object of allow, fields, obligations, reasons, scopes")
	}
	allow, ok := member[ast.Boolean](o, keyAllow)
	if !ok {
		return shapeError("allow is not a boolean")
	}
	scopes, err := stringSet[Scope](o, keyScopes)
	if err != nil {
		return err
	}
	obligations, err := stringSet[Obligation](o, keyObligations)
	if err != nil {
		return err
	}
	fields, ok := member[ast.Object](o, keyFields)
	if !ok {
		return shapeError("fields is not an object")
	}
	reasons, err := readReasons(o)
	if err != nil {
		return err
	}
	if !allow {
		if len(reasons) == 0 || len(scopes) > 0 || len(obligations) > 0 || fields.Len() > 0 {
			return shapeError("refuses without a reason, or grants something all the same")
		}
		d.reasons = reasons
		return nil
	}
	if len(reasons) > 0 || len(scopes) == 0 {
		return shapeError("grants with a reason to refuse, or without a scope")
	}
	granted, err := readFields(n, scopes, fields)
	if err != nil {
		return err
	}
	for _, o := range obligations {
		if !o.known() {
			return shapeError("imposes an obligation that the broker doesn't know")
		}
	}
	d.grant = Grant{&grant{
		agency: n.Agency.ID, service: n.Service.Ref(), scopes: scopes, fields: granted, obligations: obligations, bundle: d.bundle,
	}}
	if n.Agreement != nil {
		d.grant.body.agreement = n.Agreement.Ref()
	}
	return nil
}

var (
	keyAllow   = ast.StringTerm("allow")
	keyFields  = ast.StringTerm("fields")
	keyReasons = ast.StringTerm("reasons")
	keyCode    = ast.StringTerm("code")
	keyFR      = ast.StringTerm("fr")
	keyEN      = ast.StringTerm("en")
)

func shapeError(what string) error {
	return fmt.Errorf("%s %s: %w", entrypoint, what, ErrEvaluation)
}

func member[V ast.Value](o ast.Object, key *ast.Term) (v V, ok bool) {
	if t := o.Get(key); t != nil {
		v, ok = t.Value.(V)
	}
	return v, ok
}

// stringSet reads an array or set of strings.
func stringSet[S ~string](o ast.Object, key *ast.Term) ([]S, error) {
	t := o.Get(key)
	if t == nil {
		return nil, shapeError("lacks " + key.String())
	}
	list, ok := stringList[S](t)
	if !ok {
		return nil, shapeError(key.String() + " is not a list of strings")
	}
	return set(list), nil
}

func stringList[S ~string](t *ast.Term) ([]S, bool) {
	var list []S
	ok := eachItem(t, func(t *ast.Term) bool {
		s, ok := t.Value.(ast.String)
		list = append(list, S(s))
		return ok
	})
	return list, ok
}

// eachItem calls f with the items of an array or set until it returns false.
func eachItem(t *ast.Term, f func(*ast.Term) bool) bool {
	switch v := t.Value.(type) {
	case *ast.Array:
		return !v.Until(func(t *ast.Term) bool { return !f(t) })
	case ast.Set:
		return !v.Until(func(t *ast.Term) bool { return !f(t) })
	}
	return false
}

// readFields checks the fields of each granted scope against those that the service declares for it.
func readFields(n *normalInput, scopes []Scope, fields ast.Object) ([]Pointer, error) {
	if fields.Len() != len(scopes) {
		return nil, shapeError("has fields of other scopes than it grants")
	}
	var all []Pointer
	for _, scope := range scopes {
		if _, ok := slices.BinarySearch(n.scopes, scope); !ok {
			return nil, shapeError("grants a scope that was not asked for or that the service doesn't declare")
		}
		t := fields.Get(ast.StringTerm(string(scope)))
		if t == nil {
			return nil, shapeError("has fields of other scopes than it grants")
		}
		list, ok := stringList[Pointer](t)
		if !ok || len(list) == 0 {
			return nil, shapeError("grants a scope without a list of fields")
		}
		declared := n.Service.Scopes[scope]
		for _, f := range list {
			if _, ok := slices.BinarySearch(declared, f); !ok {
				return nil, shapeError("grants a field that the scope doesn't have")
			}
		}
		all = append(all, list...)
	}
	return set(all), nil
}

// maxReasons and maxSentence bound what a refusal says; a sentence is in bytes.
const (
	maxReasons  = 64
	maxSentence = 8 << 10
)

func readReasons(o ast.Object) ([]Reason, error) {
	t := o.Get(keyReasons)
	if t == nil {
		return nil, shapeError("lacks reasons")
	}
	var reasons []Reason
	ok := eachItem(t, func(t *ast.Term) bool {
		o, ok := t.Value.(ast.Object)
		if !ok || o.Len() != 3 || len(reasons) == maxReasons {
			return false
		}
		code, ok1 := member[ast.String](o, keyCode)
		fr, ok2 := member[ast.String](o, keyFR)
		en, ok3 := member[ast.String](o, keyEN)
		reasons = append(reasons, Reason{Code(code), string(fr), string(en)})
		return ok1 && ok2 && ok3 && isToken(string(code)) && isSentence(string(fr)) && isSentence(string(en))
	})
	if !ok {
		return nil, shapeError("reasons are not a list of code, fr and en")
	}
	slices.SortFunc(reasons, func(a, b Reason) int { return strings.Compare(string(a.Code), string(b.Code)) })
	for i := 1; i < len(reasons); i++ {
		if reasons[i-1].Code == reasons[i].Code {
			return nil, shapeError("gives a reason twice")
		}
	}
	return reasons, nil
}

func isSentence(s string) bool { return s != "" && len(s) <= maxSentence && isText(s) }
