package proof_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/regard-broker/regard/ledger/proof"
)

// jsonVectors are objects that are canonical and texts that aren't, each with
// the reason. They are published as vectors.
func jsonVectors() (good []string, bad [][2]string) {
	deep := func(n int) string { return strings.Repeat(`{"a":`, n-1) + "{}" + strings.Repeat("}", n-1) }
	good = []string{
		`{}`, `{"a":[],"b":{},"c":[true,false,null],"d":"","e":-1,"f":0}`, `{"":0,"A":0,"a":0,"é":"–€𝄞"}`,
		`{"quote \" backslash \\ slash / delete ` + "\u007f" + `":"\u0000\u0009\u000a\u001f"}`,
		`{" ":0,"!":0,"\"":0,"#":0}`, `{"\u0001":0,"\u0010":0," ":0}`, `{"n":9223372036854775807,"o":-9223372036854775807}`, deep(32),
	}
	bad = [][2]string{
		{``, "empty"}, {`[]`, "not an object"}, {` {}`, "white space before"}, {"{}\n", "white space after"}, {`{"a": 1}`, "white space within"}, {`{}{}`, "two values"},
		{`{"b":0,"a":0}`, "keys out of order"}, {`{"a":0,"a":0}`, "a key twice"}, {`{"é":0,"a":0}`, "keys out of order: é is two bytes from 0xC3"},
		{`{"#":0,"\"":0}`, "keys out of order: the quotation mark is 0x22, whatever writes it"}, {`{"a":{"b":0,"a":0}}`, "keys out of order, further in"},
		{`{"a":1.0}`, "a fraction"}, {`{"a":1e3}`, "an exponent"}, {`{"a":01}`, "a leading zero"}, {`{"a":-0}`, "minus zero"}, {`{"a":+1}`, "a sign"}, {`{"a":-}`, "no digits"},
		{`{"a":9223372036854775808}`, "above 2^63-1"}, {`{"a":-9223372036854775808}`, "below -(2^63-1)"},
		{`{"a":"\n"}`, "a short escape"}, {`{"a":"\/"}`, "an escape that JSON does not demand"}, {`{"a":"\u0041"}`, "an escaped letter"}, {`{"a":"\u001F"}`, "a hex digit in upper case"},
		{`{"a":"\u0022"}`, "a quotation mark as \\u0022"}, {`{"a":"\ud834\udd1e"}`, "escaped surrogates"}, {`{"a":"\u00`, "cut off in an escape"}, {"{\"a\":\"\t\"}", "a control character that is not escaped"},
		{"{\"a\":\"\xff\"}", "not UTF-8"}, {"{\"a\":\"\xed\xa0\x80\"}", "a surrogate in UTF-8"}, {`{"a":"`, "cut off in a string"}, {`{"a"`, "cut off"}, {`{"a":1,}`, "a comma too many"}, {`{"a":[1,]}`, "a comma too many"}, {`{,}`, "no member"},
		{`{a:1}`, "a key that is no string"}, {`{"a":True}`, "a word that is none"}, {`{"a":tru}`, "a word cut off"}, {deep(33), "33 levels"}, {"\ufeff{}", "byte order mark"},
	}
	return good, bad
}

func TestCanonicalJSON(t *testing.T) {
	good, bad := jsonVectors()
	for _, s := range good {
		if !proof.IsCanonicalJSON([]byte(s)) || !json.Valid([]byte(s)) {
			t.Errorf("%s: refused", s)
		}
	}
	for _, b := range bad {
		if proof.IsCanonicalJSON([]byte(b[0])) {
			t.Errorf("%s (%s): accepted", b[0], b[1])
		}
	}
	input := bigInput()
	if n := testing.AllocsPerRun(10, func() { proof.IsCanonicalJSON(input) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzCanonicalJSON compares with encoding/json: what is canonical is what the
// values and the order of the keys alone would be written as.
func FuzzCanonicalJSON(f *testing.F) {
	good, bad := jsonVectors()
	for _, s := range good {
		f.Add([]byte(s))
	}
	for _, b := range bad {
		f.Add([]byte(b[0]))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		d := json.NewDecoder(bytes.NewReader(in))
		d.UseNumber()
		var v any
		err := d.Decode(&v)
		if !proof.IsCanonicalJSON(in) {
			return
		}
		if err != nil || d.More() {
			t.Fatalf("%q is canonical and no JSON: %v", in, err)
		}
		if out := refJSON(nil, v); !bytes.Equal(in, out) {
			t.Fatalf("%q is canonical, and yet its values are written %q", in, out)
		}
	})
}

// refJSON writes canonical JSON by the letter of section 9, slowly.
func refJSON(b []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		b = append(b, '{')
		for i, k := range sortedKeys(v) {
			if i > 0 {
				b = append(b, ',')
			}
			b = refJSON(append(refJSON(b, k), ':'), v[k])
		}
		return append(b, '}')
	case []any:
		b = append(b, '[')
		for i, x := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = refJSON(b, x)
		}
		return append(b, ']')
	case string:
		b = append(b, '"')
		for _, c := range []byte(v) {
			switch {
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c < 0x20:
				b = fmt.Appendf(b, `\u%04x`, c)
			default:
				b = append(b, c)
			}
		}
		return append(b, '"')
	}
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return append(b, out...)
}

func sortedKeys(m map[string]any) []string {
	var keys []string
	for k := range m {
		at := 0
		for at < len(keys) && keys[at] < k {
			at++
		}
		keys = append(keys[:at], append([]string{k}, keys[at:]...)...)
	}
	return keys
}

// bigInput is a decision input of some 3 kB.
func bigInput() []byte {
	m := map[string]any{"agency": map[string]any{"id": "mairie-lyon", "siret": "21690123100011", "state": "active"}, "time": json.Number("1764000000000"), "has_object": true}
	fields := map[string]any{}
	for i := range 12 {
		var list []any
		for j := range 6 {
			list = append(list, fmt.Sprintf("/data/quotient_familial/part_%02d/valeur_%d", i, j))
		}
		fields[fmt.Sprintf("scope_%02d", i)] = list
	}
	m["service"] = fields
	return refJSON(nil, m)
}

func BenchmarkCanonicalJSON(b *testing.B) {
	input := bigInput()
	b.SetBytes(int64(len(input)))
	b.ReportAllocs()
	for b.Loop() {
		if !proof.IsCanonicalJSON(input) {
			b.Fatal("not canonical")
		}
	}
}
