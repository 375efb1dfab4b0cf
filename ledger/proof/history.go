package proof

// Format and bounds of a history file.
const (
	historySchema = "regard/history@v1"
	// MaxHistory bounds a history file, in bytes: whoever reads one stops there.
	MaxHistory = 64 << 20
	// maxHistoryItems bounds each list in it.
	maxHistoryItems = 100_000
	// maxHistorySubjects bounds the identifiers of one person.
	maxHistorySubjects = 16
	// maxHistoryValues bounds what its openings hold altogether, in bytes: a
	// value that stands in many fields is sent once.
	maxHistoryValues = 256 << 20
	// maxHistoryTable bounds the table of these values.
	maxHistoryTable = 1 << 20
)

// History is all that the log holds about a person, under some identifiers and
// for a range of closed epochs, with what it takes to check it offline. It is as
// personal as the openings in it. Nothing in it is verified before Verify.
type History struct {
	Checkpoint []byte    // signed, with its cosignatures
	Subjects   []Subject // the identifiers it speaks of, by increasing type and value
	// Markers are the texts of all markers from the one that opens the first
	// epoch to the one that closes the last.
	Markers [][]byte
	Epochs  []HistoryEpoch // one less than Markers
	// Entries are by increasing index: all entries in the rolls that are open,
	// and what else it takes to explain them.
	Entries []HistoryEntry
	// Nodes shows that the last marker and all entries are in the tree, and that
	// the tree had the roots which restarts name (ProofSpans).
	Nodes    []Hash
	Auditors []string       // verification keys of those who signed Audits
	Audits   []HistoryAudit // by increasing epoch and auditor
}

// HistoryEpoch is what the index of a closed epoch says about the subjects.
type HistoryEpoch struct {
	// Labels are the VRF proofs of the subjects' labels, in the order of Subjects.
	// nil: the key that made them was destroyed at the end of its retention,
	// and there is nothing else about this epoch.
	Labels  [][]byte
	Buckets [][]Item // in which these labels belong, by increasing number
	Nodes   []Hash   // shows that these buckets are in the index
	Rolls   []HistoryRoll
}

// HistoryRoll is the roll of one subject in one epoch.
type HistoryRoll struct {
	Leaves []OpenLeaf // all of them, in the order of the tree; empty if the subject has no roll
	Lost   bool       // there is a roll and it can't be opened any more: its leaves were lost with a restored backup
}

// HistoryEntry is an entry of the log.
type HistoryEntry struct {
	Index Index
	Text  []byte
	// Opening of its record; zero if it has none, or one that can't be opened.
	Opening Opening
}

// HistoryAudit is the signature of an IndexAudit, whose other lines the marker
// states.
type HistoryAudit struct {
	Epoch     Epoch
	Auditor   int    // position in Auditors
	Entries   uint64 // filed entries that the auditor found
	Signature []byte // u32 key id ‖ Ed25519 signature, as in a signed note
}
