package hostile_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain lets more scenes run at the same time than there are processors: what they wait for is the disk.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
