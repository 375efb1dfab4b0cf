package portal

import (
	"encoding/hex"
	"fmt"
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/broker"
	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// proofShown is a proof in pictures, with the same as tables.
type proofShown struct {
	Paths       []way
	Origin      string
	Size        uint64
	Root        string
	WitnessedAt time.Time
	Witnesses   []string
	Entry       string // its text
	Checkpoint  string
	Epoch       proof.Epoch
	Commitment  string
	RollSize    uint64
	Closed      time.Time
	ReceiptURL  string
	Receipt     string // what is drawn, as it is handed out now: another one later
}

// way is one path from a leaf up to a root.
type way struct {
	ID    string // of its element
	Title string // key of the catalogue: path.<ID>.title, .text
	Start string // hash of the leaf, hexadecimal
	End   string // of the root
	Steps []step
	SVG   template.HTML
	Count int
}

// step is one hash that is joined on the way.
type step struct {
	N    int
	Side string // "left" or "right": where the hash stands beside ours
	Hash string
}

// showProof draws what a receipt proves: from the entry to the root that the witnesses signed, and if it is settled, from the entry to the person's roll, and from the roll to the index of its day.
func (p *Portal) showProof(l *language, rec *broker.OwnRecord) (*proofShown, error) {
	v, r := &rec.Verdict, rec.Receipt
	e := r.Proven()
	text, err := r.AppendText(nil)
	if err != nil {
		return nil, err
	}
	out := &proofShown{
		Origin: v.Origin, Size: v.Size, Root: hex.EncodeToString(v.Root[:]), Entry: string(e.Text), Checkpoint: string(r.Checkpoint()), Epoch: v.Epoch, Commitment: v.Commitment.String(),
		ReceiptURL: "/acces/" + rec.Index.String() + "/preuve", Receipt: string(text),
	}
	for _, w := range v.Witnesses {
		out.Witnesses = append(out.Witnesses, w.Name)
		if t := time.Unix(int64(w.Unix), 0).In(p.zone); w.Unix > 0 && w.Unix < 1<<40 && t.After(out.WitnessedAt) { // #nosec G115 -- bounded
			out.WitnessedAt = t
		}
	}
	paths, err := verdict.Paths(r, v)
	if err != nil {
		return nil, err
	}
	for _, x := range paths {
		w := way{ID: x.ID, Start: x.Start, End: x.End}
		for i, s := range x.Steps {
			w.Steps = append(w.Steps, step{i + 1, map[bool]string{true: "left", false: "right"}[s.Left], s.Hash})
		}
		out.Paths = append(out.Paths, w)
	}
	if v.InRoll {
		out.RollSize, out.Closed = v.RollSize, v.Closed.Time().In(p.zone)
	}
	for i := range out.Paths {
		x := &out.Paths[i]
		x.Title, x.Count = "path."+x.ID+".title", len(x.Steps)
		svg, err := draw(l, x, rec.Index)
		if err != nil {
			return nil, err
		}
		x.SVG = svg
	}
	return out, nil
}

// Measures of a drawing, in units of its own.
const (
	levelHeight = 44
	halfWidth   = 150
	nodeWidth   = 112
	nodeHeight  = 28
)

// draw makes a picture of a path: our own hashes in the middle, from the entry at the bottom to the root at the top, and beside each step the hash that is joined. The same is in the table below it, so the picture has a short description
// and its parts none. Colours are the style sheet's; each step has its number, and the whole the log index, by which a script lights it up.
func draw(l *language, p *way, index proof.Index) (template.HTML, error) {
	title, err := l.text("path." + p.ID + ".title")
	if err != nil {
		return "", err
	}
	about, err := l.text("path."+p.ID+".drawing", "n", p.Count)
	if err != nil {
		return "", err
	}
	start, err := l.text("path." + p.ID + ".start")
	if err != nil {
		return "", err
	}
	end, err := l.text("path." + p.ID + ".end")
	if err != nil {
		return "", err
	}
	height := (len(p.Steps)+1)*levelHeight + nodeHeight + 16
	width := 2*halfWidth + nodeWidth + 16
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="path" data-proof="%d" viewBox="0 0 %d %d" width="%[2]d" height="%[3]d" role="img" aria-labelledby="path-%[4]s-t path-%[4]s-d"><title id="path-%[4]s-t">%[5]s</title><desc id="path-%[4]s-d">%[6]s</desc>`,
		index, width, height, p.ID, template.HTMLEscapeString(title), template.HTMLEscapeString(about))
	x := width / 2
	y := func(level int) int { return height - 8 - nodeHeight - level*levelHeight }
	node := func(class string, cx, top, n int, label string) {
		fmt.Fprintf(&b, `<g class="%s" data-step="%d"><rect x="%d" y="%d" width="%d" height="%d" rx="4"/><text x="%d" y="%d">%s</text></g>`, class, n, cx-nodeWidth/2, top, nodeWidth, nodeHeight, cx, top+19, template.HTMLEscapeString(label))
	}
	for i, s := range p.Steps {
		side := x + halfWidth
		if s.Side == "left" {
			side = x - halfWidth
		}
		fmt.Fprintf(&b, `<path class="edge own" data-step="%d" d="M%d %dV%d"/><path class="edge" d="M%d %dV%dH%d"/>`, i+1, x, y(i), y(i+1)+nodeHeight, side, y(i), y(i)-6, x)
		node("side", side, y(i), i+1, s.Hash[:8])
	}
	node("leaf", x, y(0), 0, start)
	for i := range p.Steps {
		if label := strconv.Itoa(i + 1); i+1 < len(p.Steps) {
			node("join", x, y(i+1), i+1, label)
		}
	}
	if len(p.Steps) > 0 {
		node("root", x, y(len(p.Steps)), len(p.Steps), end)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String()), nil // #nosec G203 -- numbers, hexadecimal digits, and escaped words of the catalogue
}
