package bench

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// verifyConfig is what an agency has that checks its receipts by itself: the log's keys, and nothing else.
type verifyConfig struct{ Keys []string }

type verifier struct{ policy *proof.Policy }

// toVerify names what the load stored of one broker.
type toVerify struct{ Receipts, Samples string }

// verified is what came of it.
type verified struct {
	Receipts int64 // good ones
	Samples  int64 // whole answers whose data have the digest in their receipt
	Bad      int64
	First    string // what is wrong with the first bad one
	Bytes    int64  // of the receipts
	// Alone are the times of the first receipts, verified one at a time with nothing beside it.
	Alone histogram
	// AloneMean is exact, where the histogram rounds.
	AloneMean time.Duration
	Elapsed   time.Duration // for all, on all processors
}

// aloneReceipts is how many are timed.
const aloneReceipts = 5000

func startVerify(_ context.Context, raw json.RawMessage) (role, any, error) {
	var cfg verifyConfig
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, nil, err
	}
	text := ""
	for _, k := range cfg.Keys {
		text += "log " + k + "\n"
	}
	p, err := proof.ParsePolicy([]byte(text + "quorum none\n"))
	return &verifier{p}, struct{}{}, err
}

func (v *verifier) close() error { return nil }

func (v *verifier) do(_ context.Context, command string, arg json.RawMessage) (any, error) {
	if command != "verify" {
		return nil, fmt.Errorf("the verifier has no command %q", command)
	}
	var t toVerify
	if err := json.Unmarshal(arg, &t); err != nil {
		return nil, err
	}
	return v.all(t)
}

// checked is one good receipt.
type checked struct {
	index    proof.Index
	provided string // id of the disclosure
}

var errReceipt = errors.New("the receipt is not what it should be")

// receipt parses and verifies one, as an agency would.
func (v *verifier) receipt(text []byte) (*proof.Receipt, proof.Verdict, error) {
	r, err := proof.ParseReceipt(text)
	if err != nil {
		return nil, proof.Verdict{}, err
	}
	verdict, err := r.Verify(v.policy, proof.VerifyOptions{AllowProvisional: true})
	return r, verdict, err
}

// check is what every receipt of a run must be: verified, provisional, of a request that was released.
func (v *verifier) check(line []byte) (checked, error) {
	text, err := receiptText(line)
	if err != nil {
		return checked{}, err
	}
	r, verdict, err := v.receipt(text)
	if err != nil {
		return checked{}, err
	}
	o := r.Opening()
	if verdict.State != proof.Provisional || verdict.Kind != proof.KindDisclosure || o.Text(proof.DisclosureOutcome) != "released" || o.Text(proof.DisclosureRole) != proof.RoleAsked {
		return checked{}, fmt.Errorf("%w: index %d", errReceipt, verdict.Index)
	}
	return checked{verdict.Index, o.Text(proof.DisclosureID)}, nil
}

func receiptText(line []byte) ([]byte, error) {
	var s string
	err := json.Unmarshal(line, &s)
	return []byte(s), err
}

func (v *verifier) all(t toVerify) (*verified, error) {
	f, err := os.Open(t.Receipts)
	if errors.Is(err, os.ErrNotExist) {
		return &verified{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	res := &verified{}
	tally := &tally{res: res, indexes: map[proof.Index]struct{}{}, ids: map[string]struct{}{}}
	start := time.Now()
	lines := bufio.NewReaderSize(f, 1<<20)
	work := make(chan [][]byte, 2*runtime.NumCPU())
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for batch := range work {
				for _, line := range batch {
					tally.add(v.check(line))
				}
			}
		})
	}
	var alone time.Duration
	var batch [][]byte
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			break
		}
		if err != nil {
			close(work)
			wg.Wait()
			return nil, fmt.Errorf("reading the receipts: %w", err)
		}
		res.Bytes += int64(len(line))
		if res.Alone.N < aloneReceipts {
			// The others wait: nothing has been handed to them yet.
			if text, err := receiptText(line); err == nil {
				begin := time.Now()
				_, _, _ = v.receipt(text) // judged below with the others
				took := time.Since(begin)
				alone += took
				res.Alone.add(took)
			}
			tally.add(v.check(line))
			continue
		}
		if batch = append(batch, line); len(batch) == 256 {
			work <- batch
			batch = nil
		}
	}
	work <- batch
	close(work)
	wg.Wait()
	res.Elapsed = time.Since(start)
	if res.Alone.N > 0 {
		res.AloneMean = alone / time.Duration(res.Alone.N)
	}
	return res, v.samples(t.Samples, res)
}

// tally counts receipts and sees that no entry and no request stands behind two of them.
type tally struct {
	mu      sync.Mutex
	res     *verified
	indexes map[proof.Index]struct{}
	ids     map[string]struct{}
}

func (t *tally) add(c checked, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		_, twice := t.indexes[c.index]
		_, again := t.ids[c.provided]
		if twice || again {
			err = fmt.Errorf("index %d or its disclosure stands in two receipts", c.index)
		}
		t.indexes[c.index], t.ids[c.provided] = struct{}{}, struct{}{}
	}
	t.res.judge(err, &t.res.Receipts)
}

func (r *verified) judge(err error, good *int64) {
	if err == nil {
		*good++
		return
	}
	if r.Bad++; r.First == "" {
		r.First = err.Error()
	}
}

// samples checks whole answers: the data are what the receipt's digest is over (docs/formats.md, field 26).
func (v *verifier) samples(name string, res *verified) error {
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	for {
		var size [4]byte
		if _, err := io.ReadFull(in, size[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading the samples: %w", err)
		}
		body := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(in, body); err != nil {
			return fmt.Errorf("reading the samples: %w", err)
		}
		res.judge(v.sample(body), &res.Samples)
	}
}

func (v *verifier) sample(body []byte) error {
	var a struct {
		ID      string
		Receipt string
		Data    json.RawMessage
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return fmt.Errorf("reading an answer: %w", err)
	}
	r, _, err := v.receipt([]byte(a.Receipt))
	if err != nil {
		return err
	}
	o := r.Opening()
	key, _ := o.Value(proof.DisclosurePayloadKey)
	digest, _ := o.Value(proof.DisclosurePayload)
	m := hmac.New(sha256.New, key)
	m.Write(a.Data)
	if len(a.Data) == 0 || !hmac.Equal(m.Sum(nil), digest) || o.Text(proof.DisclosureID) != a.ID {
		return fmt.Errorf("%w: the data of disclosure %s are not those of its receipt", errReceipt, a.ID)
	}
	return nil
}
