package engine

import "os"

// headroom is how much the heap may grow beyond what the garbage collector would allow, in bytes.
const headroom = 64 << 20

// SpareHeap has the garbage collector run less often while the block that it returns is held. It runs when the heap has doubled, and the live heap of a broker or a signer is so small
// that this is all the time: a fifth of a broker's processor time at full load. So a block that is never written to, and thus takes no memory, counts as live. Unlike a
// higher GOGC this doesn't multiply the memory of a heap that is large for good reason. If the operator sets GOGC or GOMEMLIMIT, that alone counts.
func SpareHeap() []byte {
	for _, name := range []string{"GOGC", "GOMEMLIMIT"} {
		if _, set := os.LookupEnv(name); set {
			return nil
		}
	}
	return make([]byte, headroom)
}
