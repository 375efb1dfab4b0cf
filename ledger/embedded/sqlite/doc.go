// Package sqlite keeps Trillian logs in one SQLite file: a storage.LogStorage
// and a storage.AdminStorage without a database server and without cgo.
//
// # What it guarantees
//
// A write that returned without error survives kill -9 and power loss: the
// journal is a WAL and every commit is fsynced once (synchronous=FULL). A write
// that returned an error left either nothing or, when the disk failed during
// the fsync itself, all of it: never a part. Because that can't be told apart,
// callers repeat the write; AddSequencedLeaves answers a repetition leaf by leaf
// with AlreadyExists, and another leaf at a taken index with FailedPrecondition.
//
// One process owns the file. A second one is refused at Open by a lock that the
// kernel drops when its holder dies.
//
// Roots only move forward: a root with an older or equal timestamp, or a smaller
// tree, is refused.
//
// # What it does not
//
// It does not sign, does not decide an order, and is not trusted: whoever can
// write the file can change a leaf. That shows against a signed checkpoint, not
// here. It finds a damaged file structure (at Open, up to Config.CheckLimit, and
// whenever SQLite stumbles over it) but not every flipped bit inside a leaf.
// It does not survive the loss of the disk.
//
// # Shape
//
// Trees share the file; each has a slot, and rows are keyed by slot and index in
// one integer, so that leaves and tiles are appended to the end of a B-tree. A
// tile is one row of constant size that is overwritten in place, the latest
// version only: a database grows with its leaves and not with its batches. The
// last few roots are kept. Indexes by hash cost more than everything else
// together (at 300,000 leaves 56 µs of CPU time a leaf instead of 20, in batches
// of 64), since each leaf dirties a random page in each of them; trees created
// with [WithoutHashIndexes] have none.
//
// Unix only: the lock is flock(2).
package sqlite
