// Package engine holds what every process needs that runs a part of Trillian, be
// it package embedded or package signer: a clock that never steps back,
// Trillian's log lines in the program's own log, and room for the heap.
package engine

// AwaitKey is gRPC metadata of GetLatestSignedLogRoot: the decimal size of the
// tree that the caller waits for. The log server of package signer answers when
// it is reached, or after 2 seconds; Trillian's own server answers at once.
const AwaitKey = "regard-await-size"

// RootKey is gRPC metadata in the trailer of AddSequencedLeaves: the root, as
// Trillian writes it, of the tree that the leaves are in already. A server that
// only adds them doesn't say it.
const RootKey = "regard-root-bin"
