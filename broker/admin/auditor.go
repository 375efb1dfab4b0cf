package admin

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/http"

	"github.com/regard-broker/regard/ledger/proof"
)

// Auditor as administration shows it.
type Auditor struct {
	ID           string       `json:"id"`
	Name         string       `json:"name"`
	State        string       `json:"state"`
	Certificates []AgencyKey  `json:"certificates"`
	Keys         []AuditorKey `json:"keys"`
}

// AuditorKey is a key with which an auditor cosigns indexes.
type AuditorKey struct {
	Key    string `json:"key"`    // text form of signed notes
	Digest string `json:"digest"` // base64, as in the log
	State  string `json:"state"`
}

// NewAuditor is the call that adds one.
type NewAuditor struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Certificate string `json:"certificate"` // PEM
	Key         string `json:"key"`         // text form of signed notes
}

// AuditorRotation is the call that replaces an auditor's certificate, key or both.
type AuditorRotation struct {
	Certificate string `json:"certificate,omitempty"` // PEM
	Key         string `json:"key,omitempty"`
	// KeepOld leaves the earlier ones of the same sort in force; rotate again without it to end them.
	KeepOld bool `json:"keep_old"`
}

func (s *calls) auditors(context.Context, *http.Request, []byte) (any, error) {
	out := []Auditor{}
	for _, a := range s.b.Auditors() {
		v := Auditor{a.ID, a.Name, a.State, []AgencyKey{}, []AuditorKey{}}
		for _, k := range a.Certificates {
			v.Certificates = append(v.Certificates, AgencyKey{fmt.Sprintf("%x", k.SPKI), k.NotAfter, k.State})
		}
		for _, k := range a.Keys {
			v.Keys = append(v.Keys, AuditorKey{k.VKey, proof.AuditorKey(k.VKey).String(), k.State})
		}
		out = append(out, v)
	}
	return out, nil
}

func (s *calls) addAuditor(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in NewAuditor
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	cert, err := certificate(in.Certificate)
	if err != nil {
		return nil, err
	}
	return Done{ID: in.ID}, s.b.AddAuditor(ctx, in.ID, in.Name, cert, in.Key)
}

func (s *calls) rotateAuditor(ctx context.Context, r *http.Request, body []byte) (any, error) {
	var in AuditorRotation
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	var cert *x509.Certificate
	if in.Certificate != "" {
		var err error
		if cert, err = certificate(in.Certificate); err != nil {
			return nil, err
		}
	}
	id := r.PathValue("id")
	return Done{ID: id}, s.b.RotateAuditor(ctx, id, cert, in.Key, in.KeepOld)
}

func (s *calls) revokeAuditor(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	id := r.PathValue("id")
	return Done{ID: id}, s.b.RevokeAuditor(ctx, id)
}

// Auditors by id.
func (c *Client) Auditors(ctx context.Context) ([]Auditor, error) {
	return get[[]Auditor](ctx, c, "/auditors")
}

// AddAuditor registers an auditor.
func (c *Client) AddAuditor(ctx context.Context, a NewAuditor) (Done, error) {
	return post[Done](ctx, c, a, "auditors")
}

// RotateAuditor replaces an auditor's certificate, key or both.
func (c *Client) RotateAuditor(ctx context.Context, id string, r AuditorRotation) (Done, error) {
	return post[Done](ctx, c, r, "auditors", id, "rotate")
}

// RevokeAuditor ends all that an auditor may do.
func (c *Client) RevokeAuditor(ctx context.Context, id string) (Done, error) {
	return post[Done](ctx, c, nil, "auditors", id, "revoke")
}
