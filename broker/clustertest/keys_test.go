package clustertest

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/ledgertest"
)

// TestRotation: every key that has versions is rotated, and its first version retired, while agencies ask; they notice nothing.
func TestRotation(t *testing.T) {
	t.Parallel()
	// The log has two checkpoint keys from its first day, and whoever verifies knows both: one of them always signs.
	w := newWorld(t, options{vault: true, prepare: func(w *world) { w.rotate(w.init.CheckpointKey) }})
	leads, follows := w.leader(t)
	wrap, checkpoint := w.init.WrapKey, w.init.CheckpointKey
	for _, k := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"wrap key", func(t *testing.T) {
			w.rotate(wrap)
			follows[0].change(t, "rewrap", 0)
			leads.change(t, "retire wrap", 1)
			w.retire(wrap, 2)
		}},
		{"checkpoint key", func(t *testing.T) {
			w.rotate(checkpoint)
			leads.change(t, "list", 3)
			leads.change(t, "retire checkpoint", 1)
			w.retire(checkpoint, 2)
		}},
		{"intent key", func(t *testing.T) {
			leads.change(t, "rotate intent", 0)
			leads.change(t, "retire intent", 1)
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			w.survive(t, fault{orderly: true, unnoticed: true, hit: func() { k.do(t) }, heal: func() {}})
		})
	}
}

// rotate adds a version of a root key in Vault, as its operator does.
func (w *world) rotate(key string) { w.write(key+"/rotate", nil) }

// retire leaves a root key with the versions from this one on.
func (w *world) retire(key string, first int) {
	w.write(key+"/config", map[string]any{"min_decryption_version": first, "min_encryption_version": first})
}

func (w *world) write(path string, data map[string]any) {
	w.t.Helper()
	if _, err := w.vault.Admin().Logical().WriteWithContext(w.t.Context(), w.init.TransitMount+"/keys/"+path, data); err != nil {
		w.t.Fatal(err)
	}
}

// change has a broker do something with its keys, as regard keys does, until it says that it is done.
func (m *member) change(t *testing.T, what string, version int) {
	t.Helper()
	said := ""
	ledgertest.Await(t, m.name+" to "+what, func() bool {
		res, err := http.PostForm("http://"+m.config.Ops+"/keys", url.Values{"what": {what}, "version": {strconv.Itoa(version)}})
		if err != nil {
			return false
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if now := strings.TrimSpace(string(b)); now != said {
			said = now
			t.Logf("%s: %s %s", what, res.Status, said)
		}
		return err == nil && res.StatusCode == http.StatusOK
	})
}

// changeKeys is that in the broker's process.
func changeKeys(r *http.Request, b *broker.Broker) error {
	ctx := r.Context()
	version, err := strconv.Atoi(r.FormValue("version"))
	if err != nil {
		return err
	}
	switch what := r.FormValue("what"); what {
	case "rewrap":
		_, err = b.RewrapKeys(ctx, nil)
	case "retire wrap":
		err = b.RetireKey(ctx, keys.RootWrap, version, true)
	case "list":
		var ks []keys.PublicKey
		if ks, err = b.CheckpointKeys(ctx); err == nil && ks[0].Version != version {
			err = fmt.Errorf("the newest checkpoint key is %d", ks[0].Version)
		}
	case "retire checkpoint":
		err = b.RetireKey(ctx, keys.RootCheckpoint, version, true)
	case "rotate intent":
		_, err = b.RotateIntentKey(ctx)
	case "retire intent":
		err = b.RetireIntentKey(ctx, version)
	default:
		err = errors.New("no such thing")
	}
	return err
}
