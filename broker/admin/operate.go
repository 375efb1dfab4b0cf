package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// Operations is the part of [broker.Broker] for its own upkeep.
type Operations interface {
	Backup(ctx context.Context, dir string) (*broker.Manifest, error)
	CheckpointKeys(context.Context) ([]keys.PublicKey, error)
	RotateKey(context.Context, keys.RootKey) (int, error)
	RewrapKeys(ctx context.Context, progress func(seen int)) (int, error)
	RetireKey(ctx context.Context, root keys.RootKey, version int, prepare bool) error
	IntentKeys(context.Context) ([]*keys.IntentKey, error)
	RotateIntentKey(context.Context) (int, error)
	RetireIntentKey(ctx context.Context, version int) error
	Skip(ctx context.Context, index proof.Index, reason string) error
}

var _ Operations = (*broker.Broker)(nil)

// States of a Job.
const (
	JobNone    = "none"
	JobRunning = "running"
	JobDone    = "done"
	JobFailed  = "failed"
)

// A Job is work that outlasts a call: it is begun by one and asked for by others.
type Job struct {
	State  string          `json:"state"`
	Begun  time.Time       `json:"begun,omitzero"`
	Seen   int             `json:"seen,omitempty"` // progress
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
}

// job runs one piece of work at a time.
type job struct {
	mu  sync.Mutex
	now Job
}

// begin runs f in the background, on after the caller has hung up.
func (j *job) begin(ctx context.Context, f func(ctx context.Context, progress func(int)) (any, error)) (any, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now.State == JobRunning {
		return nil, &broker.Problem{Status: 409, Code: "job.running", Title: "This is being done already.", Detail: "Wait for its end."}
	}
	j.now = Job{State: JobRunning, Begun: time.Now().UTC().Truncate(time.Second)}
	ctx = context.WithoutCancel(ctx)
	go func() {
		v, err := f(ctx, func(seen int) {
			j.mu.Lock()
			defer j.mu.Unlock()
			j.now.Seen = seen
		})
		var result []byte
		if err == nil {
			result, err = json.Marshal(v)
		}
		j.mu.Lock()
		defer j.mu.Unlock()
		if err != nil {
			e := describe(broker.AsProblem(err))
			j.now.State, j.now.Error = JobFailed, &e
			return
		}
		j.now.State, j.now.Result = JobDone, result
	}()
	return j.now, nil
}

func (j *job) state() Job {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.now.State == "" {
		return Job{State: JobNone}
	}
	return j.now
}

// describe shows a problem to the operator, who may know the cause.
func describe(p *broker.Problem) Error {
	e := Error{Status: p.Status, Code: p.Code, Title: p.Title, Detail: p.Detail, Parameter: p.Parameter}
	if cause := errors.Unwrap(p); cause != nil {
		e.Cause = cause.Error()
	}
	return e
}

// BackupCall begins a backup.
type BackupCall struct {
	Dir string `json:"dir"` // absolute, as the broker sees it
}

// RetireCall ends a version and those below it.
type RetireCall struct {
	Version int `json:"version"`
	// Prepare: all but the custodian's part.
	Prepare bool `json:"prepare,omitempty"`
}

// SkipCall gives up an entry whose record can't be read.
type SkipCall struct {
	Index  proof.Index `json:"index"`
	Reason string      `json:"reason"` // token
}

// IntentKey names the key that signs intents, in the place of a root key. It is a data key: the custodian has no part in its rotation.
const IntentKey = "intent"

// KeyVersion is a version of the checkpoint key, or of the intent key.
type KeyVersion struct {
	Key     string    `json:"key"` // checkpoint or intent
	Version int       `json:"version"`
	Public  []byte    `json:"public"`
	Created time.Time `json:"created"`
}

type operations struct {
	b              Operations
	backup, rewrap job
}

// operationCalls are the calls for a broker's upkeep, if it has any.
func operationCalls(b Broker) map[string]call {
	ops, ok := b.(Operations)
	if !ok {
		return nil
	}
	o := &operations{b: ops}
	return map[string]call{
		"GET /backup":            func(context.Context, *http.Request, []byte) (any, error) { return o.backup.state(), nil },
		"POST /backup":           o.beginBackup,
		"GET /keys":              o.list,
		"POST /keys/{id}/rotate": o.rotate,
		"POST /keys/{id}/retire": o.retire,
		"POST /log/skip":         o.skip,
		"GET /rewrap":            func(context.Context, *http.Request, []byte) (any, error) { return o.rewrap.state(), nil },
		"POST /rewrap":           o.beginRewrap,
	}
}

func (o *operations) beginBackup(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in BackupCall
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	return o.backup.begin(ctx, func(ctx context.Context, _ func(int)) (any, error) { return o.b.Backup(ctx, in.Dir) })
}

func (o *operations) beginRewrap(ctx context.Context, _ *http.Request, _ []byte) (any, error) {
	return o.rewrap.begin(ctx, func(ctx context.Context, progress func(int)) (any, error) { return o.b.RewrapKeys(ctx, progress) })
}

func (o *operations) list(ctx context.Context, _ *http.Request, _ []byte) (any, error) {
	ks, err := o.b.CheckpointKeys(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]KeyVersion, len(ks))
	for i, k := range ks {
		out[i] = KeyVersion{string(keys.RootCheckpoint), k.Version, k.Key, k.Created}
	}
	intents, err := o.b.IntentKeys(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range intents {
		out = append(out, KeyVersion{IntentKey, k.Version, k.Public(), k.Created})
	}
	return out, nil
}

func (o *operations) rotate(ctx context.Context, r *http.Request, _ []byte) (any, error) {
	id := r.PathValue("id")
	if id == IntentKey {
		v, err := o.b.RotateIntentKey(ctx)
		return Done{id, int64(v)}, err
	}
	v, err := o.b.RotateKey(ctx, keys.RootKey(id))
	return Done{id, int64(v)}, err
}

func (o *operations) retire(ctx context.Context, r *http.Request, body []byte) (any, error) {
	var in RetireCall
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	id := r.PathValue("id")
	if id == IntentKey {
		return Done{id, int64(in.Version)}, o.b.RetireIntentKey(context.WithoutCancel(ctx), in.Version)
	}
	// What was begun is carried through: half a retirement would have to be repeated.
	return Done{id, int64(in.Version)}, o.b.RetireKey(context.WithoutCancel(ctx), keys.RootKey(id), in.Version, in.Prepare)
}

func (o *operations) skip(ctx context.Context, _ *http.Request, body []byte) (any, error) {
	var in SkipCall
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	return Done{ID: in.Index.String()}, o.b.Skip(ctx, in.Index, in.Reason)
}

// Backup begins a backup on the broker's machine.
func (c *Client) Backup(ctx context.Context, dir string) (Job, error) {
	return post[Job](ctx, c, BackupCall{dir}, "backup")
}

// BackupState asks for the last backup of this process.
func (c *Client) BackupState(ctx context.Context) (Job, error) { return get[Job](ctx, c, "/backup") }

// Rewrap begins to bring all data keys under the newest version of the wrap key.
func (c *Client) Rewrap(ctx context.Context) (Job, error) { return post[Job](ctx, c, nil, "rewrap") }

// RewrapState asks how far it is.
func (c *Client) RewrapState(ctx context.Context) (Job, error) { return get[Job](ctx, c, "/rewrap") }

// Keys lists the versions in force, newest first, of the checkpoint key and of the intent key.
func (c *Client) Keys(ctx context.Context) ([]KeyVersion, error) {
	return get[[]KeyVersion](ctx, c, "/keys")
}

// RotateKey adds a version of a root key, wrap or checkpoint, or of the intent key.
func (c *Client) RotateKey(ctx context.Context, root string) (Done, error) {
	return post[Done](ctx, c, nil, "keys", root, "rotate")
}

// RetireKey ends a version of a root key, or of the intent key, and those below it.
func (c *Client) RetireKey(ctx context.Context, root string, in RetireCall) (Done, error) {
	return post[Done](ctx, c, in, "keys", root, "retire")
}

// Skip gives up an entry whose record can't be read, so that what comes after it can be filed.
func (c *Client) Skip(ctx context.Context, in SkipCall) (Done, error) {
	return post[Done](ctx, c, in, "log", "skip")
}
