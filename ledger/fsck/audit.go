package fsck

import (
	"context"
	"errors"
	"strings"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/reader"
)

// AuditName returns the name under which an auditor's statement about the index of an epoch is served.
func AuditName(epoch proof.Epoch, auditor string) string {
	return "audit/" + epoch.String() + "/" + auditor
}

// Auditors returns the auditors that the log names, with the digests of their keys.
func (r *Rules) Auditors() (map[string][]proof.Hash, error) {
	out := map[string][]proof.Hash{}
	for key := range r.Keys {
		name, public, _ := strings.Cut(key, " ")
		auditor, ok := strings.CutPrefix(name, string(proof.UseAuditor)+".")
		if !ok {
			continue
		}
		digest, err := proof.ParseHash(public)
		if err != nil {
			return nil, err
		}
		out[auditor] = append(out[auditor], digest)
	}
	return out, nil
}

// AuditorKeys finds the verification keys of auditors by their digests: among those given, and under blob/ where the log publishes them. An auditor of whom no key is known has none in the result.
func AuditorKeys(ctx context.Context, s reader.Source, named map[string][]proof.Hash, given []string) (map[string][]string, error) {
	out := map[string][]string{}
	for auditor, digests := range named {
		out[auditor] = nil
		for _, digest := range digests {
			found := false
			for _, k := range given {
				if proof.AuditorKey(k) == digest {
					out[auditor], found = append(out[auditor], k), true
				}
			}
			if found {
				continue
			}
			b, err := s.Get(ctx, BlobName(digest), maxKey)
			if err = unlessDamaged(err); err != nil {
				return nil, err
			}
			if proof.AuditorKey(string(b)) == digest {
				out[auditor] = append(out[auditor], string(b))
			}
		}
	}
	return out, nil
}

// maxKey bounds a verification key in text, in bytes.
const maxKey = 4 << 10

// VerifyAudit verifies an auditor's statement about the epoch that a marker closes, under one of their keys.
func VerifyAudit(signed []byte, origin string, closing proof.Marker, vkeys []string) error {
	err := errors.New("no key of the auditor is known")
	for _, vkey := range vkeys {
		var a proof.IndexAudit
		if a, err = proof.VerifyIndexAudit(signed, vkey); err != nil {
			continue
		}
		if !a.Agrees(origin, closing) {
			return errors.New("it states something else than the marker that closes the epoch")
		}
		return nil
	}
	return err
}
