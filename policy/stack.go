package policy

// stackFor is what an evaluation takes of the stack, roughly, in bytes.
const stackFor = 64 << 10

// reserveStack makes room on the goroutine's stack for an evaluation. OPA's evaluator calls itself for each condition of a rule. A goroutine that starts with a small stack,
// or whose stack the garbage collector has shrunk while it waited, would have it copied several times over, each time with more frames on it, which costs twice
// what the evaluation does. Here it is copied once, while it is almost empty: on entry, for whatever the function may need. It needs nothing, and at below 0 nothing is cleared either.
//
//go:noinline
func reserveStack(at int) byte {
	if at < 0 {
		return 0
	}
	var room [stackFor]byte
	return room[at]
}
