// Package peer finds out from which address a request comes, and bounds how often one address is served.
//
// What it guarantees. What a request says about its own way is believed only of proxies that the operator named, hop by hop from this machine outwards; whatever is left doubtful counts for the last proxy that is known,
// which makes the bound tighter and never wider. A network that one subscriber has, an IPv4 address or an IPv6 /64, is bounded as one. A Limiter remembers a fixed number of them.
//
// What it doesn't. People behind one address share its bound. Whoever has more networks than a Limiter remembers isn't bounded by it: what has to hold then is a bound on all together.
package peer

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
)

// A Network is where requests come from: what one subscriber has. The zero value stands for all whose address nobody knows: together they are one.
type Network netip.Prefix

// of an address: it alone, or the /64 of an IPv6 address, which is the least that one subscriber gets (RFC 6177, section 2).
func of(a netip.Addr) Network {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return Network{}
	}
	return Network(p)
}

// Proxies are the networks of those whose X-Forwarded-For or Forwarded (RFC 7239) is believed. Each has to append to it, or to set it anew: one that hands on what it got lets everybody be anybody. Nil: nobody is believed.
type Proxies []netip.Prefix

// ParseProxies reads networks (192.0.2.0/24) and addresses.
func ParseProxies(list []string) (Proxies, error) {
	var out Proxies
	for _, text := range list {
		p, err := netip.ParsePrefix(text)
		if a, addrErr := netip.ParseAddr(text); addrErr == nil && a.Zone() == "" {
			p, err = a.Prefix(a.BitLen())
		}
		if err != nil || p != p.Masked() || p.Addr().Is4In6() {
			return nil, fmt.Errorf("%q is neither a network such as 192.0.2.0/24 nor an address", text)
		}
		out = append(out, p)
	}
	return out, nil
}

func (p Proxies) has(a netip.Addr) bool {
	for _, x := range p {
		if x.Contains(a) {
			return true
		}
	}
	return false
}

// Network says from where a request comes.
func (p Proxies) Network(r *http.Request) Network {
	peer, ok := parseAddr(r.RemoteAddr)
	if !ok {
		return Network{}
	}
	if !p.has(peer) {
		return of(peer)
	}
	chains := [][]netip.Addr{forwardedFor(r.Header.Values("X-Forwarded-For")), forwarded(r.Header.Values("Forwarded"))}
	var out Network
	for _, chain := range chains {
		if chain == nil {
			continue
		}
		from := p.follow(peer, chain)
		// A proxy sets one of both. The other one, if it says something else, is the sender's invention, and nobody knows which.
		if out != (Network{}) && out != from {
			return of(peer)
		}
		out = from
	}
	if out == (Network{}) {
		return of(peer)
	}
	return out
}

// follow goes from this machine outwards as far as known proxies tell. The zero address is a hop that can't be read.
func (p Proxies) follow(at netip.Addr, chain []netip.Addr) Network {
	for i := len(chain) - 1; i >= 0 && chain[i].IsValid() && p.has(at); i-- {
		at = chain[i]
	}
	return of(at)
}

// maxChain bounds what is read of a header, in bytes: a chain of proxies is short, and what is nearest stands at its end.
const maxChain = 4 << 10

// forwardedFor reads X-Forwarded-For; nil if there is none.
func forwardedFor(values []string) (chain []netip.Addr) {
	if len(values) == 0 {
		return nil
	}
	text := strings.Join(values, ",")
	cut := max(0, len(text)-maxChain)
	for part := range strings.SplitSeq(text[cut:], ",") {
		a, _ := parseAddr(strings.Trim(part, " \t"))
		chain = append(chain, a)
	}
	if cut > 0 {
		chain[0] = netip.Addr{} // maybe half of one
	}
	return chain
}

// forwarded reads the for of each element of Forwarded; nil if there is none, and one unreadable hop if it isn't of the form of RFC 7239, section 4.
func forwarded(values []string) (chain []netip.Addr) {
	if len(values) == 0 {
		return nil
	}
	unreadable := []netip.Addr{{}}
	text := strings.Join(values, ",")
	if len(text) > maxChain {
		return unreadable
	}
	var hop netip.Addr
	seen := false // for, in this element
	for {
		text = strings.TrimLeft(text, " \t")
		name := text[:tokenLen(text)]
		if name != "" {
			var value string
			var ok bool
			if text, ok = strings.CutPrefix(text[len(name):], "="); !ok {
				return unreadable
			}
			if value, text, ok = cutValue(text); !ok {
				return unreadable
			}
			if strings.EqualFold(name, "for") {
				if seen {
					return unreadable
				}
				seen = true
				hop, _ = parseAddr(value)
			}
		}
		text = strings.TrimLeft(text, " \t")
		switch {
		case text == "":
			return append(chain, hop)
		case text[0] == ',':
			chain, hop, seen = append(chain, hop), netip.Addr{}, false
		case text[0] != ';':
			return unreadable
		}
		text = text[1:]
	}
}

// tokenLen is the length of the token (RFC 9110, section 5.6.2) at the beginning of s.
func tokenLen(s string) int {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return i
		}
	}
	return len(s)
}

// cutValue takes a token or a quoted string (RFC 9110, section 5.6.4) from the beginning of s.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		n := tokenLen(s)
		return s[:n], s[n:], n > 0
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c < 0x20 && c != '\t' || c == 0x7f:
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

// parseAddr reads an address with or without a port, an IPv6 address with brackets or, without a port, without.
func parseAddr(s string) (netip.Addr, bool) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		if inner, ok := strings.CutSuffix(rest, "]"); ok {
			a, err := netip.ParseAddr(inner)
			return a.Unmap().WithZone(""), err == nil && a.Is6()
		}
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}
