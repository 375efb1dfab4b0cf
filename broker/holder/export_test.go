package holder

import "time"

// SetKeysWait bounds a fetch of the intent keys; before the first request.
func (g *Guard) SetKeysWait(d time.Duration) { g.keys.wait = d }
