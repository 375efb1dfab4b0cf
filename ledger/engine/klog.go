package engine

import (
	"bytes"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

var (
	klogOnce   sync.Once
	klogTarget atomic.Pointer[slog.Logger]
)

// RedirectKlog sends what Trillian logs through klog to a slog logger: its
// information, a line a batch, as debug. klog has one output a process, and
// changing it is not safe while it is used, so that is done once and only the
// target behind it changes.
func RedirectKlog(to *slog.Logger) {
	klogTarget.Store(to)
	klogOnce.Do(func() {
		klog.SetLoggerWithOptions(logr.Discard(), klog.WriteKlogBuffer(writeKlog))
	})
}

// writeKlog gets a line as klog formats it: "I1123 22:30:05.000000   1234 file.go:56] text".
func writeKlog(line []byte) {
	if len(line) == 0 {
		return
	}
	level := slog.LevelDebug
	switch line[0] {
	case 'W':
		level = slog.LevelWarn
	case 'E', 'F':
		level = slog.LevelError
	}
	to := klogTarget.Load()
	if !to.Enabled(context.Background(), level) {
		return
	}
	source, text, ok := bytes.Cut(line, []byte("] "))
	if !ok {
		source, text = nil, line
	}
	if i := bytes.LastIndexByte(source, ' '); i >= 0 {
		source = source[i+1:]
	}
	to.Log(context.Background(), level, string(bytes.TrimSpace(text)), "source", "trillian/"+string(source))
}
