package bench

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

type proxyConfig struct {
	TLS      tlsFiles
	Upstream string // https://host:port
}

// startProxy is what the broker is measured against: a reverse proxy of the standard library with mTLS on both sides, and nothing else.
func startProxy(_ context.Context, raw json.RawMessage) (role, any, error) {
	var cfg proxyConfig
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return nil, nil, err
	}
	up, err := url.Parse(cfg.Upstream)
	if err != nil {
		return nil, nil, err
	}
	tlsConfig, err := cfg.TLS.client()
	if err != nil {
		return nil, nil, err
	}
	return serve(cfg.TLS, &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(up) },
		// As many kept connections as clients: with the default of two, most requests would shake hands anew.
		Transport: &http.Transport{TLSClientConfig: tlsConfig, MaxIdleConnsPerHost: 1024, IdleConnTimeout: time.Minute, DisableCompression: true},
	})
}
