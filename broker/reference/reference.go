// Package reference is the platform's own providers: small services with the shapes of real ones and an invented population, for the demonstration, for tests and for benchmarks.
//
// What it guarantees. Everybody in it is invented and says so: every family or business name holds the word EXEMPLE, every telephone number and address is of a range or a street that
// doesn't exist. It answers the broker alone: a client without one of the certificates it was given gets no TLS connection. Its access log holds no identity.
//
// What it doesn't. It is no model of how a provider should store data, and its answers mean nothing.
package reference

import (
	"embed"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"strings"

	"github.com/regard-broker/regard/broker/service"
)

//go:embed services/*.yaml
var files embed.FS

// placeholder is the endpoint's base in the embedded definitions; its host is also where they fetch documents.
const placeholder = "https://reference.invalid"

// A Service is one definition, for an endpoint.
type Service struct {
	// YAML is the file, as an operator would register it.
	YAML       []byte
	Definition *service.Definition
}

// Services returns the definitions of all reference services for the server at base, for example https://provider.example:8443, by increasing id. keys are those with which the providers fetch receipts:
// each the SHA-256 of a certificate's SubjectPublicKeyInfo.
func Services(base string, keys ...[32]byte) ([]Service, error) {
	base = strings.TrimSuffix(base, "/")
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Path != "" {
		return nil, fmt.Errorf("reference services: want a base URL of scheme and host alone, such as https://provider.example:8443")
	}
	names, err := fs.Glob(files, "services/*.yaml")
	if err != nil {
		return nil, err
	}
	out := make([]Service, 0, len(names))
	for _, name := range names {
		b, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text := strings.ReplaceAll(string(b), placeholder, base)
		text = strings.ReplaceAll(text, strings.TrimPrefix(placeholder, "https://"), strings.TrimSuffix(strings.ToLower(u.Host), ":443"))
		if len(keys) > 0 {
			list := make([]string, len(keys))
			for i, k := range keys {
				list[i] = `"` + base64.StdEncoding.EncodeToString(k[:]) + `"`
			}
			text = strings.Replace(text, "\nprovider: {", "\nprovider: {keys: ["+strings.Join(list, ", ")+"], ", 1)
		}
		d, err := service.Parse([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("reference services: %s: %w", path.Base(name), err)
		}
		out = append(out, Service{YAML: []byte(text), Definition: d})
	}
	return out, nil
}
