package engine

import (
	"bytes"
	"io"
	"log/slog"
	"strings"
	"testing"
)

func TestKlogLines(t *testing.T) {
	var out bytes.Buffer
	for line, want := range map[string]string{
		"I1123 22:30:05.000001    1234 sequencer.go:56] 7: sequenced 4 leaves\n": `level=DEBUG msg="7: sequenced 4 leaves" source=trillian/sequencer.go:56`,
		"W1123 22:30:05.000001    1234 a.go:1] careful]\n":                       `level=WARN msg=careful] source=trillian/a.go:1`,
		"E1123 22:30:05.000001    1234 a.go:1] bad\n":                            `level=ERROR msg=bad source=trillian/a.go:1`,
		"no header": `level=DEBUG msg="no header" source=trillian/`,
	} {
		out.Reset()
		klogTarget.Store(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})))
		writeKlog([]byte(line))
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q became %q, want %q", line, out.String(), want)
		}
	}
	klogTarget.Store(slog.New(slog.NewTextHandler(io.Discard, nil)))
	writeKlog(nil)
}
