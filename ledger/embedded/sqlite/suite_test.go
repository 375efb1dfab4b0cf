package sqlite

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/google/trillian"
	"github.com/google/trillian/integration/storagetest"
	"github.com/google/trillian/storage"
	storageto "github.com/google/trillian/storage/testonly"
	"google.golang.org/protobuf/proto"
)

func open(t testing.TB, change ...func(*Config)) *Storage {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "log.db")}
	for _, f := range change {
		f(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestTrillianLogSuite(t *testing.T) {
	storagetest.RunLogStorageTests(t, func(_ context.Context, t *testing.T) (storage.LogStorage, storage.AdminStorage) {
		s := open(t)
		return s.Log(), s.Admin()
	})
}

// The same suite on trees as the broker creates them.
func TestTrillianLogSuiteWithoutHashIndexes(t *testing.T) {
	storagetest.RunLogStorageTests(t, func(_ context.Context, t *testing.T) (storage.LogStorage, storage.AdminStorage) {
		s := open(t)
		return s.Log(), leanAdmin{s.Admin()}
	})
}

func TestTrillianAdminSuite(t *testing.T) {
	tester := &storageto.AdminStorageTester{NewAdminStorage: func() storage.AdminStorage { return open(t).Admin() }}
	tester.RunAllTests(t)
}

// leanAdmin creates PREORDERED_LOG trees without indexes by hash.
type leanAdmin struct{ storage.AdminStorage }

func (a leanAdmin) ReadWriteTransaction(ctx context.Context, f storage.AdminTXFunc) error {
	return a.AdminStorage.ReadWriteTransaction(ctx, func(ctx context.Context, tx storage.AdminTX) error {
		return f(ctx, leanTX{tx})
	})
}

type leanTX struct{ storage.AdminTX }

func (t leanTX) CreateTree(ctx context.Context, tree *trillian.Tree) (*trillian.Tree, error) {
	if tree.TreeType == trillian.TreeType_PREORDERED_LOG {
		tree = proto.Clone(tree).(*trillian.Tree)
		tree.StorageSettings = WithoutHashIndexes()
	}
	return t.AdminTX.CreateTree(ctx, tree)
}
