package portal

import (
	"errors"
	"html/template"
	"strconv"
	"strings"
	"time"

	"github.com/regard-broker/regard/ledger/proof"
	"github.com/regard-broker/regard/ledger/verdict"
)

// row is a line of the history.
type row struct {
	Index     proof.Index
	Kind      proof.Kind
	Epoch     proof.Epoch
	At        time.Time
	Revealed  time.Time // when it could be seen, if it was delayed; zero: at once, or not known
	Status    string
	Who, What string
	From, Why string
	Law       string
	LawURL    string
	Reason    string // of an access
	Target    proof.Index
	Agency    string // tokens, for the check in the browser
	Service   string
	Outcome   string
	Bare      bool // another person's: it leads to no page
}

// columns of a history, in their order: keys of the catalogue.
var columns = [...]string{"column.time", "column.who", "column.what", "column.from", "column.why", "column.outcome"}

// markup writes HTML: its own, and text that it escapes.
type markup struct{ strings.Builder }

func (m *markup) add(own ...string) {
	for _, s := range own {
		m.WriteString(s)
	}
}

func (m *markup) text(s string) { m.WriteString(template.HTMLEscapeString(s)) }

func (m *markup) bdi(s string) {
	m.WriteString("<bdi>")
	m.text(clean(s))
	m.WriteString("</bdi>")
}

func (m *markup) attr(name, value string) {
	if value != "" {
		m.add(" ", name, `="`)
		m.text(value)
		m.WriteByte('"')
	}
}

func (m *markup) html() template.HTML { return template.HTML(m.String()) } // #nosec G203 -- whatever isn't markup of this package went through text

// rowsHTML is a table of lines, cards on a narrow screen; id names its heading, and first one shows its columns. The data of a row are what the check in the browser compares. It isn't a template because a page of a
// long history has to be made in a millisecond: templates take three times as long for its lines.
func (l *language) rowsHTML(id string, rows []row, first bool) template.HTML {
	var m markup
	m.Grow(1024 + 768*len(rows))
	m.add(`<table class="rows`)
	if first {
		m.add(" first")
	}
	m.add(`" role="table"`)
	m.attr("aria-labelledby", id)
	m.add(`><thead role="rowgroup"><tr role="row">`)
	for _, c := range columns {
		m.add(`<th role="columnheader" scope="col">`)
		m.text(l.fixed[c])
		m.add(`</th>`)
	}
	m.add("</tr></thead><tbody role=\"rowgroup\">\n")
	for i := range rows {
		l.rowHTML(&m, &rows[i])
	}
	m.add("</tbody></table>")
	return m.html()
}

func (l *language) rowHTML(m *markup, r *row) {
	index := r.Index.String()
	m.add(`<tr role="row" data-index="`, index, `"`)
	m.attr("data-kind", string(r.Kind))
	m.attr("data-outcome", r.Outcome)
	m.attr("data-agency", r.Agency)
	m.attr("data-service", r.Service)
	at := ""
	if !r.At.IsZero() {
		at = r.At.UTC().Format(time.RFC3339)
	}
	m.attr("data-at", at)
	m.add(`><td role="cell" class="time">`)
	if at == "" {
		m.add("–")
	} else {
		m.add(`<time datetime="`, at, `">`, r.At.Format("15:04"), `</time>`)
	}
	m.add(`</td><td role="cell" class="who">`)
	switch {
	case r.Who != "":
		m.bdi(r.Who)
	case r.Status == "erasure":
		m.text(l.fixed["row.you"])
	default:
		m.add("–")
	}
	m.add(`</td><td role="cell" class="what">`)
	if !r.Bare {
		m.add(`<a href="`, verdict.EntryPath, index, `">`)
	}
	l.what(m, r)
	if !r.Bare {
		m.add(`</a>`)
	}
	m.add(`</td><td role="cell" class="from">`)
	l.labelled(m, "column.from", r.From)
	m.add(`</td><td role="cell" class="why">`)
	l.labelled(m, "column.why", or(r.Why, r.Reason))
	if r.Law != "" {
		m.add(` <span class="law">`)
		if r.LawURL != "" {
			m.add(`<a rel="external noreferrer"`)
			m.attr("href", r.LawURL)
			m.add(">")
		}
		m.bdi(r.Law)
		if r.LawURL != "" {
			m.add("</a>")
		}
		m.add("</span>")
	}
	m.add(`</td><td role="cell" class="outcome">`, string(l.statusHTML(r.Status)))
	if !r.Revealed.IsZero() {
		m.add(` <span class="revealed">`)
		m.text(l.fixed["row.revealed"])
		m.add(` <time datetime="`, r.Revealed.UTC().Format(time.RFC3339), `">`)
		m.text(l.day(r.Revealed))
		m.add(`</time></span>`)
	}
	m.add(" <span class=\"mark\" data-mark></span></td></tr>\n")
}

// what names the data, or what else happened.
func (l *language) what(m *markup, r *row) {
	switch {
	case r.What != "":
		m.bdi(r.What)
	case r.Status == "access", r.Target != 0:
		m.text(l.fixed["row.record"])
	case r.Status == "erasure":
		m.text(l.fixed["row.erasure"])
	default:
		m.text(l.fixed["row.entry"] + "\u00a0" + r.Index.String())
	}
}

func (l *language) labelled(m *markup, key, value string) {
	if value == "" {
		return
	}
	m.add(`<span class="label">`)
	m.text(l.fixed[key])
	m.add(`</span> `)
	m.bdi(value)
}

// fieldHTML is one field of a form, with its label, hint and mistake.
func (l *language) fieldHTML(f field) (template.HTML, error) {
	var m markup
	if f.Type == "hidden" {
		m.add(`<input type="hidden"`)
		m.attr("name", f.Name)
		m.attr("value", f.Value)
		m.add(">")
		return m.html(), nil
	}
	var wrong error
	words := func(open, key, end string) {
		s, err := l.text(key)
		wrong = errors.Join(wrong, err)
		m.add(open)
		m.text(s)
		m.add(end)
	}
	flag := func(name string, set bool) {
		if set {
			m.add(" ", name)
		}
	}
	// named begins an element of the form.
	named := func(element string) { m.add("<", element, ` id="f-`, f.Name, `" name="`, f.Name, `"`) }
	described := func() {
		by := ""
		if f.Hint != "" {
			by = "h-" + f.Name
		}
		if f.Mistake != "" {
			m.add(` aria-invalid="true"`)
			by = strings.TrimSpace("m-" + f.Name + " " + by)
		}
		m.attr("aria-describedby", by)
	}
	limits := func() {
		flag("required", f.Required)
		if f.MaxLength > 0 {
			m.attr("maxlength", strconv.Itoa(f.MaxLength))
		}
		m.attr("autocomplete", f.Autocomplete)
	}
	m.add(`<div class="field`)
	flag("wrong", f.Mistake != "")
	m.add(`">`)
	label := `<label for="f-` + f.Name + `">`
	if f.Type == "checkbox" {
		named("input")
		m.add(` type="checkbox" value="1"`)
		flag("checked", f.Checked)
		described()
		m.add(">")
		words(label, f.Label, "</label>")
	} else {
		words(label, f.Label, "")
		if f.Required {
			words(` <span class="needed">`, "form.required", "</span>")
		}
		m.add("</label>")
	}
	if f.Hint != "" {
		words(`<p class="hint" id="h-`+f.Name+`">`, f.Hint, "</p>")
	}
	if f.Mistake != "" {
		words(`<p class="mistake" id="m-`+f.Name+`">`, f.Mistake, "</p>")
	}
	switch f.Type {
	case "checkbox":
	case "select":
		named("select")
		described()
		m.add(">")
		for _, o := range f.Options {
			m.add(`<option value="`)
			m.text(o.Value)
			m.add(`"`)
			flag("selected", o.Value == f.Value)
			m.add(">")
			m.text(o.Label)
			m.add("</option>")
		}
		m.add("</select>")
	case "textarea":
		named("textarea")
		m.add(` rows="6"`)
		limits()
		described()
		m.add(">")
		m.text(f.Value)
		m.add("</textarea>")
	default:
		named("input")
		m.add(` type="`, f.Type, `" value="`)
		m.text(f.Value)
		m.add(`" dir="auto"`)
		limits()
		described()
		m.add(">")
	}
	m.add("\n</div>")
	return m.html(), wrong
}

// linksHTML are filters as links, by group.
func (l *language) linksHTML(links []filterLink) template.HTML {
	var m markup
	for i, x := range links {
		if i == 0 || x.Group != links[i-1].Group {
			if i > 0 {
				m.add("</ul>")
			}
			m.add(`<p class="group" id="g-`, x.Group, `">`)
			m.text(l.fixed[x.Group])
			m.add(`</p><ul class="chips" aria-labelledby="g-`, x.Group, `">`)
		}
		m.add("<li><a")
		m.attr("href", x.Href)
		if x.Current {
			m.add(` aria-current="true"`)
		}
		m.add(">")
		m.bdi(x.Label)
		if x.Current {
			m.add(` <span class="unseen">`)
			m.text(l.fixed["filter.remove"])
			m.add(`</span><span aria-hidden="true"> ×</span>`)
		}
		m.add("</a></li>")
	}
	if len(links) > 0 {
		m.add("</ul>")
	}
	return m.html()
}

// statusHTML shows an outcome by icon and word.
func (l *language) statusHTML(status string) template.HTML {
	icon := status
	switch status {
	case "erased", "retired":
		icon = "erasure"
	case "damaged", "lost":
		icon = "failed"
	}
	var m markup
	m.add(`<span class="status `, status, `"><svg class="icon" aria-hidden="true" focusable="false"><use href="#i-`, icon, `"/></svg>`)
	m.text(l.fixed["status."+status])
	m.add(`</span>`)
	return m.html()
}
