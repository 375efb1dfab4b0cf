package store

import (
	"strings"
	"testing"
)

// TestUnreadPlan: the number on every page is counted by an index that has nothing else.
func TestUnreadPlan(t *testing.T) {
	s, err := Open(t.Context(), Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	var plan strings.Builder
	if err := s.each(t.Context(), "EXPLAIN QUERY PLAN "+countUnread, func(scan func(...any) error) error {
		var a, b, c int
		var text string
		err := scan(&a, &b, &c, &text)
		plan.WriteString(text + "\n")
		return err
	}, make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(plan.String(), "COVERING INDEX notices_unread") {
		t.Errorf("counted by\n%s", &plan)
	}
}
