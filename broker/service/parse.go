package service

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Format is the first name of the definition's form; another form gets another name.
const Format = "regard/service@v1"

// MaxDefinition bounds a definition's file, in bytes.
const MaxDefinition = 256 << 10

// maxFaults bounds how many faults one error lists.
const maxFaults = 20

// Parse reads one definition: YAML without unknown or repeated keys, aliases or a second document. The error wraps ErrDefinition and lists the faults with their lines.
func Parse(file []byte) (*Definition, error) {
	if len(file) > MaxDefinition {
		return nil, fmt.Errorf("%w: %d bytes, at most %d", ErrDefinition, len(file), MaxDefinition)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(file, &root); err != nil {
		return nil, yamlError(err)
	}
	if line := aliasLine(&root); line > 0 {
		return nil, fmt.Errorf("%w: line %d: anchors and aliases are not allowed: write the value out", ErrDefinition, line)
	}
	dec := yaml.NewDecoder(bytes.NewReader(file))
	dec.KnownFields(true)
	d := new(Definition)
	if err := dec.Decode(d); err != nil {
		return nil, yamlError(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one document", ErrDefinition)
	}
	c := checker{root: &root}
	s := c.definition(d)
	if err := c.err(); err != nil {
		return nil, err
	}
	d.digest, d.schema = sha256.Sum256(file), s
	return d, nil
}

// Validate checks a definition that was built or changed in code, with the same rules as Parse but without lines.
func (d *Definition) Validate() error {
	var c checker
	c.definition(d)
	return c.err()
}

func yamlError(err error) error {
	var t *yaml.TypeError
	if errors.As(err, &t) {
		return fmt.Errorf("%w: %s", ErrDefinition, strings.Join(t.Errors, "; "))
	}
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: line 1: the file is empty", ErrDefinition)
	}
	return fmt.Errorf("%w: %s", ErrDefinition, strings.TrimPrefix(err.Error(), "yaml: "))
}

func aliasLine(n *yaml.Node) int {
	if n.Kind == yaml.AliasNode || n.Anchor != "" {
		return n.Line
	}
	for _, c := range n.Content {
		if l := aliasLine(c); l > 0 {
			return l
		}
	}
	return 0
}

// checker collects faults with the lines where they stand.
type checker struct {
	root   *yaml.Node
	faults []fault
}

type fault struct {
	line int
	text string
}

// fail notes a fault at a path of map keys (string) and list positions (int).
func (c *checker) fail(path []any, format string, args ...any) {
	var name strings.Builder
	for _, p := range path {
		switch p := p.(type) {
		case int:
			fmt.Fprintf(&name, "[%d]", p)
		default:
			if name.Len() > 0 {
				name.WriteByte('.')
			}
			fmt.Fprint(&name, p)
		}
	}
	c.faults = append(c.faults, fault{c.line(path), name.String() + ": " + fmt.Sprintf(format, args...)})
}

// line finds the deepest node along path.
func (c *checker) line(path []any) int {
	if c.root == nil || len(c.root.Content) == 0 {
		return 0
	}
	n := c.root.Content[0]
	line := n.Line
	for _, p := range path {
		var next *yaml.Node
		switch p := p.(type) {
		case int:
			if n.Kind == yaml.SequenceNode && p < len(n.Content) {
				next = n.Content[p]
				line = next.Line
			}
		default:
			key := fmt.Sprint(p)
			for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == key {
					next, line = n.Content[i+1], n.Content[i].Line
				}
			}
		}
		if next == nil {
			return line
		}
		n = next
	}
	return line
}

func (c *checker) err() error {
	if len(c.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(c.faults, func(a, b fault) int { return a.line - b.line })
	var text strings.Builder
	for i, f := range c.faults {
		if i == maxFaults {
			fmt.Fprintf(&text, "; and %d more", len(c.faults)-i)
			break
		}
		if i > 0 {
			text.WriteString("; ")
		}
		if f.line > 0 {
			text.WriteString("line " + strconv.Itoa(f.line) + ": ")
		}
		text.WriteString(f.text)
	}
	return fmt.Errorf("%w: %s", ErrDefinition, text.String())
}
