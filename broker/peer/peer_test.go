package peer

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func request(peer string, header ...string) *http.Request {
	r := &http.Request{RemoteAddr: peer, Header: http.Header{}}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestNetwork(t *testing.T) {
	const xff, fwd = "X-Forwarded-For", "Forwarded"
	proxies, err := ParseProxies([]string{"10.0.0.0/8", "192.0.2.7", "2001:db8:ffff::/48"})
	if err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct {
		peer   string
		header []string
		want   string // "" is nobody's
	}{
		"IPv4":                  {"203.0.113.9:1234", nil, "203.0.113.9/32"},
		"IPv6":                  {"[2001:db8:1:2:3:4:5:6]:1", nil, "2001:db8:1:2::/64"},
		"IPv4 in IPv6":          {"[::ffff:203.0.113.9]:1", nil, "203.0.113.9/32"},
		"with a zone":           {"[fe80::1%eth0]:1", nil, "fe80::/64"},
		"no address":            {"@", nil, ""},
		"spoofed":               {"203.0.113.9:1", []string{xff, "198.51.100.1"}, "203.0.113.9/32"},
		"spoofed, Forwarded":    {"203.0.113.9:1", []string{fwd, "for=198.51.100.1"}, "203.0.113.9/32"},
		"spoofed as the proxy":  {"203.0.113.9:1", []string{xff, "198.51.100.1, 10.0.0.1"}, "203.0.113.9/32"},
		"a proxy":               {"10.0.0.1:1", []string{xff, "198.51.100.1"}, "198.51.100.1/32"},
		"a proxy by address":    {"192.0.2.7:1", []string{xff, "198.51.100.1"}, "198.51.100.1/32"},
		"beside that address":   {"192.0.2.8:1", []string{xff, "198.51.100.1"}, "192.0.2.8/32"},
		"a proxy of IPv6":       {"[2001:db8:ffff::1]:1", []string{xff, "2001:db8:1:2::9"}, "2001:db8:1:2::/64"},
		"two proxies":           {"10.0.0.1:1", []string{xff, "198.51.100.1, 10.0.0.2"}, "198.51.100.1/32"},
		"spoofed behind one":    {"10.0.0.1:1", []string{xff, "198.51.100.1, 203.0.113.9"}, "203.0.113.9/32"},
		"spoofed in a line":     {"10.0.0.1:1", []string{xff, "198.51.100.1", xff, "203.0.113.9"}, "203.0.113.9/32"},
		"with ports":            {"10.0.0.1:1", []string{xff, "[2001:db8:1:2::9]:80, 10.0.0.2:443"}, "2001:db8:1:2::/64"},
		"nothing":               {"10.0.0.1:1", nil, "10.0.0.1/32"},
		"nothing in it":         {"10.0.0.1:1", []string{xff, ""}, "10.0.0.1/32"},
		"no address in it":      {"10.0.0.1:1", []string{xff, "198.51.100.1, unknown"}, "10.0.0.1/32"},
		"proxies alone":         {"10.0.0.1:1", []string{xff, "10.0.0.3, 10.0.0.2"}, "10.0.0.3/32"},
		"too long":              {"10.0.0.1:1", []string{xff, strings.Repeat("198.51.100.1,", 2000) + "203.0.113.9"}, "203.0.113.9/32"},
		"Forwarded":             {"10.0.0.1:1", []string{fwd, `for=198.51.100.1;proto=https;by=10.0.0.1`}, "198.51.100.1/32"},
		"Forwarded, quoted":     {"10.0.0.1:1", []string{fwd, `proto=https ; For="[2001:db8:1:2::9]:4711" , for="10.0.\0.2:80"`}, "2001:db8:1:2::/64"},
		"Forwarded, a comma":    {"10.0.0.1:1", []string{fwd, `for="203.0.113.9";x="a, for=198.51.100.1"`}, "203.0.113.9/32"},
		"Forwarded, hidden":     {"10.0.0.1:1", []string{fwd, `for=198.51.100.1, for=_hidden`}, "10.0.0.1/32"},
		"Forwarded, no for":     {"10.0.0.1:1", []string{fwd, `for=198.51.100.1, proto=https`}, "10.0.0.1/32"},
		"Forwarded, two for":    {"10.0.0.1:1", []string{fwd, `for=198.51.100.1;for=203.0.113.9`}, "10.0.0.1/32"},
		"Forwarded, no form":    {"10.0.0.1:1", []string{fwd, `for="198.51.100.1, for=203.0.113.9`}, "10.0.0.1/32"},
		"Forwarded, bad value":  {"10.0.0.1:1", []string{fwd, `for=`}, "10.0.0.1/32"},
		"Forwarded, no value":   {"10.0.0.1:1", []string{fwd, `for`}, "10.0.0.1/32"},
		"Forwarded, control":    {"10.0.0.1:1", []string{fwd, "for=\"198.51.100.1\x01\""}, "10.0.0.1/32"},
		"Forwarded, too long":   {"10.0.0.1:1", []string{fwd, strings.Repeat("for=198.51.100.1,", 2000) + "for=203.0.113.9"}, "10.0.0.1/32"},
		"both say the same":     {"10.0.0.1:1", []string{xff, "198.51.100.1", fwd, "for=198.51.100.1"}, "198.51.100.1/32"},
		"the other is invented": {"10.0.0.1:1", []string{xff, "203.0.113.9", fwd, "for=198.51.100.1"}, "10.0.0.1/32"},
	} {
		got := proxies.Network(request(x.peer, x.header...))
		want := Network{}
		if x.want != "" {
			want = Network(netip.MustParsePrefix(x.want))
		}
		if got != want {
			t.Errorf("%s: %v, want %v", name, netip.Prefix(got), x.want)
		}
	}
	// By default nobody is believed.
	if got := Proxies(nil).Network(request("127.0.0.1:1", xff, "198.51.100.1")); netip.Prefix(got).String() != "127.0.0.1/32" {
		t.Errorf("without proxies: %v", netip.Prefix(got))
	}
}

func TestParseProxies(t *testing.T) {
	for _, text := range []string{"", "x", "10.0.0.1/8", "10.0.0.0/33", "fe80::1%eth0", "fe80::%eth0/64", "::ffff:10.0.0.0/104", "10.0.0.0/8 ", "proxy.example"} {
		if _, err := ParseProxies([]string{text}); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// Whatever a request says: nobody is believed who isn't a proxy, and nothing in it brings the parser down.
func FuzzNetwork(f *testing.F) {
	f.Add("198.51.100.1, [2001:db8::1]:80", `for="[2001:db8::1]:80";proto=https, for=_x`)
	f.Add("", `for="\"`)
	proxies, err := ParseProxies([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, xff, fwd string) {
		header := []string{"X-Forwarded-For", xff, "Forwarded", fwd}
		if got := proxies.Network(request("203.0.113.9:1", header...)); netip.Prefix(got).String() != "203.0.113.9/32" {
			t.Fatalf("believed: %v", netip.Prefix(got))
		}
		got := netip.Prefix(proxies.Network(request("10.0.0.1:1", header...)))
		if got != got.Masked() || got.Bits() != 32 && got.Bits() != 64 || got.Addr().Is4() != (got.Bits() == 32) {
			t.Fatalf("not a network: %v", got)
		}
		// An address that a proxy adds at the end is what counts, whatever stood there before.
		if got := netip.Prefix(proxies.Network(request("10.0.0.1:1", "X-Forwarded-For", xff, "X-Forwarded-For", "203.0.113.9"))); got.String() != "203.0.113.9/32" {
			t.Fatalf("%q: %v", xff, got)
		}
	})
}

func networkOf(text string) Network { return of(netip.MustParseAddr(text)) }

func TestLimiter(t *testing.T) {
	l, err := NewLimiter(Rate{PerSecond: 0.5, Burst: 3})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	a, b := networkOf("203.0.113.9"), networkOf("203.0.113.10")
	take := func(c Network, want bool, wait time.Duration) {
		t.Helper()
		if d, ok := l.Take(c, now); ok != want || d != wait {
			t.Errorf("%v, wait %s; want %v, %s", ok, d, want, wait)
		}
	}
	for range 3 {
		take(a, true, 0)
	}
	take(a, false, 2*time.Second)
	take(a, false, 2*time.Second) // what was refused doesn't count
	take(b, true, 0)
	now = now.Add(1500 * time.Millisecond)
	take(a, false, time.Second)
	now = now.Add(500 * time.Millisecond)
	take(a, true, 0)
	// A debt has to be waited for.
	l.Charge(b, 100, now) // b has 2 and half of one, and owes no more than a burst
	take(b, false, 2*time.Second)
	now = now.Add(2 * time.Second)
	take(b, true, 0)
	for _, r := range []Rate{{}, {1, 0}, {0, 1}, {-1, 1}, {1, -1}} {
		if _, err := NewLimiter(r); err == nil {
			t.Errorf("%+v is taken", r)
		}
	}
}

// The memory is bounded: whoever asked least lately is forgotten, and they alone.
func TestLimiterForgets(t *testing.T) {
	l, err := newLimiter(Rate{PerSecond: 1e-9, Burst: 1}, 2)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 26, 8, 0, 0, 0, time.UTC)
	a, b, c := networkOf("203.0.113.1"), networkOf("203.0.113.2"), networkOf("203.0.113.3")
	for i, x := range []struct {
		who Network
		ok  bool
	}{{a, true}, {b, true}, {a, false}, {c, true}, {a, false}, {b, true}} {
		if _, ok := l.Take(x.who, now); ok != x.ok {
			t.Errorf("%d: %v", i, ok)
		}
	}
	if n := l.buckets.Len(); n != 2 {
		t.Errorf("%d are remembered", n)
	}
}
