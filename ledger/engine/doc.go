// Package engine holds what every process needs that runs a part of Trillian, be
// it package embedded or package signer: a clock that never steps back, and
// Trillian's log lines in the program's own log.
package engine

// AwaitKey is gRPC metadata of GetLatestSignedLogRoot: the decimal size of the
// tree that the caller waits for. The log server of package signer answers when
// it is reached, or after 2 seconds; Trillian's own server answers at once.
const AwaitKey = "regard-await-size"
