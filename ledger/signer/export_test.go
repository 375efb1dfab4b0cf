package signer

// NewLeafStorage is the storage of the log server, for Trillian's suite.
var NewLeafStorage = newLeafStorage

// Master is whether a signer holds the lock, as far as it knows.
func Master(s *Signer) bool { return s.election.isMaster() }
