package identity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/regard-broker/regard/broker/store"
	"github.com/regard-broker/regard/keys"
	"github.com/regard-broker/regard/ledger/proof"
)

// Errors of Attach and Detach, by what the person can do. Nothing was attached or detached.
var (
	// ErrForm: the identifier has a mistake in it. Correct it.
	ErrForm = errors.New("identity: this is not such an identifier")
	// ErrUnchecked: there is nobody to ask about identifiers of this type.
	ErrUnchecked = errors.New("identity: identifiers of this type can't be checked here")
	// ErrNotTheirs: the body that holds the identifier says it isn't this person's, or doesn't know it.
	ErrNotTheirs = errors.New("identity: the body that holds this identifier doesn't confirm it")
	// ErrTaken: another account has it, and it belongs to one person. The operator has to find out who is right.
	ErrTaken = errors.New("identity: this identifier is attached to another account")
	// ErrTooMany: the account has as many identifiers as it may have. Detach one.
	ErrTooMany = errors.New("identity: too many identifiers are attached")
	// ErrTooOften: too many were checked today. Come back tomorrow.
	ErrTooOften = errors.New("identity: too many identifiers were checked today")
	// ErrUnavailable: nobody knows now. Try again later.
	ErrUnavailable = errors.New("identity: the identifier can't be checked now")
	// ErrNotAttached: the account doesn't have it.
	ErrNotAttached = errors.New("identity: this identifier is not attached")
)

const (
	maxAttached = 32
	// maxChecks a day: each may be a guess, and stands in the history of whomever it hits.
	maxChecks = 5
)

// How an identifier was shown to be a person's.
const (
	byClaim = "claim"
	byCheck = "check"
)

// subjects fills in under which identifiers the person of a session is known.
func (s *Service) subjects(ctx context.Context, sess *Session) error {
	pivot, err := sess.pivot.Subject()
	if err != nil {
		return fmt.Errorf("the pivot of a session: %w", err)
	}
	person, err := sess.pivot.Person().Subject()
	if err != nil {
		return fmt.Errorf("the person of a session: %w", err)
	}
	sess.Subjects = []proof.Subject{pivot, person}
	rows, err := s.cfg.Store.Identifiers(ctx, sess.Account)
	if err != nil {
		return fmt.Errorf("reading the attached identifiers: %w", err)
	}
	for i := range rows {
		value, err := s.cfg.Ring.OpenAttached(ctx, rows[i].Account, rows[i].Owner, identifierAD(&rows[i]), rows[i].Sealed)
		if errors.Is(err, keys.ErrNoKey) {
			continue // it is being erased at this moment
		}
		if err != nil {
			return fmt.Errorf("opening an attached identifier: %w", err)
		}
		subject, err := proof.ParseSubject(string(rows[i].Type), string(value))
		if err != nil {
			return fmt.Errorf("an attached identifier: %w", err)
		}
		sess.Attached = append(sess.Attached, Attached{subject, rows[i].Proven, rows[i].Attached})
		sess.Subjects = append(sess.Subjects, subject)
	}
	return nil
}

// identifierAD names the place of an attached identifier.
func identifierAD(i *store.Identifier) []byte {
	return slices.Concat([]byte("identifier "+string(i.Type)+" "), i.Account[:], i.Owner[:])
}

// attachClaims attaches the identifiers that a sign-in states, and returns the types of those that it couldn't: that keeps nobody from signing in.
func (s *Service) attachClaims(ctx context.Context, account keys.Owner, in *signedIn) ([]proof.SubjectType, error) {
	var left []proof.SubjectType
	for _, typ := range attachable {
		value, ok := in.identifiers[typ]
		if !ok {
			continue
		}
		subject, err := ParseIdentifier(typ, value)
		if err == nil {
			err = s.attach(ctx, account, subject, byClaim)
		}
		switch {
		case err == nil:
		case errors.Is(err, proof.ErrSubject), errors.Is(err, ErrTaken), errors.Is(err, ErrTooMany):
			s.log.Warn("an identifier that a sign-in states was not attached", "type", typ, "error", err)
			s.metrics.attached.WithLabelValues(string(typ), "refused").Inc()
			left = append(left, typ)
		default:
			return nil, err
		}
	}
	return left, nil
}

// attach stores an identifier that was shown to be the account's.
func (s *Service) attach(ctx context.Context, account keys.Owner, subject proof.Subject, proven string) error {
	owner, err := s.cfg.Ring.Owner(subject)
	if err != nil {
		return err
	}
	in := &store.NewIdentifier{
		Identifier: store.Identifier{Account: account, Owner: owner, Type: subject.Type(), Proven: proven, Attached: s.now().UTC().Truncate(time.Millisecond)},
		Max:        maxAttached,
	}
	// The keys of a person who is being erased at this moment go away between the two: once more then.
	for tries := 3; ; tries-- {
		err := s.sealAttach(ctx, in, subject)
		switch {
		case err == nil:
			s.metrics.attached.WithLabelValues(string(in.Type), proven).Inc()
			return nil
		case errors.Is(err, store.ErrTaken):
			return ErrTaken
		case errors.Is(err, store.ErrTooMany):
			return ErrTooMany
		case !errors.Is(err, keys.ErrNoKey) || tries == 0:
			return fmt.Errorf("attaching an identifier: %w", err)
		}
	}
}

func (s *Service) sealAttach(ctx context.Context, in *store.NewIdentifier, subject proof.Subject) (err error) {
	ring := s.cfg.Ring
	in.Keys, in.Fresh = nil, nil
	defer func() {
		for _, k := range in.Fresh {
			switch {
			case err == nil:
				ring.Saved(k)
			case errors.Is(err, store.ErrUnavailable): // it may be stored
				ring.Forget(k.ID)
			default:
				ring.Abandon(k.ID)
			}
		}
	}()
	var both [2]keys.Key
	for i, owner := range []keys.Owner{in.Account, in.Owner} {
		k, fresh, err := ring.SubjectKey(ctx, owner)
		if err != nil {
			return err
		}
		defer k.Clear()
		both[i] = k
		in.Keys = append(in.Keys, k.ID())
		if fresh != nil {
			in.Fresh = append(in.Fresh, fresh)
		}
	}
	if in.Sealed, err = ring.SealAttached(both[0], both[1], identifierAD(&in.Identifier), []byte(subject.Value())); err != nil {
		return err
	}
	return s.cfg.Store.AttachIdentifier(ctx, in)
}

// Checkable lists the types of identifiers that people can attach by hand.
func (s *Service) Checkable() []proof.SubjectType {
	if s.cfg.Checker == nil {
		return nil
	}
	return s.cfg.Checker.Checks()
}

// Attach attaches an identifier to the account of a session, if the body that holds it says that it is that person's. It is in the sessions of the account from the next request on.
func (s *Service) Attach(ctx context.Context, sess *Session, typ proof.SubjectType, value string) error {
	err := s.checkAndAttach(ctx, sess, typ, value)
	if err != nil {
		s.metrics.attached.WithLabelValues(knownType(typ), "refused").Inc()
	}
	return err
}

func (s *Service) checkAndAttach(ctx context.Context, sess *Session, typ proof.SubjectType, value string) error {
	if !slices.Contains(s.Checkable(), typ) {
		return ErrUnchecked
	}
	if len(value) > maxText {
		return ErrForm
	}
	subject, err := ParseIdentifier(typ, value)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrForm, err)
	}
	now := s.now()
	switch err := s.cfg.Store.CountCheck(ctx, sess.Account, now, now.Add(-store.CheckLife), maxChecks); {
	case errors.Is(err, store.ErrTooMany):
		return ErrTooOften
	case err != nil:
		return fmt.Errorf("%w: counting checks: %w", ErrUnavailable, err)
	}
	yes, err := s.cfg.Checker.Check(ctx, sess.pivot, subject)
	if err != nil {
		s.log.Error("an identifier can't be checked", "type", typ, "error", err)
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if !yes {
		return ErrNotTheirs
	}
	switch err := s.attach(ctx, sess.Account, subject, byCheck); {
	case err == nil, errors.Is(err, ErrTaken), errors.Is(err, ErrTooMany):
		return err
	default:
		s.log.Error("an identifier can't be attached", "type", typ, "error", err)
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
}

// knownType bounds the values of a label.
func knownType(typ proof.SubjectType) string {
	if slices.Contains(attachable, typ) {
		return string(typ)
	}
	return "other"
}

// Detach removes an identifier from the account of a session, and calls off its erasure if that waits. One that the sign-in states is attached again by the next one.
func (s *Service) Detach(ctx context.Context, sess *Session, subject proof.Subject) error {
	owner, err := s.cfg.Ring.Owner(subject)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAttached, err)
	}
	switch err := s.cfg.Store.DetachIdentifier(ctx, sess.Account, owner, s.now()); {
	case errors.Is(err, store.ErrNotFound):
		return ErrNotAttached
	case err != nil:
		return fmt.Errorf("%w: detaching: %w", ErrUnavailable, err)
	}
	return nil
}
