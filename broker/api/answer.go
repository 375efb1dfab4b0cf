package api

import (
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/policy"
)

// problemType is the prefix of a problem's type (RFC 9457, section 3.1.1); the code follows.
const problemType = "urn:regard:problem:"

// record writes what became of an earlier disclosure: that is found, so it is 200 whatever its outcome was. It holds no data.
func (x *exchange) record(a *broker.Answer) *broker.Problem {
	x.outcome, x.disclosure = a.Outcome, formatID(a.ID)
	b := x.recorded(append(make([]byte, 0, len(a.Receipt)+len(a.Receipt)/32+512), '{'), a)
	if a.Problem != nil {
		b = append(x.problemMembers(append(b, `,"problem":{`...), a.Problem), '}')
	}
	x.w.Header()["Content-Type"] = asJSON
	x.write(http.StatusOK, append(b, "}\n"...))
	return nil
}

// answer writes the end of a disclosure that was recorded. The member data is the last one, and its bytes are copied as they are: the receipt's digest is over exactly them.
func (x *exchange) answer(a *broker.Answer) *broker.Problem {
	x.outcome, x.disclosure = a.Outcome, formatID(a.ID)
	if a.Outcome != broker.Released || a.Gone || a.Problem != nil {
		p := a.Problem
		if p == nil {
			p = x.problem(errors.New("api: an answer without data and without a problem"))
		}
		x.fail(p, a)
		return nil
	}
	// The data were written as a JSON object and sealed since: they aren't parsed again, but an end that is missing would spoil the whole answer.
	if n := len(a.Data); len(a.Receipt) == 0 || n < 2 || a.Data[0] != '{' || a.Data[n-1] != '}' {
		return x.problem(errors.New("api: an answer without a receipt, or its data are no JSON object"))
	}
	buf := buffers.Get().(*[]byte)
	b := append(slices.Grow((*buf)[:0], len(a.Data)+len(a.Receipt)+512+len(a.Receipt)/32), '{')
	b = x.recorded(b, a)
	b = append(b, `,"data":`...)
	b = append(b, a.Data...)
	b = append(b, "}\n"...)
	x.w.Header()["Content-Type"] = asJSON
	if !x.write(http.StatusOK, b) {
		return nil // HTTP/2 may still be reading b after a Write that failed: whatever is put into it now would go to this caller (https://go.dev/issue/20704)
	}
	clear(b) // it held the person's data
	if cap(b) <= maxBuffer {
		*buf = b
		buffers.Put(buf)
	}
	return nil
}

// buffers are for answers; larger ones than maxBuffer are not kept.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

const maxBuffer = 64 << 10

// recorded appends the members that stand in every answer that was recorded.
func (x *exchange) recorded(b []byte, a *broker.Answer) []byte {
	b = append(b, `"id":"`...)
	b = append(b, x.disclosure...)
	b = append(b, `","outcome":`...)
	b = appendText(b, string(a.Outcome))
	b = append(b, `,"asked_at":"`...)
	b = a.AskedAt.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","repeated":`...)
	b = strconv.AppendBool(b, a.Repeated)
	b = x.reasons(append(b, `,"reasons":`...), a.Reasons)
	b = append(b, `,"receipt_state":`...)
	b = appendText(b, stateName(a))
	b = append(b, `,"settled":`...)
	b = strconv.AppendBool(b, a.Settled)
	b = append(b, `,"receipt":`...)
	return appendText(b, a.Receipt)
}

// reasons appends why policy refused, each with its sentence in the caller's language.
func (x *exchange) reasons(b []byte, reasons []policy.Reason) []byte {
	b = append(b, '[')
	lang := "fr"
	if len(reasons) > 0 {
		lang = language(x.r.Header.Get("Accept-Language"))
		x.w.Header()["Vary"] = []string{"Accept-Language"}
	}
	for i, r := range reasons {
		if i > 0 {
			b = append(b, ',')
		}
		text := r.FR
		if lang == "en" {
			text = r.EN
		}
		b = appendText(append(b, `{"code":`...), string(r.Code))
		if text != "" { // of an earlier disclosure only the code was recorded
			b = appendText(append(b, `,"message":`...), text)
		}
		b = append(b, '}')
	}
	return append(b, ']')
}

// fail is the one way out for errors: status, body, Retry-After, the code for log and metrics. a is the disclosure's answer if it was recorded.
func (x *exchange) fail(p *broker.Problem, a *broker.Answer) {
	if p.Status < 400 || p.Status > 599 || p.Code == "" {
		p = broker.AsProblem(errors.New("api: not a problem"))
	}
	x.code = kind(p)
	b := x.problemMembers(append(make([]byte, 0, 512), '{'), p)
	if a != nil {
		b = x.recorded(append(b, ','), a)
	}
	b = append(b, "}\n"...)
	h := x.w.Header()
	h["Content-Type"], h["Cache-Control"] = problems, noStore
	if p.RetryAfter > 0 {
		h["Retry-After"] = []string{itoa(int64((p.RetryAfter + time.Second - 1) / time.Second))}
	}
	if p.Code == broker.CodeStopping {
		h["Connection"] = []string{"close"} // a balancer of connections has the next one led elsewhere; on HTTP/2 this is GOAWAY
	}
	x.write(p.Status, b)
}

// kind of a problem: its code, but where that is a provider's own, which could be any text, only that it is one. Types, logs and metrics say no more.
func kind(p *broker.Problem) string {
	if p.Provider == "" || p.Code == broker.CodeProviderEmpty {
		return p.Code
	}
	// provider/timeout is ours, provider/504/37002 ends with the provider's.
	parts := strings.SplitN(p.Code, "/", 3)
	if len(parts) >= 2 && parts[0] == "provider" && proof.IsToken(parts[1]) && len(parts[1]) <= 20 {
		return "provider/" + parts[1]
	}
	return "provider/" + strconv.Itoa(p.Status)
}

// problemMembers appends the members of RFC 9457 and ours.
func (x *exchange) problemMembers(b []byte, p *broker.Problem) []byte {
	b = appendText(append(b, `"type":`...), problemType+kind(p))
	b = appendText(append(b, `,"title":`...), p.Title)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(p.Status), 10)
	b = appendText(append(b, `,"detail":`...), p.Detail)
	b = appendText(append(b, `,"code":`...), p.Code)
	switch {
	case p.Parameter == "":
	case p.Parameter[0] == '/':
		b = append(appendText(append(b, `,"source":{"parameter":`...), p.Parameter), '}')
	default:
		b = append(appendText(append(b, `,"source":{"header":`...), p.Parameter), '}')
	}
	if p.Provider != "" {
		b = append(appendText(append(b, `,"meta":{"provider":`...), p.Provider), '}')
	}
	return b
}

// write says whether b was taken as a whole, and isn't used any more. If not, the caller is gone: there is nobody to tell.
func (x *exchange) write(status int, b []byte) bool {
	x.status = status
	x.w.Header()["Content-Length"] = []string{strconv.Itoa(len(b))}
	// How long the provider and the log took is not the caller's fault; how long they take to read it is.
	_ = http.NewResponseController(x.w).SetWriteDeadline(time.Now().Add(x.api.cfg.Write)) // a recorder in a test has none
	x.w.WriteHeader(status)
	return writeWhole(x.w, x.r, b) == nil
}

// appendText appends a JSON string (RFC 8259, section 7). Broken UTF-8 becomes U+FFFD.
func appendText[T string | []byte](b []byte, s T) []byte {
	const hexDigits = "0123456789abcdef"
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		for i+8 <= len(s) && !special(word(s, i)) {
			i += 8
		}
		if i == len(s) {
			break
		}
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
			if r == utf8.RuneError && n == 1 {
				b = append(append(b, s[from:i]...), "\ufffd"...)
				from = i + 1
			}
			i += n
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[from:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	return append(append(b, s[from:]...), '"')
}

// word returns 8 bytes of s; the compiler makes it one load.
func word[T string | []byte](s T, i int) uint64 {
	_ = s[i+7]
	return uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
		uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
}

// special reports whether one of 8 bytes is a control character, a quotation mark, a backslash or no ASCII. Each term sets the high bit of such a byte; of another one only
// beside it, by a borrow (https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord, #HasLessInWord).
func special(w uint64) bool {
	const ones, high = 0x0101010101010101, 0x8080808080808080
	quote, slash := w^ones*'"', w^ones*'\\'
	return (w|(w-ones*0x20)|((quote-ones)&^quote)|((slash-ones)&^slash))&high != 0
}

// language chooses fr or en by Accept-Language (RFC 9110, section 12.5.4); fr if neither or both are wanted equally.
func language(header string) string {
	fr, en := quality(header, "fr"), quality(header, "en")
	if en > fr {
		return "en"
	}
	return "fr"
}
