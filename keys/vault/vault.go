// Package vault is the keys.Custodian for production: the root keys are in Vault's (or OpenBao's) transit engine and never leave it.
//
// What it guarantees. A data key is wrapped and unwrapped by Vault with the associated data of its row, up to 1,000 in one network call. The client logs in by AppRole or with a Kubernetes service account, renews its token,
// and logs in again when the token reaches its greatest age or is revoked; after Vault was sealed, down, slow or restarted it goes on by itself. Every call ends within
// Config.Budget. Tokens (a service account's too), secret ids and keys are in no error and no log.
//
// What it doesn't. Whoever controls Vault reads everything. Data keys pass through this process and its TLS connection in clear: that is what wrapping is for. Vault's own
// audit log shows that keys were unwrapped, not whose they were.
package vault

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/keys"
)

var _ keys.Custodian = (*Custodian)(nil)

// maxItems is the greatest batch in one call.
const maxItems = 1000

type batchResponse struct {
	Data struct {
		Results []struct {
			Plaintext  []byte `json:"plaintext"` // encoding/json decodes the base64
			Ciphertext string `json:"ciphertext"`
			Error      string `json:"error"`
		} `json:"batch_results"`
	} `json:"data"`
}

// Wrap implements keys.Custodian.
func (c *Custodian) Wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	out := make([]keys.Wrapped, 0, len(in))
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	for part := range slices.Chunk(in, maxItems) {
		w, err := c.wrap(ctx, part)
		if err != nil {
			return nil, fmt.Errorf("wrapping keys: %w", err)
		}
		out = append(out, w...)
	}
	return out, nil
}

func (c *Custodian) wrap(ctx context.Context, in []keys.Plain) ([]keys.Wrapped, error) {
	// By hand, so that the body can be cleared.
	body := make([]byte, 0, 32+len(in)*256)
	body = append(body, `{"batch_input":[`...)
	for i := range in {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, `{"plaintext":"`...)
		body = base64.StdEncoding.AppendEncode(body, in[i].Key[:])
		body = append(body, `","associated_data":"`...)
		body = base64.StdEncoding.AppendEncode(body, in[i].AD)
		body = append(body, `"}`...)
	}
	body = append(body, `]}`...)
	defer clear(body)
	res, err := c.call(ctx, request{method: http.MethodPut, path: c.path("encrypt", c.cfg.WrapKey), body: body})
	if err != nil {
		return nil, err
	}
	var r batchResponse
	if err := json.Unmarshal(res.body, &r); err != nil || res.status != http.StatusOK || len(r.Data.Results) != len(in) {
		return nil, fmt.Errorf("%w: encrypt answered %d with %d of %d items", keys.ErrUnavailable, res.status, len(r.Data.Results), len(in))
	}
	out := make([]keys.Wrapped, len(in))
	for i, item := range r.Data.Results {
		if item.Error != "" || versionOf(item.Ciphertext) == 0 {
			return nil, fmt.Errorf("%w: encrypt failed for item %d", keys.ErrUnavailable, i)
		}
		out[i] = keys.Wrapped(item.Ciphertext)
	}
	return out, nil
}

// versionOf checks the form vault:v<version>:<base64> and returns the version, 0 if it is no such thing.
func versionOf(s string) int {
	rest, ok := strings.CutPrefix(s, "vault:v")
	if !ok || len(s) > 1<<10 {
		return 0
	}
	digits, data, ok := strings.Cut(rest, ":")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 1 || strconv.Itoa(n) != digits || data == "" {
		return 0
	}
	// Nothing in it may need escaping in JSON.
	if _, err := base64.StdEncoding.Strict().DecodeString(data); err != nil || strings.ContainsAny(data, "\r\n") {
		return 0
	}
	return n
}

// Unwrap implements keys.Custodian.
func (c *Custodian) Unwrap(ctx context.Context, in []keys.WrappedAD) ([][32]byte, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	out := make([][32]byte, len(in))
	bad := map[int]error{}
	// Items that aren't even a ciphertext of Vault's are not sent.
	var send []int
	for i := range in {
		if versionOf(string(in[i].Wrapped)) == 0 {
			bad[i] = fmt.Errorf("not a key wrapped by Vault: %w", keys.ErrAltered)
		} else {
			send = append(send, i)
		}
	}
	for part := range slices.Chunk(send, maxItems) {
		if err := c.unwrap(ctx, in, part, out, bad); err != nil {
			for i := range out {
				clear(out[i][:])
			}
			return nil, fmt.Errorf("unwrapping keys: %w", err)
		}
	}
	if len(bad) > 0 {
		return out, &keys.BatchError{Items: bad, Size: len(in)}
	}
	return out, nil
}

func (c *Custodian) unwrap(ctx context.Context, in []keys.WrappedAD, send []int, out [][32]byte, bad map[int]error) error {
	body := []byte(`{"batch_input":[`)
	for n, i := range send {
		if n > 0 {
			body = append(body, ',')
		}
		body = append(body, `{"ciphertext":"`...)
		body = append(body, in[i].Wrapped...)
		body = append(body, `","associated_data":"`...)
		body = base64.StdEncoding.AppendEncode(body, in[i].AD)
		body = append(body, `"}`...)
	}
	body = append(body, `]}`...)
	// With a bad item in the batch the status is 400, and the others' results are there.
	res, err := c.call(ctx, request{method: http.MethodPut, path: c.path("decrypt", c.cfg.WrapKey), body: body, also: []int{http.StatusBadRequest}})
	if err != nil {
		return err
	}
	defer clear(res.body)
	var r batchResponse
	err = json.Unmarshal(res.body, &r)
	defer func() {
		for i := range r.Data.Results {
			clear(r.Data.Results[i].Plaintext)
		}
	}()
	if err != nil || len(r.Data.Results) != len(send) {
		return fmt.Errorf("%w: decrypt answered %d with %d of %d items", keys.ErrDenied, res.status, len(r.Data.Results), len(send))
	}
	for n, item := range r.Data.Results {
		i := send[n]
		switch {
		case item.Error != "" && retired(item.Error):
			bad[i] = fmt.Errorf("wrapped under a retired version of the root key: %w", keys.ErrAltered)
		case item.Error != "" || len(item.Plaintext) != len(out[i]):
			bad[i] = fmt.Errorf("wrapped key: %w", keys.ErrAltered)
		default:
			copy(out[i][:], item.Plaintext)
		}
	}
	return nil
}

// retired recognises Vault's words for a version below min_decryption_version. They only choose words of ours.
func retired(msg string) bool { return strings.Contains(msg, "too old") }

// Rewrap implements keys.Custodian: Vault's rewrap endpoint has no associated data, so it is decrypt and encrypt, two calls.
func (c *Custodian) Rewrap(ctx context.Context, in []keys.WrappedAD) ([]keys.Wrapped, error) {
	secrets, err := c.Unwrap(ctx, in)
	var items map[int]error
	if be, ok := err.(*keys.BatchError); ok { //nolint:errorlint // Unwrap returns it unwrapped
		items = be.Items
	} else if err != nil {
		return nil, err
	}
	var p []keys.Plain
	var at []int
	defer func() {
		for i := range p {
			clear(p[i].Key[:])
		}
	}()
	for i := range secrets {
		if items[i] == nil {
			p, at = append(p, keys.Plain{Key: secrets[i], AD: in[i].AD}), append(at, i)
		}
		clear(secrets[i][:])
	}
	w, werr := c.Wrap(ctx, p)
	if werr != nil {
		return nil, werr
	}
	out := make([]keys.Wrapped, len(in))
	for n, i := range at {
		// An item that was at the newest version stays as it is, so that nothing is written for it.
		if versionOf(string(in[i].Wrapped)) == versionOf(string(w[n])) {
			out[i] = in[i].Wrapped
		} else {
			out[i] = w[n]
		}
	}
	return out, err
}

// Sign implements keys.Custodian.
func (c *Custodian) Sign(ctx context.Context, version int, msg []byte) ([]byte, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]any{"input": base64.StdEncoding.EncodeToString(msg), "key_version": version})
	if err != nil {
		return nil, err
	}
	r := request{method: http.MethodPut, path: c.path("sign", c.cfg.CheckpointKey), body: body, also: []int{http.StatusBadRequest, http.StatusInternalServerError}}
	res, err := c.call(ctx, r)
	if err == nil && res.status == http.StatusInternalServerError {
		// What Vault answers for a version that isn't in force, and also when something is wrong with it.
		if version != 0 {
			in, err := c.inForce(ctx, version)
			if err != nil {
				return nil, fmt.Errorf("signing: %w", err)
			}
			if !in {
				res.status = http.StatusBadRequest
			}
		}
		if res.status == http.StatusInternalServerError {
			r.also = r.also[:1]
			res, err = c.call(ctx, r)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if res.status == http.StatusBadRequest {
		return nil, fmt.Errorf("signing: Vault has no version %d of %s in force: %w", version, c.cfg.CheckpointKey, keys.ErrDenied)
	}
	return signature(res.body, version)
}

func (c *Custodian) inForce(ctx context.Context, version int) (bool, error) {
	ks, err := c.PublicKeys(ctx)
	return slices.ContainsFunc(ks, func(k keys.PublicKey) bool { return k.Version == version }), err
}

func signature(body []byte, version int) ([]byte, error) {
	var r struct {
		Data struct {
			Signature string `json:"signature"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, fmt.Errorf("signing: %w: no signature in the answer", keys.ErrUnavailable)
	}
	if v := versionOf(r.Data.Signature); v != 0 && (version == 0 || v == version) {
		if sig, err := base64.StdEncoding.DecodeString(r.Data.Signature[strings.LastIndexByte(r.Data.Signature, ':')+1:]); err == nil && len(sig) == ed25519.SignatureSize {
			return sig, nil
		}
	}
	return nil, fmt.Errorf("signing: %w: not an Ed25519 signature of version %d", keys.ErrUnavailable, version)
}

// keyInfo is what transit tells of a key.
type keyInfo struct {
	Type       string                     `json:"type"`
	Exportable bool                       `json:"exportable"`
	Backup     bool                       `json:"allow_plaintext_backup"`
	Derived    bool                       `json:"derived"`
	Deletable  bool                       `json:"deletion_allowed"`
	Latest     int                        `json:"latest_version"`
	MinDecrypt int                        `json:"min_decryption_version"`
	MinEncrypt int                        `json:"min_encryption_version"`
	Keys       map[string]json.RawMessage `json:"keys"`
}

func (c *Custodian) readKey(ctx context.Context, name string) (*keyInfo, error) {
	res, err := c.call(ctx, request{method: http.MethodGet, path: c.path("keys", name)})
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", name, err)
	}
	return parseKey(name, res.body)
}

func parseKey(name string, body []byte) (*keyInfo, error) {
	var r struct {
		Data *keyInfo `json:"data"`
	}
	if err := json.Unmarshal(body, &r); err != nil || r.Data == nil || r.Data.Latest < 1 {
		return nil, fmt.Errorf("reading the key %s: %w: the answer is no transit key", name, keys.ErrUnavailable)
	}
	return r.Data, nil
}

// PublicKeys implements keys.Custodian. In force are the versions from min_encryption_version on (Vault lets those sign).
func (c *Custodian) PublicKeys(ctx context.Context) ([]keys.PublicKey, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	k, err := c.readKey(ctx, c.cfg.CheckpointKey)
	if err != nil {
		return nil, err
	}
	if k.Type != "ed25519" {
		return nil, fmt.Errorf("the key %s is of type %s, want ed25519: %w", c.cfg.CheckpointKey, k.Type, keys.ErrDenied)
	}
	var out []keys.PublicKey
	for v := k.Latest; v >= max(1, k.MinEncrypt, k.MinDecrypt); v-- {
		var p struct {
			PublicKey []byte    `json:"public_key"`
			Created   time.Time `json:"creation_time"`
		}
		if err := json.Unmarshal(k.Keys[strconv.Itoa(v)], &p); err != nil || len(p.PublicKey) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("version %d of %s has no public key: %w", v, c.cfg.CheckpointKey, keys.ErrUnavailable)
		}
		out = append(out, keys.PublicKey{Version: v, Key: p.PublicKey, Created: p.Created.UTC()})
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("the key %s has no version in force: %w", c.cfg.CheckpointKey, keys.ErrDenied)
	}
	return out, nil
}

func (c *Custodian) root(root keys.RootKey) (string, error) {
	switch root {
	case keys.RootWrap:
		return c.cfg.WrapKey, nil
	case keys.RootCheckpoint:
		return c.cfg.CheckpointKey, nil
	}
	return "", fmt.Errorf("vault: no root key is named %q", root)
}

// Rotate implements keys.Custodian. It isn't repeated when it is unknown whether it was done.
func (c *Custodian) Rotate(ctx context.Context, root keys.RootKey) (int, error) {
	if err := c.open(ctx); err != nil {
		return 0, err
	}
	name, err := c.root(root)
	if err != nil {
		return 0, err
	}
	if _, err := c.call(ctx, request{method: http.MethodPut, path: c.path("keys", name) + "/rotate", body: []byte("{}"), once: true}); err != nil {
		return 0, fmt.Errorf("rotating %s: %w", name, err)
	}
	// What rotate itself answers differs between versions of Vault.
	k, err := c.readKey(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("it was rotated; %w", err)
	}
	return k.Latest, nil
}

// Retire implements keys.Custodian. Vault archives the versions; lowering min_decryption_version brings them back, until `vault write transit/keys/<name>/trim`.
func (c *Custodian) Retire(ctx context.Context, root keys.RootKey, oldest int) error {
	if err := c.open(ctx); err != nil {
		return err
	}
	name, err := c.root(root)
	if err != nil {
		return err
	}
	k, err := c.readKey(ctx, name)
	if err != nil {
		return err
	}
	if err := keys.Retirable(oldest, k.Latest); err != nil {
		return fmt.Errorf("vault: retiring versions of %s: %w", name, err)
	}
	// Never downwards: that would bring back what was retired.
	oldest = max(oldest, k.MinDecrypt, k.MinEncrypt)
	body := fmt.Appendf(nil, `{"min_decryption_version":%d,"min_encryption_version":%d}`, oldest, oldest)
	if _, err := c.call(ctx, request{method: http.MethodPut, path: c.path("keys", name) + "/config", body: body}); err != nil {
		return fmt.Errorf("retiring versions of %s: %w", name, err)
	}
	return nil
}

// Check implements keys.Custodian.
func (c *Custodian) Check(ctx context.Context) error {
	p := keys.Plain{AD: []byte("regard/check")}
	if _, err := rand.Read(p.Key[:]); err != nil {
		return fmt.Errorf("reading randomness: %w", err)
	}
	w, err := c.Wrap(ctx, []keys.Plain{p})
	if err != nil {
		return err
	}
	got, err := c.Unwrap(ctx, []keys.WrappedAD{{Wrapped: w[0], AD: p.AD}})
	if err != nil {
		return err
	}
	if !bytes.Equal(got[0][:], p.Key[:]) {
		return fmt.Errorf("a key unwraps to another: %w", keys.ErrAltered)
	}
	return nil
}
