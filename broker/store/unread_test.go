package store

import "testing"

// TestUnreadPlan: the number on every page is counted by an index that has nothing else.
func TestUnreadPlan(t *testing.T) { EachEngine(t, testUnreadPlan) }

func testUnreadPlan(t *testing.T, open Opener) {
	looksUpBy(t, open(t, t.TempDir()), "COVERING INDEX notices_unread", countUnread, make([]byte, 32))
}
