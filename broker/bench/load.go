package bench

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
)

// loadConfig says as whom the load asks: connection i is agency i mod len(Agencies).
type loadConfig struct {
	Agencies []tlsFiles
	Persons  int
	Services int
}

// segment is one stretch of load: every connection asks again as soon as it has its answer.
type segment struct {
	Broker      bool     // else the proxy
	Addrs       []string // of the brokers, or of the proxy; connections take turns
	Connections int
	Time        time.Duration
	First       int64  // where in the walk through the population it begins
	Receipts    string // file to which receipts are appended, one JSON string a line
	Samples     string // file to which whole answers are appended, one in sampleEvery
}

// loaded is what came of a segment.
type loaded struct {
	Answers  int64 // good ones, in Elapsed
	Warm     int64 // good ones before it, of connections being made
	Next     int64 // First of the next segment
	Elapsed  time.Duration
	Latency  histogram
	Failures map[string]int64 // by status and code
	Bytes    int64            // of the bodies of good answers
}

// sampleEvery is how many answers pass for one that is kept whole, to check the digest of its data.
const sampleEvery = 256

type load struct {
	cfg   loadConfig
	tls   []*tls.Config
	walk  walk
	conns map[string][]*http.Transport // by address: connections outlast a segment
	spare chunks
}

func startLoad(_ context.Context, raw json.RawMessage) (role, any, error) {
	l := &load{conns: map[string][]*http.Transport{}}
	if err := json.Unmarshal(raw, &l.cfg); err != nil {
		return nil, nil, err
	}
	for _, f := range l.cfg.Agencies {
		c, err := f.client()
		if err != nil {
			return nil, nil, err
		}
		l.tls = append(l.tls, c)
	}
	l.walk = newWalk(l.cfg.Persons)
	return l, struct{}{}, nil
}

func (l *load) close() error {
	for _, list := range l.conns {
		for _, t := range list {
			t.CloseIdleConnections()
		}
	}
	return nil
}

func (l *load) do(ctx context.Context, command string, arg json.RawMessage) (any, error) {
	if command != "run" {
		return nil, fmt.Errorf("the load has no command %q", command)
	}
	var s segment
	if err := json.Unmarshal(arg, &s); err != nil {
		return nil, err
	}
	return l.run(ctx, s)
}

// transports of connections, by who is asked: none opens a second one at the same time.
func (l *load) transports(addrs []string, n int) []*http.Transport {
	addr := strings.Join(addrs, " ")
	list := l.conns[addr]
	for len(list) < n {
		list = append(list, &http.Transport{TLSClientConfig: l.tls[len(list)%len(l.tls)], MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1, DisableCompression: true, IdleConnTimeout: time.Minute})
	}
	l.conns[addr] = list
	return list[:n]
}

func (l *load) run(ctx context.Context, s segment) (*loaded, error) {
	workers := make([]*worker, s.Connections)
	next := new(atomic.Int64)
	next.Store(s.First)
	var files [2]*os.File
	for i, name := range []string{s.Receipts, s.Samples} {
		if name == "" {
			continue
		}
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		files[i] = f
	}
	for i, t := range l.transports(s.Addrs, s.Connections) {
		workers[i] = &worker{load: l, segment: &s, addr: s.Addrs[i%len(s.Addrs)], agency: i % len(l.tls), transport: t, next: next, failures: map[string]int64{}, receipts: spool{f: files[0], max: maxSpools / chunkSize / s.Connections, spare: &l.spare}, samples: spool{f: files[1], max: 1, spare: &l.spare}}
	}
	// Handshakes first: the rate is that of connections that are kept.
	each(workers, func(w *worker) { w.one(ctx, false) })
	start := time.Now()
	end := start.Add(s.Time)
	each(workers, func(w *worker) {
		for time.Now().Before(end) && ctx.Err() == nil && w.err == nil {
			w.one(ctx, true)
		}
	})
	res := &loaded{Elapsed: time.Since(start), Next: next.Load(), Failures: map[string]int64{}}
	var errs []error
	for _, w := range workers {
		res.Answers += w.latency.N
		res.Warm += w.warm
		res.Bytes += w.bytes
		res.Latency.merge(&w.latency)
		for k, n := range w.failures {
			res.Failures[k] += n
		}
		errs = append(errs, w.err, w.receipts.flush(), w.samples.flush())
	}
	for _, f := range files {
		if f != nil { // what is left to the system would be written during the next segment
			errs = append(errs, f.Sync())
		}
	}
	return res, errors.Join(errs...)
}

func each(ws []*worker, f func(*worker)) {
	var wg sync.WaitGroup
	for _, w := range ws {
		wg.Go(func() { f(w) })
	}
	wg.Wait()
}

// worker is one connection.
type worker struct {
	load      *load
	segment   *segment
	addr      string
	agency    int
	transport *http.Transport
	next      *atomic.Int64
	request   []byte
	body      bytes.Buffer

	latency           histogram
	warm, bytes       int64
	failures          map[string]int64
	receipts, samples spool
	err               error // of this program, not of the other side
}

var asJSON = http.Header{"Content-Type": {"application/json"}}

// one asks once.
func (w *worker) one(ctx context.Context, counts bool) {
	k := w.next.Add(1) - 1
	who := pivot(w.load.walk.at(k))
	var req *http.Request
	var err error
	if w.segment.Broker {
		w.request = appendQuestion(w.request[:0], &who, serviceID(int(k)%w.load.cfg.Services), k)
		if req, err = http.NewRequestWithContext(ctx, http.MethodPost, "https://"+w.addr+"/v1/disclosures", bytes.NewReader(w.request)); err == nil {
			req.Header = asJSON
		}
	} else {
		w.request = target(append(append(w.request[:0], "https://"...), w.addr...), &who)
		req, err = http.NewRequestWithContext(ctx, http.MethodGet, string(w.request), nil)
	}
	if err != nil {
		w.err = err
		return
	}
	begin := time.Now()
	status, err := w.send(req)
	took := time.Since(begin)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.failures["connection"]++
		time.Sleep(10 * time.Millisecond) // nobody there: don't spin
	case status != http.StatusOK:
		w.failures[fmt.Sprintf("%d %s", status, problemCode(w.body.Bytes()))]++
		time.Sleep(10 * time.Millisecond)
	default:
		if w.segment.Broker && w.segment.Receipts != "" {
			if w.err = w.keep(k); w.err != nil {
				return
			}
		}
		w.bytes += int64(w.body.Len())
		if counts {
			w.latency.add(took)
		} else {
			w.warm++
		}
	}
}

func (w *worker) send(req *http.Request) (int, error) {
	res, err := w.transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	w.body.Reset()
	_, err = w.body.ReadFrom(res.Body)
	return res.StatusCode, err
}

// keep stores the receipt of an answer, and now and then the whole answer.
func (w *worker) keep(k int64) error {
	receipt, err := receiptOf(w.body.Bytes())
	if err != nil {
		return err
	}
	if err := w.receipts.write(receipt, []byte{'\n'}); err != nil {
		return err
	}
	if k%sampleEvery != 0 {
		return nil
	}
	var size [4]byte
	binary.BigEndian.PutUint32(size[:], uint32(w.body.Len()))
	return w.samples.write(size[:], w.body.Bytes())
}

var receiptMember = []byte(`"receipt":"`)

// receiptOf finds the JSON string of the receipt in an answer, quotes included. A receipt is lines of base64 and plain words: nothing in it is escaped but the line ends.
func receiptOf(body []byte) ([]byte, error) {
	from := bytes.Index(body, receiptMember)
	if from < 0 {
		return nil, errors.New("an answer without a receipt")
	}
	from += len(receiptMember) - 1
	end := bytes.IndexByte(body[from+1:], '"')
	if end < 1 || body[from+end] == '\\' {
		return nil, errors.New("an answer whose receipt isn't a plain string")
	}
	return body[from : from+end+2], nil
}

func problemCode(body []byte) string {
	var p struct{ Code string }
	if json.Unmarshal(body, &p) != nil || p.Code == "" {
		return "without a code"
	}
	return p.Code
}

// What is asked for, and why, in every request.
const (
	purpose    = "aide-sociale"
	legalBasis = "l114-8-crpa"
)

var scopes = []string{"adresse", "allocataires", "prestations", "quotient"}

// appendQuestion writes the body of a request.
func appendQuestion(b []byte, p *proof.Pivot, service string, k int64) []byte {
	b = append(b, `{"service":"`...)
	b = append(b, service...)
	b = append(b, `","scopes":["`...)
	b = append(b, strings.Join(scopes, `","`)...)
	b = append(b, `"],"purpose":"`+purpose+`","legal_basis":"`+legalBasis+`","recipient":"`...)
	b = append(b, recipientSIRET...)
	b = fmt.Appendf(b, `","context":"Aide sociale facultative, dossier %d","object":"Instruction d'une demande","official":"agent-%03d","subject":{"type":"pivot","birth_name":"`, k, k%500)
	b = append(b, p.BirthName...)
	b = append(b, `","given_names":"`...)
	b = append(b, p.GivenNames...)
	b = append(b, `","birth_date":"`...)
	b = append(b, p.BirthDate...)
	b = append(b, `","sex":"`...)
	b = append(b, p.Sex...)
	b = append(b, `","birth_place":"`...)
	b = append(b, p.BirthPlace...)
	b = append(b, `","birth_country":"`...)
	b = append(b, p.BirthCountry...)
	return append(b, `"}}`...)
}

var recipientSIRET = siret(9001)

// spool gathers what one worker keeps, until the segment is over: agencies don't write their receipts to the broker's disk.
type spool struct {
	f     *os.File
	max   int // chunks; what comes when there are as many is written at once
	spare *chunks
	full  [][]byte // and the last one, which isn't
}

// chunks are used again by the next segment: on a virtual machine the first use of a page of memory costs more than what is written to it.
type chunks struct {
	mu   sync.Mutex
	free [][]byte
}

func (c *chunks) get() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.free)
	if n == 0 {
		return make([]byte, 0, chunkSize)
	}
	b := c.free[n-1]
	c.free = c.free[:n-1]
	return b[:0]
}

func (c *chunks) put(list [][]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.free = append(c.free, list...)
}

const (
	chunkSize = 256 << 10
	maxSpools = 1 << 30 // bytes that all workers' spools of receipts hold together
)

func (s *spool) write(parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	last := len(s.full) - 1
	if last < 0 || len(s.full[last])+n > chunkSize {
		if len(s.full) >= s.max {
			if err := s.flush(); err != nil {
				return err
			}
		}
		s.full = append(s.full, s.spare.get())
		last = len(s.full) - 1
	}
	for _, p := range parts {
		s.full[last] = append(s.full[last], p...) // grows if one item is larger than a chunk
	}
	return nil
}

// flush writes whole items: the file is opened for appending, which keeps them whole beside those of other workers.
func (s *spool) flush() error {
	full := s.full
	s.full = nil
	for _, b := range full {
		if _, err := s.f.Write(b); err != nil {
			return err
		}
	}
	s.spare.put(full)
	return nil
}
