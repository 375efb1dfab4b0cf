package ledgertest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/regard-broker/regard/ledger"
	"github.com/regard-broker/regard/ledger/proof"
)

// Journal is a Store that survives kill -9: a file of one JSON line a transaction, each fsynced. A last line that isn't whole was never committed.
type Journal struct {
	*Store
	mu sync.Mutex
	f  *os.File
}

type record struct {
	Batch   *ledger.Batch   `json:",omitempty"` // without attachments
	Attach  [][][2]string   `json:",omitempty"` // of each group: type and value of each subject
	Epoch   proof.Epoch     `json:",omitempty"`
	Filings []ledger.Filing `json:",omitempty"`
}

// OpenJournal opens or creates a journal.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	j := &Journal{Store: NewStore(), f: f}
	r := bufio.NewReader(f)
	var whole int64
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			break
		}
		if err := j.replay(line); err != nil {
			f.Close()
			return nil, fmt.Errorf("replaying the journal: %w", err)
		}
		whole += int64(len(line))
	}
	if err := errors.Join(f.Truncate(whole), f.Sync()); err != nil {
		return nil, err
	}
	_, err = f.Seek(whole, 0)
	return j, err
}

func (j *Journal) replay(line []byte) error {
	var r record
	if err := json.Unmarshal(line, &r); err != nil {
		return err
	}
	if r.Batch == nil {
		j.Store.file(r.Epoch, r.Filings)
		return nil
	}
	for i, pairs := range r.Attach {
		if pairs == nil {
			continue
		}
		subjects := make(Subjects, len(pairs))
		for k, p := range pairs {
			if p[0] == "" {
				continue
			}
			s, err := proof.ParseSubject(p[0], p[1])
			if err != nil {
				return err
			}
			subjects[k] = s
		}
		r.Batch.Groups[i].Attach = subjects
	}
	if err := j.Store.check(context.Background(), r.Batch); err != nil {
		return err
	}
	j.Store.apply(r.Batch)
	return nil
}

func (j *Journal) write(r record) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(r); err != nil {
		return err
	}
	if _, err := j.f.Write(b.Bytes()); err != nil {
		return err
	}
	return j.f.Sync()
}

// Commit implements ledger.Store.
func (j *Journal) Commit(ctx context.Context, b *ledger.Batch) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.Store.mu.Lock()
	err := j.Store.check(ctx, b)
	j.Store.mu.Unlock()
	if err != nil {
		return err
	}
	bare := *b
	bare.Groups = make([]ledger.PlacedGroup, len(b.Groups))
	r := record{Batch: &bare, Attach: make([][][2]string, len(b.Groups))}
	for i, g := range b.Groups {
		bare.Groups[i].Leaves = g.Leaves
		if subjects, ok := g.Attach.(Subjects); ok {
			r.Attach[i] = make([][2]string, len(subjects))
			for k, s := range subjects {
				r.Attach[i][k] = [2]string{string(s.Type()), s.Value()}
			}
		}
	}
	if err := j.write(r); err != nil {
		return err
	}
	return j.Store.Commit(context.WithoutCancel(ctx), b)
}

// File implements ledger.Store.
func (j *Journal) File(ctx context.Context, epoch proof.Epoch, filings []ledger.Filing) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.write(record{Epoch: epoch, Filings: filings}); err != nil {
		return err
	}
	return j.Store.File(context.WithoutCancel(ctx), epoch, filings)
}

// Close closes the file.
func (j *Journal) Close() error { return j.f.Close() }
