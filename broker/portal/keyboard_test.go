package portal_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/regard-broker/regard/broker/portal/browsertest"
)

// keyboard is all that somebody has who uses no mouse. Whatever has the focus has to be seen, and to be seen to have it.
type keyboard struct {
	*browsertest.Page
	t *testing.T
}

func (k keyboard) press(keys string, options ...chromedp.KeyOption) {
	k.t.Helper()
	k.Do(chromedp.KeyEvent(keys, options...))
}

// focus describes what has the focus; empty: nothing has, as at the top of a page. It says what is wrong with how that is shown.
func (k keyboard) focus() string {
	k.t.Helper()
	type focused struct{ Is, Wrong string }
	f := browsertest.Eval[focused](k.Page, `(() => {
		const e = document.activeElement;
		if (!e || e === document.body || e === document.documentElement) return { Is: "", Wrong: "" };
		const r = e.getBoundingClientRect(), s = getComputedStyle(e);
		const inside = r.width > 0 && r.height > 0 && r.bottom > 0 && r.right > 0 && r.top < innerHeight && r.left < innerWidth;
		// A link that goes on in the next line doesn't fill the rectangle around it.
		const line = [...e.getClientRects()].find((l) => l.width > 0 && l.height > 0) ?? r;
		const x = Math.min(Math.max(line.left + line.width / 2, 0), innerWidth - 1), y = Math.min(Math.max(line.top + Math.min(line.height / 2, 12), 0), innerHeight - 1);
		const hit = document.elementFromPoint(x, y);
		const wrong = [];
		if (!e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) || !inside) wrong.push("it is not on the screen");
		else if (!hit || !(e.contains(hit) || hit.contains(e))) wrong.push("it lies under " + hit?.outerHTML.slice(0, 80));
		if (s.outlineStyle === "none" || parseFloat(s.outlineWidth) < 2) wrong.push("nothing shows that it has the focus");
		return { Is: e.outerHTML.slice(0, 120), Wrong: wrong.join(", ") };
	})()`)
	if f.Wrong != "" {
		k.t.Errorf("%s: %s: %s", browsertest.Eval[string](k.Page, "location.pathname"), f.Is, f.Wrong)
	}
	return f.Is
}

// shift makes Tab go back.
var shift = chromedp.KeyModifiers(chromedp.ModifierShift)

// to presses Tab until what a CSS selector names has the focus.
func (k keyboard) to(css string, options ...chromedp.KeyOption) {
	k.t.Helper()
	for range 200 {
		k.press(kb.Tab, options...)
		if k.focus() == "" {
			k.t.Fatalf("the focus was lost on the way to %s", css)
		}
		if browsertest.Eval[bool](k.Page, fmt.Sprintf("document.activeElement.matches(%q)", css)) {
			return
		}
	}
	k.t.Fatalf("%s can't be reached", css)
}

// at waits for a page that says so much.
func (k keyboard) at(path, and string) {
	k.t.Helper()
	k.Wait(fmt.Sprintf(`location.pathname.startsWith(%q) && document.readyState === "complete" && (%s)`, path, and))
}

// TestKeyboard: from the history to a contest that is sent, with Tab, Enter and Space, and what is written; and through each of these pages from end to end and back.
func TestKeyboard(t *testing.T) {
	w, origin, _ := openSite(t)
	entry := w.disclose("mairie", canteen(camille))
	w.disclose("mairie", canteen(camille))
	w.published(entry)
	w.turn()
	k := keyboard{browsertest.Open(t, origin), t}
	const checked = `!["unverified", "checking"].includes(document.querySelector("#verdict").dataset.state)`
	k.Goto(origin + "/entrer")
	k.Goto(origin + "/historique?lang=fr")
	k.at("/historique", checked)
	if got := k.focus(); got != "" {
		t.Errorf("the page takes the focus to %s", got)
	}
	// Past the heads of the page.
	k.press(kb.Tab)
	if got := k.focus(); !strings.Contains(got, `class="skip"`) {
		t.Errorf("the first is %s", got)
	}
	k.press(kb.Enter)
	k.Wait(`document.activeElement.id === "contenu"`)
	k.press(kb.Tab)
	if k.focus(); !browsertest.Eval[bool](k.Page, `document.querySelector("main").contains(document.activeElement)`) {
		t.Error("what follows isn't in the page's own part")
	}
	// Another language, going back, and this one again. In a page that was just loaded the first Tab leads to its beginning.
	k.to(`.languages a[hreflang="en"]`, shift)
	for i, lang := range []string{"en", "fr"} {
		if i > 0 {
			k.to(`.languages a[hreflang="` + lang + `"]`)
		}
		k.press(kb.Enter)
		k.at("/historique", `document.documentElement.lang === "`+lang+`" && `+checked)
	}
	// What the verdict has to say is in folds.
	k.to("#verdict summary")
	k.press(" ")
	k.Wait(`document.activeElement.parentElement.open`)
	k.press(kb.Enter)
	k.Wait(`!document.activeElement.parentElement.open`)
	// The filters.
	k.to(".filters summary")
	k.press(kb.Enter)
	k.Wait(`document.querySelector(".filters").open`)
	k.to("#f-q")
	k.press("cantine")
	k.to("#f-issue")
	was := k.focus()
	k.press(kb.Tab, shift)
	if got := k.focus(); got == was {
		t.Error("there is no way back")
	}
	k.to("#f-issue")
	k.press("Tr") // the first letters of a choice
	k.Wait(`document.activeElement.value === "released"`)
	k.to(".filters button")
	k.press(" ")
	k.at("/historique", `location.search.includes("q=cantine") && location.search.includes("issue=released") && `+checked)
	if n := browsertest.Eval[int](k.Page, `document.querySelectorAll("#acces tbody tr").length`); n != 2 {
		t.Errorf("%d lines are found", n)
	}
	// An entry, and the form by which it is contested.
	link := `#acces tr[data-index] a[href="/acces/` + entry.String() + `"]`
	k.to(link)
	k.press(kb.Enter)
	k.at("/acces/"+entry.String(), checked)
	k.to("details.proof > summary")
	k.press(" ")
	k.Wait(`document.querySelector("details.proof").open`)
	k.Goto(origin + "/acces/" + entry.String())
	k.at("/acces/", checked)
	k.to(`a[href="/contester/` + entry.String() + `"]`)
	k.press(kb.Enter)
	k.at("/contester/", "document.querySelector('#f-texte')")
	k.to("#f-texte")
	k.press("Je conteste. ")
	k.to("form[action^='/contester/'] button") // a field doesn't keep the focus
	k.press(" ")
	k.at("/contestations/", `document.querySelector("[role=status]")`)
	if got := k.Text(".letter"); !strings.Contains(got, "Je conteste.") {
		t.Errorf("it says %q", got)
	}
	contest := browsertest.Eval[string](k.Page, "location.pathname")

	// From end to end nothing keeps the focus, or has none.
	for _, path := range []string{"/historique", "/acces/" + entry.String(), contest, "/contester/" + entry.String(), "/notifications/reglages"} {
		k.Goto(origin + path)
		k.at(path, `!document.querySelector("#verdict") || `+checked)
		browsertest.Eval[bool](k.Page, `document.querySelectorAll("details").forEach((d) => d.open = true), true`)
		const last = `footer li:last-child a`
		k.to(last)
		browsertest.Eval[bool](k.Page, `(globalThis.met = new Set(), true)`)
		for range 300 {
			if k.focus() == "" {
				t.Errorf("%s: on the way back the focus was lost", path)
				break
			}
			browsertest.Eval[bool](k.Page, `met.add(document.activeElement), true`)
			if browsertest.Eval[bool](k.Page, `document.activeElement.matches(".skip")`) {
				break
			}
			k.press(kb.Tab, shift)
		}
		reached := browsertest.Eval[int](k.Page, `met.size`)
		if missed := browsertest.Eval[[]string](k.Page, `[...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']")].filter((e) => e.checkVisibility() && !met.has(e) && !(e.type === "radio" && !e.checked)).map((e) => e.outerHTML.slice(0, 120))`); len(missed) > 0 || reached < 10 {
			t.Errorf("%s: %d are reached with the keyboard, and not:\n%s", path, reached, strings.Join(missed, "\n"))
		}
	}
}
