package bench

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/google/trillian"
	"github.com/google/trillian/types"
	"google.golang.org/grpc/codes"

	"github.com/regard-broker/regard/ledger/remote"
	"github.com/regard-broker/regard/ledger/signer"
)

// signerConfig of the role signer.
type signerConfig struct{ DSN, Listen string }

type signerRole struct{ s *signer.Signer }

func startSigner(ctx context.Context, raw json.RawMessage) (role, any, error) {
	var cfg signerConfig
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, nil, err
	}
	s, err := signer.Start(ctx, signer.Config{DSN: cfg.DSN, Listen: cfg.Listen})
	if err != nil {
		return nil, nil, err
	}
	return &signerRole{s}, &brokerReady{PID: os.Getpid()}, nil
}

func (s *signerRole) do(_ context.Context, command string, _ json.RawMessage) (any, error) {
	return nil, fmt.Errorf("the signer has no command %q", command)
}

func (s *signerRole) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	return s.s.Stop(ctx)
}

// rawLog is a log of Trillian that nobody else uses.
type rawLog struct {
	log  *remote.Log
	next int64
}

func openRaw(ctx context.Context, address string) (*rawLog, error) {
	l, err := remote.Open(ctx, remote.Config{Addresses: []string{address}})
	if err != nil {
		return nil, err
	}
	return &rawLog{log: l}, nil
}

func (l *rawLog) close() error { return l.log.Close() }

// run adds batches, one after the other as a sequencer does, each until the root has it.
func (l *rawLog) run(ctx context.Context, batch int, d time.Duration) (*loaded, error) {
	res := &loaded{}
	start := time.Now()
	for time.Since(start) < d {
		began := time.Now()
		if err := l.add(ctx, batch); err != nil {
			return nil, err
		}
		res.Latency.add(time.Since(began))
		res.Answers += int64(batch)
	}
	res.Elapsed = time.Since(start)
	return res, nil
}

func (l *rawLog) add(ctx context.Context, batch int) error {
	leaves := make([]*trillian.LogLeaf, batch)
	for i := range leaves {
		h := sha256.Sum256(fmt.Append(nil, l.next))
		leaves[i] = &trillian.LogLeaf{LeafIndex: l.next, LeafIdentityHash: h[:], LeafValue: fmt.Appendf(nil, "regard/disclosure@v1\nepoch 812\ncommitment %s\n", base64.StdEncoding.EncodeToString(h[:]))}
		l.next++
	}
	out, err := l.log.Client().AddSequencedLeaves(ctx, &trillian.AddSequencedLeavesRequest{LogId: l.log.TreeID(), Leaves: leaves})
	if err != nil {
		return fmt.Errorf("adding leaves to Trillian alone: %w", err)
	}
	for _, r := range out.Results {
		if codes.Code(r.Status.GetCode()) != codes.OK { // #nosec G115 -- gRPC's own
			return fmt.Errorf("adding leaves to Trillian alone: one was answered %v", r.Status)
		}
	}
	for {
		var root types.LogRootV1
		res, err := l.log.Client().GetLatestSignedLogRoot(ctx, &trillian.GetLatestSignedLogRootRequest{LogId: l.log.TreeID()})
		if err == nil {
			err = root.UnmarshalBinary(res.SignedLogRoot.LogRoot)
		}
		if err != nil {
			return fmt.Errorf("asking Trillian alone for its root: %w", err)
		}
		switch size := int64(root.TreeSize); { // #nosec G115 -- a number of leaves
		case size == l.next:
			return nil
		case size > l.next:
			return errors.New("trillian alone has more leaves than it was given")
		}
		time.Sleep(500 * time.Microsecond)
	}
}
