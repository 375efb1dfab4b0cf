package sqlite

import "fmt"

const (
	// applicationID marks our files ("RGLG", see SQLite's PRAGMA application_id).
	applicationID = 0x52474c47
	// schemaVersion is PRAGMA user_version. A file with another one is refused.
	schemaVersion = 1

	// Rows of one tree share the high bits of their key, see key.
	slotShift = 44
	maxSlot   = 1<<(63-slotShift) - 1
	// maxLeaves is the number of leaves a tree can hold: 1.7e13.
	maxLeaves = int64(1) << slotShift

	// rootsKept is how many of its latest roots a tree keeps.
	rootsKept = 8
)

// schema: no foreign keys and no secondary indexes, every row is found by its
// key. Id is always key(Slot, n): n is the leaf's index, the tile's position or
// the root's place in the ring.
var schema = []string{
	`CREATE TABLE Tree(
		Slot INTEGER PRIMARY KEY AUTOINCREMENT,
		TreeId INTEGER NOT NULL UNIQUE,
		State TEXT NOT NULL,
		Type TEXT NOT NULL,
		DisplayName TEXT NOT NULL,
		Description TEXT NOT NULL,
		CreateMillis INTEGER NOT NULL,
		UpdateMillis INTEGER NOT NULL,
		MaxRootMillis INTEGER NOT NULL,
		HashIndexed INTEGER NOT NULL,
		Deleted INTEGER NOT NULL DEFAULT 0,
		DeleteMillis INTEGER
	) STRICT`,
	// LogRoot is the serialised types.LogRootV1, byte for byte.
	`CREATE TABLE Root(
		Id INTEGER PRIMARY KEY,
		TimestampNanos INTEGER NOT NULL,
		TreeSize INTEGER NOT NULL,
		LogRoot BLOB NOT NULL
	) STRICT`,
	`CREATE TABLE Tile(Id INTEGER PRIMARY KEY, Hashes BLOB NOT NULL) STRICT`,
	// Hashes is LeafIdentityHash followed by MerkleLeafHash.
	`CREATE TABLE Leaf(
		Id INTEGER PRIMARY KEY,
		Hashes BLOB NOT NULL,
		Value BLOB NOT NULL,
		Extra BLOB,
		QueueNanos INTEGER NOT NULL,
		IntegrateNanos INTEGER
	) STRICT`,
	// The rest serves trees with indexes by hash only. Seq is NULL while queued.
	`CREATE TABLE Identity(
		Slot INTEGER NOT NULL,
		Hash BLOB NOT NULL,
		Seq INTEGER,
		QueueNanos INTEGER NOT NULL,
		PRIMARY KEY(Slot, Hash)
	) STRICT, WITHOUT ROWID`,
	`CREATE TABLE Merkle(
		Slot INTEGER NOT NULL,
		Hash BLOB NOT NULL,
		Seq INTEGER NOT NULL,
		PRIMARY KEY(Slot, Hash, Seq)
	) STRICT, WITHOUT ROWID`,
	`CREATE TABLE Queue(
		Slot INTEGER NOT NULL,
		QueueNanos INTEGER NOT NULL,
		Hash BLOB NOT NULL,
		MerkleHash BLOB NOT NULL,
		Value BLOB NOT NULL,
		Extra BLOB,
		PRIMARY KEY(Slot, QueueNanos, Hash)
	) STRICT, WITHOUT ROWID`,
}

// key is the row id of the n-th thing of the tree in a slot. n < 2^slotShift.
func key(slot, n int64) int64 { return slot<<slotShift | n }

// prepareSchema creates the tables in an empty file, or checks that the file is
// ours and of this version.
func prepareSchema(c *conn, path string) error {
	var app, version, tables int64
	for _, q := range []struct {
		sql string
		to  *int64
	}{
		{`PRAGMA application_id`, &app},
		{`PRAGMA user_version`, &version},
		{`SELECT count(*) FROM sqlite_schema`, &tables},
	} {
		if err := c.queryInts(q.sql, q.to); err != nil {
			return err
		}
	}
	switch {
	case app == 0 && version == 0 && tables == 0:
	case app != applicationID:
		return fmt.Errorf("%s is an SQLite database but not a Regard log (application id %#x): give another path", path, app)
	case version > schemaVersion:
		return fmt.Errorf("%s was written by a newer version (schema %d, this program knows %d): run that version or a later one", path, version, schemaVersion)
	case version < schemaVersion:
		return fmt.Errorf("%s has schema %d, this program needs %d and knows no way to convert it", path, version, schemaVersion)
	default:
		return nil
	}
	statements := append([]string{}, schema...)
	statements = append(statements,
		fmt.Sprintf(`PRAGMA application_id = %d`, applicationID),
		fmt.Sprintf(`PRAGMA user_version = %d`, schemaVersion))
	if err := c.begin(true); err != nil {
		return err
	}
	for _, s := range statements {
		if _, err := c.exec(s); err != nil {
			_ = c.rollback()
			return fmt.Errorf("creating the tables: %w", err)
		}
	}
	return c.commit()
}
