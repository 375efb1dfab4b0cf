package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/trillian"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/embedded"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/signedfile"
	"github.com/regard-broker/regard/ledger/tiles"
	"github.com/regard-broker/regard/policy"
)

// Restored tells what a restoration did.
type Restored struct {
	// Backup that was put in place; nil if the store is shared, whose database PostgreSQL's own means put back.
	Backup *Manifest
	// Done says that an earlier restoration of the same database has done all this: nothing was left to do.
	Done bool
	// Size of the signed checkpoint that the log continues from.
	Size uint64
	// Lost entries between the backup and the checkpoint: they stand in the log, and what they were about is lost.
	Lost uint64
	// Unsigned entries of Trillian's old tree beyond that checkpoint, which are not restored.
	Unsigned uint64
	// Erased since the backup: their keys are destroyed in the restored store.
	Erased int
	// Missing are changes of agencies and auditors that the log tells of and the operator has to make again: the log doesn't hold certificates and names.
	Missing []string
	// Aside are the directories with what was there before; destroy them when they aren't needed any more.
	Aside []string
}

// Restore puts a backup in the place of the store, of a broker that isn't running, and rebuilds Trillian's tree. The log goes on from the last checkpoint that was signed: entries that were
// signed after the backup are put back from the published files (or from Trillian), as entries without records. Before anything is in place, the people who were erased after the backup are erased again, and
// what the log says of agreements, services, policies and keys is applied. restart@v1 is the first entry that follows. If it can't prove that the log continues, it changes nothing and says why.
//
// A store that is shared was put back by PostgreSQL's own means, and from is empty: the database itself is brought up to the log, in one transaction, while no broker is there. Trillian's tree is rebuilt by
// the first broker that leads. It may be repeated at any time before that.
//
// It needs DataDir and SignedDir or Shared, Mirrors, IgnoreMirrors, Witnesses, Origin and Custodian of cfg, and closes the Custodian.
func Restore(ctx context.Context, cfg Config, from string) (_ *Restored, err error) {
	if cfg.DataDir == "" && cfg.Shared == nil || cfg.Origin == "" || cfg.Custodian == nil {
		return nil, errors.New("broker: a data directory or shared stores, an origin and a custodian of keys must be given")
	}
	b := &Broker{cfg: cfg, now: cfg.Clock, log: cfg.Logger}
	if b.now == nil {
		b.now = time.Now
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if cfg.Shared != nil {
		if from != "" {
			return nil, errors.New("broker: a shared store is put back by PostgreSQL's own means, not from a directory")
		}
		return b.restoreShared(ctx)
	}
	m, err := ReadBackup(from)
	if err != nil {
		return nil, err
	}
	if m.Origin != cfg.Origin {
		return nil, fmt.Errorf("this is a backup of the log %s, not of %s", m.Origin, cfg.Origin)
	}
	r := &restoration{b: b, from: from, result: &Restored{Backup: m}}
	lock, held, err := store.LockDir(r.dir("store"))
	if errors.Is(err, store.ErrLocked) {
		return nil, fmt.Errorf("the broker is running: stop it first (%w)", err)
	}
	if err != nil {
		return nil, err
	}
	if held {
		defer lock.Close()
	}
	// A restoration that was killed left a copy of its backup, in which nobody is erased yet.
	left, err := os.ReadDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	for _, d := range left {
		if !strings.HasPrefix(d.Name(), stagePrefix) {
			continue
		}
		if err := os.RemoveAll(r.dir(d.Name())); err != nil {
			return nil, fmt.Errorf("removing what an earlier restoration left: %w", err)
		}
	}
	r.stage = r.dir(stagePrefix + b.now().UTC().Format("20060102T150405.000Z"))
	if err := os.Mkdir(r.stage, 0o700); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.stage)) }() // a copy, or empty
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	if err := r.place(); err != nil {
		return nil, fmt.Errorf("putting the restored store in place (it can be repeated): %w", err)
	}
	return r.result, nil
}

const stagePrefix = "restoring-"

type restoration struct {
	b      *Broker
	from   string
	stage  string
	result *Restored
	tree   *embedded.Log // the new one
	store  store.Restoration
}

func (r *restoration) dir(name string) string { return filepath.Join(r.b.cfg.DataDir, name) }

// prepare makes the new store and tree in the staging directory.
func (r *restoration) prepare(ctx context.Context) (err error) {
	b := r.b
	if err := copyFile(filepath.Join(r.from, backupStore), filepath.Join(r.stage, "store"), "store.db"); err != nil {
		return fmt.Errorf("copying the backup: %w", err)
	}
	// What was copied, and not what was read before, has to be the manifest's.
	got, err := describe(filepath.Join(r.stage, "store"), backupStore)
	if err != nil {
		return err
	}
	for _, f := range r.result.Backup.Files {
		if f.Name == backupStore && f != got {
			return errors.New("the backup changed while it was read")
		}
	}
	if b.store, err = store.Open(ctx, store.Config{Dir: filepath.Join(r.stage, "store"), Logger: b.log}); err != nil {
		return fmt.Errorf("opening the backup's store: %w", err)
	}
	if b.ring, err = keys.New(ctx, keys.Config{Custodian: b.cfg.Custodian, Store: b.store, Now: b.now, Logger: b.log}); err != nil {
		return fmt.Errorf("opening the keys of the backup (they need the keystore or Vault of its time; a version of the wrap key that was retired since can't open them): %w", err)
	}
	if b.signed, err = signedfile.Open(ctx, filepath.Join(b.cfg.signedDir(), "signed.db")); err != nil {
		return fmt.Errorf("opening the store of the signed checkpoint: %w", err)
	}
	if r.tree, err = embedded.Open(ctx, embedded.Config{Path: filepath.Join(r.stage, "log", "trillian.db"), Logger: b.log}); err != nil {
		return fmt.Errorf("making a new Trillian tree: %w", err)
	}
	log := b.ledgerConfig()
	log.Labeler, log.Cosign = b.ring.Labels(), nil
	log.Trillian, log.TreeID, log.Integrate = r.tree.Client(), r.tree.TreeID(), r.tree.Integrate
	rest, err := r.remainder(ctx, log)
	if err != nil {
		return fmt.Errorf("finding where the log stands: %w", err)
	}
	// Files that the log points to are needed to say what its entries changed; statements of auditors are of epochs that the backup has.
	if err := restorePublic(r.from, b.PublicDir(), r.result.Backup); err != nil {
		return fmt.Errorf("publishing what the log points to: %w", err)
	}
	if err := r.apply(ctx, rest); err != nil {
		return err
	}
	if _, err := ledger.Rebuild(ctx, log); err != nil {
		return fmt.Errorf("rebuilding Trillian: %w", err)
	}
	err = errors.Join(r.tree.Close(), b.ring.Close(), b.store.Close())
	r.tree, b.ring, b.store = nil, nil, nil
	return err
}

// apply brings the backup's store up to the log.
func (r *restoration) apply(ctx context.Context, rest ledger.Remainder) error {
	if err := r.file(ctx); err != nil {
		return fmt.Errorf("filing entries of the backup: %w", err)
	}
	if err := r.follow(ctx, rest); err != nil {
		return err
	}
	r.store.Now = r.b.now()
	if err := r.b.store.Restore(ctx, &r.store); err != nil {
		return fmt.Errorf("bringing the backup's store up to the log: %w", err)
	}
	if n := r.store.Delegations; n > 0 {
		r.result.Missing = append(r.result.Missing, fmt.Sprintf("%d delegations were in force in the backup and are ended, since they may have been revoked: grant anew those that still hold (regard delegate list)", n))
	}
	return nil
}

// remainder asks the published files, and Trillian's old tree if it can be opened.
func (r *restoration) remainder(ctx context.Context, log ledger.Config) (ledger.Remainder, error) {
	policy, err := r.b.logPolicy(ctx)
	if err != nil {
		return ledger.Remainder{}, fmt.Errorf("asking for the log's keys: %w", err)
	}
	if err := r.b.openWitnesses(ctx); err != nil {
		return ledger.Remainder{}, err
	}
	var kept []proof.Checkpoint
	if m := r.result.Backup; m != nil {
		then, err := proof.VerifyCheckpoint([]byte(m.Checkpoint), policy)
		if err != nil {
			return ledger.Remainder{}, fmt.Errorf("the checkpoint in the backup's manifest isn't one of this log: %w", err)
		}
		kept = append(kept, then)
	}
	notes, err := r.b.elsewhere(ctx, elsewhereWait, elsewhereWait)
	if err != nil {
		return ledger.Remainder{}, err
	}
	for _, n := range notes {
		cp, err := proof.VerifyCheckpoint(n, policy)
		if err != nil {
			return ledger.Remainder{}, fmt.Errorf("the checkpoint of a mirror isn't one of this log: %w", err)
		}
		kept = append(kept, cp)
	}
	old, err := r.oldTree(ctx)
	if err != nil {
		return ledger.Remainder{}, err
	}
	var client trillian.TrillianLogClient
	var tree int64
	if old != nil {
		defer old.Close()
		client, tree = old.Client(), old.TreeID()
	}
	rest, err := ledger.Recover(ctx, log, client, tree, kept...)
	r.result.Size, r.result.Lost, r.result.Unsigned = rest.Checkpoint.Size(), uint64(len(rest.Lost)), rest.Unsigned
	return rest, err
}

// oldTree is Trillian's tree as it was, nil if it can't be read: the published files have to do then.
func (r *restoration) oldTree(ctx context.Context) (Tree, error) {
	const unread = "Trillian's old database can't be read: the published files have to do, and whether it has entries beyond them isn't known"
	if s := r.b.cfg.Shared; s != nil {
		old, err := s.Trillian(ctx)
		if err != nil {
			r.b.log.Info(unread, "error", err) // as the runbook has it: the signers are stopped
			return nil, nil
		}
		return old, nil
	}
	path := filepath.Join(r.dir("log"), "trillian.db")
	if _, err := os.Stat(path); err != nil {
		return nil, nil
	}
	old, err := embedded.Open(ctx, embedded.Config{Path: path, Logger: r.b.log})
	switch {
	case errors.Is(err, embedded.ErrLocked):
		return nil, fmt.Errorf("the broker is running: stop it first (%w)", err)
	case err != nil:
		r.b.log.Warn(unread, "error", err)
		return nil, nil
	}
	return old, nil
}

// file gives every entry of the backup its label, while the keys that tell whose it is are there.
func (r *restoration) file(ctx context.Context) error {
	o := order{store.Order{Store: r.b.store}, r.b}
	tail, err := o.Tail(ctx)
	if err != nil || tail.Open == nil {
		return err
	}
	for {
		unfiled, err := o.Unfiled(ctx, tail.Open.Number, 512)
		if err != nil || len(unfiled) == 0 {
			return err
		}
		subjects := make([]proof.Subject, len(unfiled))
		for i := range unfiled {
			subjects[i] = unfiled[i].Subject
		}
		labels, err := r.b.ring.Labels().Label(ctx, tail.Open.LabelKey, tail.Open.Number, subjects)
		if err != nil {
			return err
		}
		filings := make([]ledger.Filing, len(unfiled))
		for i := range unfiled {
			filings[i] = ledger.Filing{Index: unfiled[i].Index, Label: labels[i]}
		}
		if err := o.File(ctx, tail.Open.Number, filings); err != nil {
			return err
		}
	}
}

// follow reads in the lost entries what the store has to be told.
func (r *restoration) follow(ctx context.Context, rest ledger.Remainder) error {
	tail, err := store.Order{Store: r.b.store}.Tail(ctx)
	if err != nil {
		return err
	}
	if tail.Open == nil {
		return errors.New("the backup was made before the log had an entry: there is nothing in it")
	}
	open := *tail.Open
	erasures := map[proof.Index]bool{}
	r.store.Lost = rest.Lost
	for _, leaf := range rest.Lost {
		e, err := proof.ParseEntry(leaf.Text)
		if err != nil {
			return err
		}
		switch e := e.(type) {
		case proof.Marker:
			if open, err = r.turn(ctx, open, leaf, e); err != nil {
				return err
			}
		case proof.Erasure:
			erasures[leaf.Index] = true
		case proof.Opened:
			r.store.Opened = append(r.store.Opened, store.DelayEnded{Opened: leaf.Index, Deferred: e.Deferred})
		default:
			if err := r.govern(leaf, e); err != nil {
				return fmt.Errorf("entry %d: %w", leaf.Index, err)
			}
		}
	}
	if open.LabelKey == "" {
		return errors.New("the key of the open epoch's labels was made after the backup, so the epoch could never be closed: restore a newer backup (each has the keys of its month and the next)")
	}
	for _, leaf := range rest.Lost {
		if leaf.Kind.Filed() && leaf.Index > open.Marker {
			// A roll of its own, under a label that is nobody's: every filed entry stands in exactly one roll, and whose this one is can't be known any more.
			f := ledger.Filing{Index: leaf.Index}
			if _, err := rand.Read(f.Label[:]); err != nil {
				return err
			}
			r.store.Filings = append(r.store.Filings, f)
		}
	}
	if err := r.erased(ctx, erasures); err != nil {
		return err
	}
	return r.restart(rest, open)
}

// turn follows a marker.
func (r *restoration) turn(ctx context.Context, open ledger.OpenEpoch, leaf ledger.Leaf, m proof.Marker) (ledger.OpenEpoch, error) {
	if m.Closed == nil || m.At() != leaf.Index || m.Epoch != open.Number+1 || m.Closed.First != open.Marker {
		return open, fmt.Errorf("the marker at %d doesn't follow on the one at %d: the published files or the backup are damaged", leaf.Index, open.Marker)
	}
	next := ledger.OpenEpoch{Number: m.Epoch, Marker: leaf.Index, Text: leaf.Text, Opened: m.Opened.Time(), Until: m.Until.Time()}
	rows, err := r.b.store.ListKeys(ctx, keys.KindLabel, keys.KeyID{}, 1000)
	if err != nil {
		return open, err
	}
	for _, row := range rows {
		k, err := r.b.ring.LabelKey(ctx, row.ID.String())
		if err != nil {
			return open, err
		}
		if proof.LabelPublicKey(k.Public()) == m.VRF {
			next.LabelKey = row.ID.String()
		}
	}
	r.store.Turns = append(r.store.Turns, store.Turn{
		Closes: ledger.ClosedEpoch{OpenEpoch: open, Closer: leaf.Index, Size: m.Closed.Size, Items: m.Closed.Items, Bits: m.Closed.Bits, Root: m.Closed.Index},
		Opens:  next,
	})
	return next, nil
}

// govern applies what the log tells in clear. What it points to is among the published blobs.
func (r *restoration) govern(leaf ledger.Leaf, e proof.Entry) error {
	public := r.b.PublicDir()
	change := func(a store.Attachment) {
		r.store.Changes = append(r.store.Changes, store.Change{Attachment: a, Leaf: leaf})
	}
	switch e := e.(type) {
	case proof.AgreementChanged:
		text, err := blob(public, e.Digest)
		if err != nil {
			return fmt.Errorf("agreement %s: %w", e.Agreement, err)
		}
		a, err := policy.ParseAgreement(text)
		if err != nil {
			return fmt.Errorf("agreement %s: %w", e.Agreement, err)
		}
		change(&store.AgreementChange{Agreement: store.Agreement{ID: e.Agreement, Version: int64(e.Version), Agency: string(a.Agency), Service: string(a.Service), State: string(e.State), JSON: text, Digest: e.Digest}})
	case proof.ServiceChanged:
		text, err := blob(public, e.Digest)
		if err != nil {
			return fmt.Errorf("service %s: %w", e.Service, err)
		}
		change(&store.ServiceChange{Service: store.Service{ID: e.Service, Version: int64(e.Version), State: string(e.State), YAML: text, Digest: e.Digest}})
	case proof.PolicyActivated:
		text, err := blob(public, e.Bundle)
		if err != nil {
			return fmt.Errorf("policy %s: %w", e.Revision, err)
		}
		change(&store.BundleActivation{Bundle: store.Bundle{Digest: e.Bundle, Revision: e.Revision, Bytes: text}})
	case proof.KeyChanged:
		agency, isAgency := strings.CutPrefix(e.Key, "agency.")
		auditor, isAuditor := strings.CutPrefix(e.Key, "auditor.")
		switch {
		case isAgency && e.State == proof.Active:
			r.result.Missing = append(r.result.Missing, missing(agency, e.Public)+fmt.Sprintf(" was registered (entry %d)", leaf.Index))
		case isAgency:
			// Nobody should register again what was revoked.
			r.result.Missing = slices.DeleteFunc(r.result.Missing, func(m string) bool { return strings.HasPrefix(m, missing(agency, e.Public)) })
			r.store.AgencyKeys = append(r.store.AgencyKeys, store.AgencyKeyChange{Agency: agency, SPKI: e.Public, State: string(e.State)})
		case isAuditor:
			r.auditor(leaf.Index, auditor, e)
		default:
			r.store.Notes = append(r.store.Notes, store.NoteAt{Name: keyNote(e), Index: leaf.Index})
			if _, month, ok := strings.Cut(e.Key, "."); ok && e.State == proof.Destroyed {
				for _, kind := range map[proof.KeyUse][]keys.Kind{proof.UseRecord: {keys.KindMonth}, proof.UseLabel: {keys.KindLabel, keys.KindRoll}}[e.Use] {
					r.store.Destroyed = append(r.store.Destroyed, store.Period{Kind: kind, Period: month, Index: leaf.Index})
				}
			}
		}
	}
	return nil
}

// auditor follows what the log says of an auditor's key. Its certificates aren't in the log, so that none stays in force.
func (r *restoration) auditor(at proof.Index, id string, e proof.KeyChanged) {
	about := "auditor " + id + ": "
	r.result.Missing = slices.DeleteFunc(r.result.Missing, func(m string) bool { return strings.HasPrefix(m, about) })
	if e.State != proof.Revoked {
		r.result.Missing = append(r.result.Missing, about+fmt.Sprintf("its key or certificate changed (entry %d)", at))
	}
	r.store.AuditorKeys = append(r.store.AuditorKeys, store.AuditorKeyChange{Auditor: id, Digest: e.Public, State: string(e.State)})
}

func missing(agency string, key proof.Hash) string {
	// The slice: %x of a Hash itself is of its String, which is base64.
	return fmt.Sprintf("agency %s: a certificate whose key has the SHA-256 %x", agency, key[:])
}

// erased finds out who was erased after the backup. The log counts them, the journal names their pseudonyms: if it lacks one, nothing is restored.
func (r *restoration) erased(ctx context.Context, logged map[proof.Index]bool) error {
	journal, err := erasedSince(ctx, &r.b.cfg)
	if err != nil {
		return err
	}
	var begun []store.Erased
	for _, e := range journal {
		known, err := r.b.store.Knows(ctx, e.ID)
		if err != nil {
			return err
		}
		switch {
		case known:
		case !e.Logged:
			begun = append(begun, e)
		case logged[e.Index]:
			delete(logged, e.Index)
			r.store.Erased = append(r.store.Erased, e)
		case uint64(e.Index) >= r.result.Size:
			// An index is noted when its entry is signed: a larger checkpoint is out, and whoever signs another tree of that size forks the log.
			return fmt.Errorf("the journal of erasures names entry %d, and the newest checkpoint that is known covers %d entries: the store of the signed checkpoint, or public/, was put back from an older copy. Bring the newest of both back; nothing is signed until then",
				e.Index, r.result.Size)
		default:
			return fmt.Errorf("the journal of erasures names entry %d, which is no erasure that this log or this backup knows: %s belongs to another log. Bring the right one back", e.Index, erasuresName(&r.b.cfg))
		}
	}
	if len(logged) > len(begun) {
		return fmt.Errorf("the log has %d erasures after the backup that the journal of erasures doesn't know: bring %s back, or restore a newer backup. Without it, people who were erased could be read again",
			len(logged)-len(begun), erasuresName(&r.b.cfg))
	}
	if len(logged) > 0 {
		// A crash hit between an entry and its note: one of these it is, and each of them asked for it. Which entry is whose makes no difference: each reaches all that the backup has.
		first := slices.Min(slices.Collect(maps.Keys(logged)))
		for _, e := range begun {
			e.Index = first
			r.store.Erased = append(r.store.Erased, e)
		}
	}
	r.result.Erased = len(r.store.Erased)
	return nil
}

// restart is the entry that says in public what was done here, and which entries' details are lost.
func (r *restoration) restart(rest ledger.Remainder, open ledger.OpenEpoch) error {
	at := max(rest.From, proof.Index(rest.Checkpoint.Size()))
	e := proof.Restart{Epoch: open.Number, Reason: "restored", Size: rest.Checkpoint.Size(), Root: rest.Checkpoint.Root()}
	if n := len(rest.Lost); n > 0 {
		e.Lost = proof.Lost{From: rest.From, To: rest.Lost[n-1].Index}
	}
	text, err := proof.EntryText(e)
	if err != nil {
		return err
	}
	r.store.Restart = ledger.Leaf{Index: at, Epoch: open.Number, Kind: proof.KindRestart, Text: text}
	_, err = rand.Read(r.store.Restart.Identity[:])
	return err
}

// place moves what was there aside and the new in. The log first: until the store is there too, a broker that is started refuses.
func (r *restoration) place() error {
	stamp := strings.TrimPrefix(filepath.Base(r.stage), stagePrefix)
	for _, name := range []string{"log", "store"} {
		aside := r.dir(name + ".before-" + stamp)
		switch err := os.Rename(r.dir(name), aside); {
		case err == nil:
			r.result.Aside = append(r.result.Aside, aside)
		case !errors.Is(err, fs.ErrNotExist):
			return err
		}
		if err := tiles.SyncDir(filepath.Join(r.stage, name)); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(r.stage, name), r.dir(name)); err != nil {
			return err
		}
		if err := tiles.SyncDir(r.b.cfg.DataDir); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, dir, name string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = dst.ReadFrom(src)
	return errors.Join(err, dst.Sync(), dst.Close())
}
