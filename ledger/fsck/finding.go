package fsck

import (
	"fmt"
	"slices"
)

// Code names a kind of finding. Codes are stable: programs may depend on them.
type Code string

// The codes. Codes has what each means and what to do.
const (
	CheckpointHistory     Code = "checkpoint.history"
	CheckpointOlder       Code = "checkpoint.older"
	CheckpointUnwitnessed Code = "checkpoint.unwitnessed"
	RootMismatch          Code = "root.mismatch"
	TileMissing           Code = "tile.missing"
	TileMismatch          Code = "tile.mismatch"
	BundleMissing         Code = "bundle.missing"
	BundleMalformed       Code = "bundle.malformed"
	EntryMismatch         Code = "entry.mismatch"
	EntryMalformed        Code = "entry.malformed"
	EntryUnknown          Code = "entry.unknown"
	EntryEpoch            Code = "entry.epoch"
	MarkerMissing         Code = "marker.missing"
	MarkerOrder           Code = "marker.order"
	MarkerPlace           Code = "marker.place"
	MarkerPrevious        Code = "marker.previous"
	MarkerCounts          Code = "marker.counts"
	MarkerTime            Code = "marker.time"
	MarkerKey             Code = "marker.key"
	GovernanceVersion     Code = "governance.version"
	GovernanceBlob        Code = "governance.blob"
	KeyState              Code = "key.state"
	KeyPromise            Code = "key.promise"
	RestartSeen           Code = "restart.seen"
	RestartRoot           Code = "restart.root"
	OpenedReference       Code = "opened.reference"
	DeferredOverdue       Code = "deferred.overdue"
	AuditRange            Code = "audit.range"
	AuditStatement        Code = "audit.statement"
	AuditUnverified       Code = "audit.unverified"
	IndexMissing          Code = "index.missing"
	IndexTree             Code = "index.tree"
	IndexBucket           Code = "index.bucket"
	IndexItems            Code = "index.items"
	IndexRoot             Code = "index.root"
)

// Severity says what a finding means for the log.
type Severity string

// The severities.
const (
	Fault  Severity = "fault"  // the log doesn't keep its rules
	Notice Severity = "notice" // nothing is wrong, and an auditor wants to know
)

// CodeInfo describes a code.
type CodeInfo struct {
	Severity Severity
	Means    string
	Do       string
}

const (
	keepAll   = "Keep a copy of everything that is served, and the checkpoints; tell the supervisory authority and the witnesses."
	askAnew   = "Fetch it again, also from another mirror. If it stays, the log can't prove what it signed: tell the operator, and the supervisory authority if it isn't mended."
	askReason = "Ask the operator for the reason, in writing."
)

// Codes describes every code. It must not be changed.
var Codes = map[Code]CodeInfo{
	CheckpointHistory:     {Fault, "two signed checkpoints contradict each other: the log was forked or rewritten", keepAll},
	CheckpointOlder:       {Fault, "the log serves a smaller tree than it had signed before", keepAll},
	CheckpointUnwitnessed: {Fault, "the checkpoint lacks the quorum that the policy demands: others may be shown another history", "Look again in a few minutes. If it stays, ask the witnesses whether they see the log."},
	RootMismatch:          {Fault, "the entries that are served have another root than the one that was signed", keepAll},
	TileMissing:           {Fault, "a tile is missing", askAnew},
	TileMismatch:          {Fault, "a tile has other hashes than the entries", askAnew},
	BundleMissing:         {Fault, "entries are missing", askAnew},
	BundleMalformed:       {Fault, "a bundle of entries is malformed or too large", askAnew},
	EntryMismatch:         {Fault, "an entry is not the one whose hash stands in the tree", keepAll},
	EntryMalformed:        {Fault, "an entry has no canonical form", keepAll},
	EntryUnknown:          {Notice, "entries of types that this version doesn't know", "Get a newer version of regard-audit."},
	EntryEpoch:            {Fault, "an entry has the number of another epoch than the one in which it stands: it is back-dated or post-dated", keepAll},
	MarkerMissing:         {Fault, "log index 0 is not the marker that opens epoch 0", keepAll},
	MarkerOrder:           {Fault, "a marker opens another epoch than the next: one was skipped, or has two", keepAll},
	MarkerPlace:           {Fault, "a marker says that the closed epoch begins or ends elsewhere than it does", keepAll},
	MarkerPrevious:        {Fault, "a marker doesn't name the marker before it", keepAll},
	MarkerCounts:          {Fault, "a marker counts other entries than stand in the epoch", keepAll},
	MarkerTime:            {Fault, "a marker is older than the one before it", keepAll},
	MarkerKey:             {Fault, "an epoch's labels are made by a key that the log didn't tell, or that it said was destroyed", keepAll},
	GovernanceVersion:     {Fault, "the version of an agreement or service goes back, or says two things", keepAll},
	GovernanceBlob:        {Fault, "what a digest in the log stands for is not served, or is something else", askAnew},
	KeyState:              {Fault, "a key leaves force that never entered it, or comes back", keepAll},
	KeyPromise:            {Fault, "a month's key was destroyed before the end of the retention that was promised for it", keepAll},
	RestartSeen:           {Notice, "the operator restarted the log, and may have lost details", askReason},
	RestartRoot:           {Fault, "a restart names a tree that the log never had", keepAll},
	OpenedReference:       {Fault, "an entry ends a delay that isn't open, or with another commitment", keepAll},
	DeferredOverdue:       {Fault, "a delay wasn't ended within its month", askReason},
	AuditRange:            {Fault, "an auditor was shown something else than whole closed epochs", keepAll},
	AuditStatement:        {Fault, "an auditor's statement about an index is not signed by that auditor, or says something else than the marker", keepAll},
	AuditUnverified:       {Notice, "an auditor's statement can't be verified: the key is not known here", "Give the auditor's key (--auditor-key), or ask the operator to publish it."},
	IndexMissing:          {Fault, "a part of a closed epoch's index is missing", askAnew},
	IndexTree:             {Fault, "a tile of an index has other hashes than its buckets", askAnew},
	IndexBucket:           {Fault, "a bucket is malformed, stands elsewhere than it says, or isn't in order", keepAll},
	IndexItems:            {Fault, "an index has another number of rolls than its marker says", keepAll},
	IndexRoot:             {Fault, "an index has another root than its marker says", keepAll},
}

// Finding is something that an auditor has to know.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	// Place is a file ("tile/0/001"), an entry ("entry 517") or an epoch ("epoch 3").
	Place string `json:"place"`
	Text  string `json:"text"`
}

func finding(code Code, place, format string, args ...any) Finding {
	return Finding{code, Codes[code].Severity, place, fmt.Sprintf(format, args...)}
}

// maxKept is how many findings of one code are kept with their places; the rest is counted.
const maxKept = 100

// Findings collects findings in bounded memory. The zero Findings is empty.
type Findings struct {
	// Kept are the first of each code.
	Kept []Finding `json:"kept"`
	// Count has all of them.
	Count map[Code]uint64 `json:"count"`
}

func (f *Findings) add(x Finding) {
	if f.Count == nil {
		f.Count = map[Code]uint64{}
	}
	if f.Count[x.Code]++; f.Count[x.Code] <= maxKept {
		f.Kept = append(f.Kept, x)
	}
}

// Faults returns the number of faults.
func (f *Findings) Faults() (n uint64) {
	for code, c := range f.Count {
		if Codes[code].Severity == Fault {
			n += c
		}
	}
	return n
}

// Omitted returns how many findings were counted and not kept.
func (f *Findings) Omitted() (n uint64) {
	for _, c := range f.Count {
		n += c
	}
	return n - uint64(len(f.Kept))
}

func (f *Findings) clone() Findings {
	c := Findings{Kept: slices.Clone(f.Kept), Count: map[Code]uint64{}}
	for k, v := range f.Count {
		c.Count[k] = v
	}
	return c
}
