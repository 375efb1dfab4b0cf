package witness

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/note"
)

func encodeHash(h []byte) string { return base64.StdEncoding.EncodeToString(h) }

// verifierKey is where a request's context holds the key that has signed its checkpoint.
type verifierKey struct{}

// verifierOf tells the core by which key it may trust a checkpoint: the one that was found to have signed it.
func verifierOf(ctx context.Context, _ string) (note.Verifier, bool, error) {
	v, ok := ctx.Value(verifierKey{}).(note.Verifier)
	return v, ok, nil
}

// Handler answers POST /add-checkpoint.
func (w *Witness) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /add-checkpoint", w.serveAddCheckpoint)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(rw, r)
	})
}

// statusWriter keeps the status for the metrics, and the body of what is cosigned.
type statusWriter struct {
	http.ResponseWriter
	status int
	body   []byte
}

func (s *statusWriter) WriteHeader(status int) {
	if s.status == 0 {
		s.status = status
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *statusWriter) Write(b []byte) (int, error) {
	if s.status == 0 {
		s.status = http.StatusOK
	}
	if s.status == http.StatusOK {
		s.body = append(s.body, b...)
	}
	return s.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (s *statusWriter) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (w *Witness) serveAddCheckpoint(rw http.ResponseWriter, r *http.Request) {
	start := time.Now()
	sw := &statusWriter{ResponseWriter: rw}
	origin := w.addCheckpoint(sw, r)
	w.metrics.requests.WithLabelValues(strconv.Itoa(sw.status)).Inc()
	w.metrics.seconds.Observe(time.Since(start).Seconds())
	w.log.LogAttrs(r.Context(), slog.LevelDebug, "add-checkpoint", slog.String("log", origin), slog.Int("status", sw.status), slog.Duration("took", time.Since(start)))
}

// addCheckpoint reads strictly, finds the key that has signed, and leaves the decision and the status to the core. It returns the log's name if it is one that the witness knows.
func (w *Witness) addCheckpoint(rw *statusWriter, r *http.Request) string {
	refuse := func(status int, text string) {
		rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
		if status == http.StatusTooManyRequests {
			rw.Header().Set("Retry-After", "1")
		}
		rw.WriteHeader(status)
		_, _ = io.WriteString(rw, text+"\n")
	}
	if !w.clients.allow(w.cfg.Clock(), r.RemoteAddr) {
		refuse(http.StatusTooManyRequests, "too many requests from this address")
		return ""
	}
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, maxRequest))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			refuse(http.StatusRequestEntityTooLarge, "the request is too large")
		} else {
			refuse(http.StatusBadRequest, "the request did not arrive")
		}
		return ""
	}
	req, err := parseRequest(body)
	if err != nil {
		refuse(http.StatusBadRequest, "this is no add-checkpoint request: see c2sp.org/tlog-witness")
		return ""
	}
	k := (*w.logs.Load())[req.head.origin]
	if k == nil {
		refuse(http.StatusNotFound, "this witness doesn't know the log")
		return ""
	}
	origin := req.head.origin
	verifier, err := k.signedBy(req.note)
	switch {
	case err != nil:
		refuse(http.StatusBadRequest, "the checkpoint is no signed note")
		return origin
	case verifier == nil:
		refuse(http.StatusForbidden, "no key that this witness trusts for the log has signed the checkpoint")
		return origin
	}
	stored, err := w.state.Latest(r.Context(), origin)
	var last head
	if err == nil && stored != nil {
		last, err = parseHead(stored)
	}
	now := w.cfg.Clock()
	fresh := stored == nil || req.head.size > last.size
	switch {
	case err != nil:
		w.log.Error("what was cosigned can't be read", "log", origin, "error", err)
		refuse(http.StatusInternalServerError, "what was cosigned can't be read")
		return origin
	case fresh && k.limit.TokensAt(now) < 1:
		refuse(http.StatusTooManyRequests, "too many checkpoints of this log")
		return origin
	case req.old == last.size && req.head == last && !k.again.AllowN(now, 1):
		// It would be signed once more, to show that it is the newest: a write.
		lines := k.cosigned(req)
		if lines == nil {
			refuse(http.StatusTooManyRequests, "the newest checkpoint was asked for too often")
			return origin
		}
		_, _ = rw.Write(lines)
		return origin
	}
	// The core reads what parsed above; its handler gives each decision its status.
	r = r.WithContext(context.WithValue(r.Context(), verifierKey{}, verifier))
	r.Body = io.NopCloser(bytes.NewReader(body))
	w.handler.AddCheckpoint(rw, r)
	switch rw.status {
	case http.StatusOK:
		if fresh {
			// Only what was cosigned counts: checkpoints are public, and whoever sends one again, or with a wrong proof, must not use up the log's allowance.
			k.limit.AllowN(now, 1)
		}
		k.keep(req, rw.body)
		w.metrics.size.WithLabelValues(origin).Set(float64(req.head.size))
		w.metrics.last.WithLabelValues(origin).Set(float64(time.Now().Unix()))
	case http.StatusUnprocessableEntity:
		seen, _ := w.state.Latest(r.Context(), origin)
		if h, err := parseHead(seen); err == nil && h == req.head {
			return origin // a request against the protocol: the checkpoint is the one that was cosigned
		}
		w.metrics.refused.WithLabelValues(origin).Inc()
		w.log.Error("refused a checkpoint that is signed by the log and not shown to extend what was cosigned. If the log can't explain it, it shows two histories: keep both checkpoints, and publish them",
			"log", origin, "cosigned", string(seen), "refused", string(req.note))
	case http.StatusInternalServerError:
		w.log.Error("a checkpoint could not be cosigned", "log", origin)
	}
	return origin
}

// signedBy returns the first key of the log that has signed the note, nil if none has. The error says that it is no signed note.
func (k *known) signedBy(n []byte) (note.Verifier, error) {
	for _, v := range k.verifiers {
		_, err := note.Open(n, note.VerifierList(v))
		var unverified *note.UnverifiedNoteError
		var invalid *note.InvalidSignatureError
		switch {
		case err == nil:
			return v, nil
		case errors.As(err, &unverified), errors.As(err, &invalid):
		default:
			return nil, err
		}
	}
	return nil, nil
}

// answered is a checkpoint that was cosigned, and the lines that its asker got.
type answered struct {
	size  uint64
	text  string
	lines []byte
}

// textOf is what the signatures of a checkpoint are about.
func textOf(n []byte) string {
	text, _, _ := bytes.Cut(n, []byte("\n\n"))
	return string(text)
}

// keep keeps the newest answer.
func (k *known) keep(req *request, lines []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if req.head.size >= k.last.size {
		k.last = answered{req.head.size, textOf(req.note), lines}
	}
}

// cosigned returns what was answered to the same request before; nil: that isn't known.
func (k *known) cosigned(req *request) []byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(req.proof) > 0 || k.last.text != textOf(req.note) {
		return nil
	}
	return k.last.lines
}
