//go:build !js

package proof

import "log/slog"

// The browser build leaves these out, for log/slog brings log and encoding/json
// along. Without them slog falls back on Format, which redacts too.

// LogValue implements slog.LogValuer: it shows the type alone.
func (s Subject) LogValue() slog.Value { return slog.StringValue(s.redacted()) }

// LogValue implements slog.LogValuer: it shows nothing.
func (p Pivot) LogValue() slog.Value { return slog.StringValue(p.String()) }

// LogValue implements slog.LogValuer: it shows nothing.
func (p Person) LogValue() slog.Value { return slog.StringValue(p.String()) }

// LogValue implements slog.LogValuer: it shows nothing.
func (s Stated) LogValue() slog.Value { return slog.StringValue(s.String()) }

// LogValue implements slog.LogValuer: it shows nothing.
func (k LabelKey) LogValue() slog.Value { return slog.StringValue(k.String()) }
