package config

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/maps"
	"github.com/knadh/koanf/v2"
	"go.yaml.in/yaml/v3"
)

// flat is a koanf.Provider of values by their dotted key.
type flat map[string]any

func (f flat) ReadBytes() ([]byte, error) { return nil, errors.New("not supported") }

func (f flat) Read() (map[string]any, error) { return maps.Unflatten(f, "."), nil }

// known lists every key of a Config; those of sections, too.
var known, lists = func() (keys, lists map[string]bool) {
	keys, lists = map[string]bool{}, map[string]bool{}
	var walk func(t reflect.Type, at string)
	walk = func(t reflect.Type, at string) {
		for i := range t.NumField() {
			f := t.Field(i)
			name := f.Tag.Get("koanf")
			if name == "-" { // a flag of one start
				continue
			}
			key := at + name
			keys[key], lists[key] = f.Type.Kind() != reflect.Struct, f.Type.Kind() == reflect.Slice
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type, key+".")
			}
		}
	}
	walk(reflect.TypeFor[Config](), "")
	return keys, lists
}()

// parseFile flattens a YAML file, notes the line of each key, and refuses what Config doesn't know.
func parseFile(text []byte, at map[string]int, found *Mistakes) map[string]any {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		found.add("", 0, "is not YAML: "+strings.TrimPrefix(err.Error(), "yaml: "), "correct the file")
		return nil
	}
	out := map[string]any{}
	if len(doc.Content) == 0 {
		return out
	}
	var walk func(n *yaml.Node, prefix string)
	walk = func(n *yaml.Node, prefix string) {
		if n.Kind != yaml.MappingNode {
			found.add(strings.TrimSuffix(prefix, "."), n.Line, "is not a section", "write it as key: value, indented")
			return
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, v := n.Content[i], n.Content[i+1]
			key := prefix + name.Value
			isLeaf, ok := known[key]
			switch {
			case !ok:
				found.add(key, name.Line, "is not a known key", nearest(key))
				continue
			case at[key] != 0:
				found.add(key, name.Line, "stands there twice", "keep one (the first is on line "+strconv.Itoa(at[key])+")")
				continue
			}
			at[key] = name.Line
			switch {
			case v.Kind == yaml.ScalarNode && v.Tag == "!!null":
			case v.Kind == yaml.SequenceNode && lists[key]:
				out[key] = listOf(key, v, found)
			case v.Kind == yaml.ScalarNode && isLeaf && !lists[key]:
				out[key] = v.Value
			case v.Kind == yaml.MappingNode && !isLeaf:
				walk(v, key+".")
			case lists[key]:
				found.add(key, v.Line, "has to be a list", "write "+key+": [one, another]")
			case isLeaf:
				found.add(key, v.Line, "has to be one value", "write "+key[strings.LastIndexByte(key, '.')+1:]+": value")
			default:
				found.add(key, v.Line, "is a section", "write its keys below it, indented")
			}
		}
	}
	walk(doc.Content[0], "")
	return out
}

func listOf(key string, n *yaml.Node, found *Mistakes) []string {
	var out []string
	for _, v := range n.Content {
		if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
			found.add(key, v.Line, "has an element that is not one value", "write "+key+": [one, another]")
			continue
		}
		out = append(out, v.Value)
	}
	return out
}

// valueOf is a value from the environment or a flag; lists are separated by commas.
func valueOf(key, text string) any {
	if lists[key] {
		return strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
	}
	return text
}

// nearest proposes the known key with the same last word, or lists the section's.
func nearest(key string) string {
	section, last := "", key
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		section, last = key[:i+1], key[i+1:]
	}
	var siblings []string
	for k := range known {
		rest, ok := strings.CutPrefix(k, section)
		if ok && !strings.Contains(rest, ".") {
			siblings = append(siblings, rest)
		}
		if strings.HasSuffix(k, "."+last) && !ok {
			return "did you mean " + k + "? Else remove it"
		}
	}
	if len(siblings) == 0 {
		return "remove it"
	}
	slices.Sort(siblings)
	return "remove it; known here: " + strings.Join(siblings, ", ")
}

// notOurs are variables that begin with REGARD_ and mean something else.
var notOurs = []string{"REGARD_CONFIG", "REGARD_CASES", "REGARD_DEVVAULT", "REGARD_TRILLIAN", "REGARD_LITEWITNESS", "REGARD_DEVOIDC", "REGARD_VERIFIER", "REGARD_AXE", "REGARD_SCREENSHOTS"}

// envName of a key: api.listen is REGARD_API_LISTEN.
func envName(key string) string {
	return "REGARD_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

func fromEnviron(environ []string, found *Mistakes) map[string]any {
	keys := map[string]string{}
	for k, leaf := range known {
		if leaf {
			keys[envName(k)] = k
		}
	}
	out := map[string]any{}
	for _, e := range environ {
		name, value, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "REGARD_") || slices.Contains(notOurs, name) {
			continue
		}
		key, ok := keys[name]
		if !ok {
			found.add(name, 0, "is not a known variable of the environment", "unset it; a key a.b_c is named REGARD_A_B_C")
			continue
		}
		out[key], found.from[key] = valueOf(key, value), name
	}
	return out
}

func fromFlags(set []string, found *Mistakes) map[string]any {
	out := map[string]any{}
	for _, s := range set {
		key, value, ok := strings.Cut(s, "=")
		switch {
		case !ok:
			found.add("--set "+key, 0, "has no value", "write --set key=value")
		case !known[key]:
			found.add("--set "+key, 0, "is not a known key", nearest(key))
		default:
			out[key], found.from[key] = valueOf(key, value), "--set "+key
		}
	}
	return out
}

// decode fills c; what doesn't fit becomes a mistake. Values come as text, so numbers and booleans are parsed here, and strictly.
func decode(k *koanf.Koanf, c *Config, found *Mistakes) {
	for key, leaf := range known {
		if !leaf || !k.Exists(key) {
			continue
		}
		one := koanf.New(".")
		if err := one.Set(key, k.Get(key)); err != nil {
			found.add(key, 0, "can't be read", "correct it")
			continue
		}
		err := one.UnmarshalWithConf("", c, koanf.UnmarshalConf{Tag: "koanf", DecoderConfig: &mapstructure.DecoderConfig{
			Result: c, TagName: "koanf", WeaklyTypedInput: true, DecodeHook: mapstructure.TextUnmarshallerHookFunc(),
		}})
		if err != nil {
			found.add(key, 0, wanted(key), "correct the value")
			found.unfit[key] = true
		}
	}
}

// wanted says which type a key has. The decoder's own message would repeat the value, which may be a secret in the wrong place.
func wanted(key string) string {
	t := reflect.TypeFor[Config]()
	for _, name := range strings.Split(key, ".") {
		for i := range t.NumField() {
			if t.Field(i).Tag.Get("koanf") == name {
				t = t.Field(i).Type
				break
			}
		}
	}
	switch {
	case t == reflect.TypeFor[Duration]():
		return "has to be a duration such as 90s, 10m or 24h"
	case t == reflect.TypeFor[Size]():
		return "has to be a size such as 65536, 64KiB or 1MiB"
	case t.Kind() == reflect.Bool:
		return "has to be true or false"
	case t.Kind() == reflect.Int, t.Kind() == reflect.Int64:
		return "has to be a whole number"
	case t.Kind() == reflect.Float64:
		return "has to be a number"
	}
	return "has the wrong form"
}
