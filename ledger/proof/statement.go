package proof

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strings"
)

// StatementCode is a short text by which a printed list of a history's entries
// is compared with a verified file of the same epochs: it is over the log, the
// epochs, and of each entry what a list shows of it (docs/formats.md, section
// 7). It holds no identity, and is no proof by itself. Empty for the zero verdict.
func (v *HistoryVerdict) StatementCode() string {
	if v.State == 0 {
		return ""
	}
	b := append([]byte("regard/statement/v1"), 0)
	text := func(s string) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s))) // #nosec G115 -- a value has at most 64 KiB
		b = append(b, s...)
	}
	text(v.Origin)
	b = binary.BigEndian.AppendUint64(b, uint64(v.Epochs.From))
	b = binary.BigEndian.AppendUint64(b, uint64(v.Epochs.To))
	for i := range v.Entries {
		e := &v.Entries[i]
		b = binary.BigEndian.AppendUint64(b, uint64(e.Index))
		text(string(e.Kind))
		if e.Opening.Schema() != SchemaDisclosure {
			continue
		}
		for _, f := range []Field{DisclosureAgency, DisclosureService, DisclosureOutcome} {
			text(e.Opening.Text(f))
		}
	}
	sum := sha256.Sum256(b)
	s := base32.StdEncoding.EncodeToString(sum[:])[:20] // 100 bits
	return strings.Join([]string{s[:4], s[4:8], s[8:12], s[12:16], s[16:]}, "-")
}
