package keys

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// Labels makes labels and the secrets of rolls. Keys are named by the text of their KeyID. One VRF key a month.
type Labels struct{ r *Ring }

// Labels returns the ring's maker of labels; it satisfies ledger.Labeler.
func (r *Ring) Labels() Labels { return Labels{r} }

// CurrentKey names the key for an epoch that opens at t, creating it durably if it is the first of its month, with the secret of the month's rolls, and returns its public half.
func (l Labels) CurrentKey(ctx context.Context, t time.Time) (name string, public [32]byte, err error) {
	month := MonthOf(t)
	e, err := l.r.present(ctx, KindLabel, month)
	if errors.Is(err, ErrNoKey) {
		// The secret first: where there is a label key its secret was there, so one that is missing was lost, and is never made anew.
		if _, err := l.r.period(ctx, KindRoll, month); err != nil {
			return "", public, err
		}
		e, err = l.r.period(ctx, KindLabel, month)
	}
	if err != nil {
		return "", public, err
	}
	return e.key.id.String(), e.label.Public(), nil
}

// LabelKey returns the VRF key of a name from CurrentKey; ErrNoKey if it was destroyed at the end of retention.
func (r *Ring) LabelKey(ctx context.Context, name string) (proof.LabelKey, error) {
	e, err := r.labelKey(ctx, name)
	if err != nil {
		return proof.LabelKey{}, err
	}
	return e.label, nil
}

func (r *Ring) labelKey(ctx context.Context, name string) (*periodKey, error) {
	id, err := ParseKeyID(name)
	if err != nil {
		return nil, fmt.Errorf("label key: %w", err)
	}
	return r.periodByID(ctx, KindLabel, id)
}

var errNobody = errors.New("keys: the zero subject has no label")

// Label computes labels in the order of the subjects, about 40 µs each.
func (l Labels) Label(ctx context.Context, name string, epoch proof.Epoch, subjects []proof.Subject) ([]proof.Label, error) {
	e, err := l.r.labelKey(ctx, name)
	if err != nil {
		return nil, err
	}
	out := make([]proof.Label, len(subjects))
	for i, s := range subjects {
		if s.IsZero() {
			return nil, errNobody
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		out[i] = e.label.Label(s, epoch)
	}
	return out, nil
}

// Prove returns the label and its VRF proof.
func (l Labels) Prove(ctx context.Context, name string, epoch proof.Epoch, subject proof.Subject) (proof.Label, []byte, error) {
	e, err := l.r.labelKey(ctx, name)
	if err != nil {
		return proof.Label{}, nil, err
	}
	if subject.IsZero() {
		return proof.Label{}, nil, errNobody
	}
	z, pi := e.label.Prove(subject, epoch)
	return z, pi, nil
}

// RollSeed returns the secret behind the salts of an epoch's rolls: HMAC-SHA256(roll secret of the label key's month, "regard/rollseed/v1" ‖ 0x00 ‖ u64 epoch). ErrNoKey if the
// month's secret is lost: another one would give other rolls than those that were published.
func (l Labels) RollSeed(ctx context.Context, name string, epoch proof.Epoch) ([32]byte, error) {
	var seed [32]byte
	e, err := l.r.labelKey(ctx, name)
	if err != nil {
		return seed, err
	}
	s, err := l.r.present(ctx, KindRoll, e.period)
	if errors.Is(err, ErrNoKey) {
		return seed, fmt.Errorf("the secret of the rolls of %s is missing though the month's label key is there: the store lost it; restore it from a backup: %w", e.period, err)
	}
	if err != nil {
		return seed, err
	}
	h := hmac.New(sha256.New, s.key.secret[:])
	_, _ = io.WriteString(h, "regard/rollseed/v1\x00")
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(epoch))
	_, _ = h.Write(n[:])
	h.Sum(seed[:0])
	return seed, nil
}
