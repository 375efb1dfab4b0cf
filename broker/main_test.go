package broker_test

import (
	"testing"

	"github.com/regard-broker/regard/deploy/pgcluster/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
