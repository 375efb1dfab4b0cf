package signer

// NewLeafStorage is the storage of the log server, for Trillian's suite.
var NewLeafStorage = newLeafStorage
