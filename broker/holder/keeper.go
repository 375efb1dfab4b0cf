package holder

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker/client"
	"github.com/regard-broker/regard/ledger/proof"
)

// KeeperConfig of a Keeper. Dir, Client and Policy are mandatory.
type KeeperConfig struct {
	// Dir holds the store.
	Dir string
	// Client asks the broker, with the same Policy; of an agency's certificate.
	Client *client.Client
	Policy *proof.Policy
	// AcceptSigned: the log's own signature is enough, as in GuardConfig.
	AcceptSigned bool
	Times        Times
	Alarm        func(Alarm)
	Logger       *slog.Logger     // nil: none
	Now          func() time.Time // nil: time.Now
}

// A Keeper keeps an agency's receipts and brings them to witnessed and settled. It is safe for concurrent use.
type Keeper struct {
	cfg   KeeperConfig
	store *Store
	watch watch
}

// NewKeeper opens the store. Run or Upgrade fetch what is missing.
func NewKeeper(ctx context.Context, cfg KeeperConfig) (*Keeper, error) {
	if cfg.Dir == "" || cfg.Client == nil || cfg.Policy == nil {
		return nil, errors.New("holder: a directory, a client and the log's policy must be given")
	}
	switch {
	case !cfg.AcceptSigned && !cfg.Policy.Demands():
		return nil, errors.New("holder: the policy names no witnesses: give one that does, or set AcceptSigned if the log's own signature shall be enough")
	case cfg.AcceptSigned && cfg.Policy.Demands():
		return nil, errors.New("holder: the policy names witnesses, so AcceptSigned would take less than it demands")
	}
	if err := cfg.Times.defaults(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s, err := OpenStore(ctx, cfg.Dir, RoleAgency)
	if err != nil {
		return nil, err
	}
	if err := s.demand(cfg.AcceptSigned); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return &Keeper{cfg: cfg, store: s, watch: watch{times: cfg.Times, alarm: cfg.Alarm, log: cfg.Logger}}, nil
}

// Close closes the store; Run must have ended.
func (k *Keeper) Close() error { return k.store.Close() }

// Store is for status, evidence and export.
func (k *Keeper) Store() *Store { return k.store }

// Status is how things stand.
func (k *Keeper) Status(ctx context.Context) (Status, error) { return k.store.Status(ctx) }

// ErrHidden: a receipt hides whom it is about, and none is kept that shows it. It proves nothing to the agency, and isn't kept. An erasure explains it only if the request was made before.
var ErrHidden = errors.New("the receipt hides whom it is about, and no earlier one is kept: if this request wasn't made before, the broker hides what it recorded; tell the operator, and the supervisory authority")

// Keep verifies a receipt with the data that came with it, once more, and stores it with their digest. When it returns, it is durable. Call it before the data are used. One that is kept already, of
// a request that was repeated, has to be of the same entry; the better of the two stays, which is the first if the person was erased since. ErrHidden if there is none.
func (k *Keeper) Keep(res *client.Result) error {
	r, err := k.verify(res.ID, res.Receipt, res.Data)
	if err != nil {
		return err
	}
	switch h, err := k.store.held(context.Background(), res.ID); {
	case errors.Is(err, ErrUnknown):
		if _, err := r.parsed.Opening().Subject(); err != nil {
			return ErrHidden
		}
	case err != nil:
		return fmt.Errorf("reading the store of receipts: %w", err)
	default:
		if err := k.compare(h, &r); err != nil {
			return err
		}
		if _, err := r.parsed.Opening().Subject(); err != nil {
			return nil // erased since: what is kept shows whose it was
		}
	}
	var digest []byte
	if res.Data != nil {
		sum := sha256.Sum256(res.Data)
		digest = sum[:]
	}
	o := r.parsed.Opening()
	at, ok := o.TimeOf(proof.DisclosureAskedAt)
	if !ok {
		at = proof.TimeOf(k.cfg.Now())
	}
	err = k.store.keep(res.ID, o.Text(proof.DisclosureService), o.Text(proof.DisclosureOutcome), at.Time(), digest, r.state, r)
	if err == nil {
		k.watch.began(at.Time())
	}
	return err
}

// verify also keeps as evidence what is wrong.
func (k *Keeper) verify(id string, text, data []byte) (receipt, error) {
	r, err := verify(text, k.cfg.Policy, k.cfg.AcceptSigned)
	if err == nil {
		o := r.parsed.Opening()
		switch {
		case o.Schema() != proof.SchemaDisclosure || o.Text(proof.DisclosureID) != id || o.Text(proof.DisclosureRole) != proof.RoleAsked:
			err = refute("receipt.foreign", "a receipt of another disclosure, or of another entry than the asked one")
		case data != nil && o.CheckPayload(data) != nil:
			err = refute("payload.other", "the data are not those that were recorded")
		}
	}
	var wrong *Refutation
	if errors.As(err, &wrong) {
		return r, errors.Join(err, k.refuted(id, wrong, text))
	}
	return r, err
}

// compare also keeps as evidence that a receipt is not of the entry of those that are held.
func (k *Keeper) compare(h *Held, r *receipt) error {
	kept, err := h.parsed()
	if err != nil {
		return err
	}
	for n, earlier := range kept {
		if !same(earlier, r.parsed) && !follows(earlier, r.parsed) {
			wrong := &Refutation{"receipt.changed", "the entry is not the one of the receipt that was given first"}
			return errors.Join(wrong, k.refuted(h.ID, wrong, bytes.Join([][]byte{h.Receipts[n], r.text}, []byte("\n"))))
		}
	}
	return nil
}

func (k *Keeper) refuted(id string, wrong *Refutation, text []byte) error {
	err := k.store.refuted(id, wrong, k.cfg.Now(), [][]byte{text})
	k.watch.raise(Alarm{Code: AlarmRefuted, Disclosure: id, Detail: wrong.Error()})
	return err
}

// endedBy reports whether a receipt is the first of the entry that ended a delay, and as good as those of its beginning. compare has seen that it is of the same record.
func (h *Held) endedBy(r *receipt, proven State) bool {
	_, ended := r.parsed.Entry().(proof.Opened)
	return ended && r.state >= min(h.State, proven) && !slices.ContainsFunc(h.Receipts, func(text []byte) bool {
		earlier, err := proof.ParseReceipt(text)
		return err == nil && same(earlier, r.parsed)
	})
}

// Run fetches what is missing until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	errorsInARow := 0
	for {
		_, pause, err := k.Upgrade(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			k.cfg.Logger.Warn("receipts can't be fetched", "error", err)
			errorsInARow++
			pause = max(pause, min(time.Minute, k.cfg.Times.Poll<<min(errorsInARow, 6)))
		} else {
			errorsInARow, pause = 0, max(pause, k.cfg.Times.Poll)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
	}
}

// Upgrade fetches the newest form of every receipt that is due, once, and returns how many came further. pause is how long the broker wants to be left alone.
func (k *Keeper) Upgrade(ctx context.Context) (further int, pause time.Duration, err error) {
	defer func() {
		err = errors.Join(err, k.watch.look(ctx, k.store, k.cfg.Now))
	}()
	for now := k.cfg.Now(); ; { // what is due again meanwhile is left for the next call
		ids, err := k.store.due(ctx, now, fetchAtOnce)
		if err != nil || len(ids) == 0 {
			return further, 0, err
		}
		for _, id := range ids {
			better, pause, err := k.upgrade(ctx, id)
			if err != nil || pause > 0 {
				return further, pause, err
			}
			if better {
				further++
			}
		}
	}
}

// upgrade fetches one receipt. An error says that the broker can't be asked at all.
func (k *Keeper) upgrade(ctx context.Context, id string) (better bool, pause time.Duration, err error) {
	h, err := k.store.held(ctx, id)
	if err != nil {
		return false, 0, err
	}
	now := k.cfg.Now()
	due := now.Add(k.cfg.Times.pause(h.State, h.tries))
	res, err := k.cfg.Client.Disclosure(ctx, id)
	var p *client.Problem
	switch {
	case errors.As(err, &p) && (p.Status == 429 || p.Status >= 500):
		return false, p.RetryAfter(), err
	case errors.As(err, &p):
		return false, 0, k.store.later(id, p.Code, due)
	case errors.Is(err, client.ErrReceipt):
		wrong := &Refutation{"receipt.invalid", err.Error()}
		return false, 0, k.refuted(id, wrong, res.Receipt)
	case err != nil:
		return false, 0, err
	}
	r, err := k.verify(id, res.Receipt, nil)
	var wrong *Refutation
	if errors.As(err, &wrong) {
		return false, res.Pause, nil // told and kept
	}
	if err != nil {
		return false, 0, err
	}
	if err := k.compare(h, &r); errors.As(err, &wrong) {
		return false, res.Pause, nil
	} else if err != nil {
		return false, 0, err
	}
	proven := provenBy(k.cfg.AcceptSigned)
	if r.state <= h.State && !h.endedBy(&r, proven) {
		return false, res.Pause, k.store.later(id, "", due)
	}
	to := progress{state: max(r.state, h.State), outcome: h.Outcome, epoch: r.verdict.Epoch, until: r.until(), receipts: []receipt{r}}
	if to.until > 0 {
		to.code = codeDeferred
	}
	if _, err := r.parsed.Opening().Subject(); err != nil && r.state == proven {
		kept, err := h.parsed()
		if err != nil {
			return false, 0, err
		}
		to.state, to.code, to.erased = Accepted, "erased", []proof.Index{keptIndex(kept, &r)}
		if !ends(kept, &r) {
			to.receipts = nil // the first one is kept
		}
	}
	return true, res.Pause, k.store.advance(id, to, now, now.Add(k.cfg.Times.pause(to.state, 0)))
}
