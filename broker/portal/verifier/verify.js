// Verifies the history that a page shows, in a worker, and says on the page what came of it. See docs/verifier.md for the markup.
//
// Nothing is green before the worker has finished, and whatever goes wrong on the way ends in "not verified", never in silence. Worker and verifier are those beside this script, of one hash with it: what the
// page says of them doesn't count. So are the words, but for a page that maps their import: then another script has the say.

import words from "./words.js";

const icons = {
  checking: "M12 3a9 9 0 1 0 9 9",
  proven: "M4 13l5 5L20 6",
  limited: "M4 13l5 5L20 6M14 19h6",
  provisional: "M12 4a8 8 0 1 0 0 16a8 8 0 0 0 0-16M12 8v4l3 3",
  unverified: "M9 9a3 3 0 1 1 4 3c-1 .5-1 1-1 2M12 18h.01",
  refuted: "M6 6l12 12M18 6L6 18",
};

function element(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

function icon(state) {
  const ns = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(ns, "svg");
  const path = document.createElementNS(ns, "path");
  for (const [k, v] of Object.entries({ viewBox: "0 0 24 24", width: 24, height: 24, fill: "none", stroke: "currentColor", "stroke-width": 2, "aria-hidden": "true" })) svg.setAttribute(k, v);
  path.setAttribute("d", icons[state]);
  svg.append(path);
  return svg;
}

const list = (items) => element("ul", {}, ...items.map((i) => element("li", {}, i)));

const fold = (title, ...children) => element("details", {}, element("summary", {}, title), ...children);

/** A fold that is open where there is room. */
function wide(...parts) {
  const d = fold(...parts);
  d.open = matchMedia("(min-width: 52.01rem)").matches;
  return d;
}

const facts = (items) => element("dl", {}, ...items.flatMap(({ name, value }) => [element("dt", {}, name), element("dd", {}, value)]));

/** A limit; of one that sound histories don't have a word says so. */
const limit = ({ text, lift, kind }, worry) =>
  element("li", { "data-limit": kind }, ...(kind === "standing" ? [] : [element("strong", {}, worry), " "]), text, ...(lift ? [" ", element("span", { class: "verdict-lift" }, lift)] : []));

// What an honest list consists of; filters are left out of account.
const ofList = new Set("a bdi code div h1 h2 h3 h4 h5 h6 li nav p section span strong svg table tbody td th thead time tr ul use".split(" "));
const ofRow = new Set("a bdi span svg td time use".split(" "));
const ofFact = new Set("a bdi br code span time".split(" "));
const ofStatus = new Set([...ofFact, "svg", "use"]);
const attributes = new Set("class datetime focusable href id rel role scope".split(" "));
const ofHeading = new Set(["time"]);
const heading = /^H[1-6]$/;

/** Whether an element stands where it can be seen, with room for what is in it. What styles do beyond that isn't judged. */
function seen(e, width, height) {
  const r = e.getBoundingClientRect();
  // Browsers of before 2024 know the first two by other names.
  const rules = { opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true, checkOpacity: true, checkVisibilityCSS: true };
  return e.checkVisibility(rules) && r.width >= width && r.height >= height && r.right + scrollX > 0 && r.bottom + scrollY > 0;
}

/** Whether somebody who opens the folds around an element can see it. */
function reachable(e) {
  if (!e.closest("details")) return seen(e, 2, 2);
  for (let a = e; a && a !== document.body; a = a.parentElement) {
    const s = getComputedStyle(a);
    if (s.display === "none" || s.visibility !== "visible" || Number(s.opacity) === 0 || /^(absolute|fixed)$/.test(s.position) || s.clipPath !== "none") return false;
  }
  return true;
}

// What roles the parts of a list have, if any. Some others make what is in them unheard.
const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TH: "columnheader", TD: "cell" };

/** Whether an element has what no honest one has: it is read aloud in another way than it looks or not at all, or it lies elsewhere than it stands. */
function odd(e) {
  const own = ({ name, value }) => (e.localName === "svg" && name === "aria-hidden") || (e.localName === "table" && name === "aria-labelledby" && value === e.previousElementSibling?.id && document.getElementById(value) === e.previousElementSibling);
  return [...e.attributes].some((a) => !(attributes.has(a.name) || a.name.startsWith("data-") || own(a)) || (a.name === "role" && a.value !== roles[e.tagName]));
}

/** Whether an element around what is shown keeps it from those to whom pages are read. */
function silenced(e) {
  for (; e; e = e.parentElement) if (e.hasAttribute("inert") || (e.ariaHidden ?? "false") !== "false" || (e.hasAttribute("role") && e.getAttribute("role") !== roles[e.tagName])) return true;
  return false;
}

// What has no look of its own, though it is written: white space, characters that format others, marks that stand over others, and the letters of Hangul that are drawn into others.
const blank = /^[\s\p{Cf}\p{M}\p{Default_Ignorable_Code_Point}\u1160-\u11ff\ud7b0-\ud7ff]*$/u;

/** Whether the text in an element is there for whoever looks at it; in a row but for marks and labels, which stand in the heads of columns. */
function readable(root, except = null) {
  const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  for (let text = texts.nextNode(); text; text = texts.nextNode()) {
    const aside = except && text.parentElement.closest(except);
    if (blank.test(text.data) || (aside && aside !== root && root.contains(aside))) continue;
    range.selectNodeContents(text);
    const { width, height } = range.getBoundingClientRect();
    if (width < 1 || height < 4) return false; // not drawn, whatever is in its place
    for (let e = text.parentElement; ; e = e.parentElement) {
      if (!seen(e, 2, 4)) return false;
      if (e === root) break;
    }
  }
  return true;
}

/** Elements below one that aren't of these. */
const others = (root, tags) => [...root.querySelectorAll("*")].filter((e) => !tags.has(e.localName) || (e.namespaceURI !== root.namespaceURI && !/^(svg|use)$/.test(e.localName)) || e.shadowRoot || (e.localName === "use" && !e.getAttribute("href")?.startsWith("#")));

const isTable = (t) => t.children.length === 2 && t.tHead?.rows.length === 1 && t.tBodies.length === 1 && t.tHead.children.length === 1 && [...t.tHead.rows[0].children].every((c) => c.localName === "th") && [...t.tBodies[0].children].every((c) => c.localName === "tr");

/** What can be read in a cell: its text, but for the mark that is put there. */
function read(cell) {
  const copy = cell.cloneNode(true);
  for (const mark of copy.querySelectorAll("[data-mark]")) mark.remove();
  return copy.textContent;
}

const number = (text) => (/^(0|[1-9]\d{0,15})$/.test(text ?? "") && Number.isSafeInteger(Number(text)) ? Number(text) : null);

function readRow(row) {
  const { dataset: d } = row;
  const table = row.closest("table");
  const cells = [...(row.cells ?? [])];
  const above = table?.previousElementSibling;
  const dated = above && heading.test(above.tagName) && ![above, ...above.children].some(odd) && !others(above, ofHeading).length && seen(above, 8, 8) && readable(above);
  const heads = [...(table?.tHead?.rows[0]?.cells ?? [])].map((c) => c.textContent.trim());
  let hidden = !cells.every((c) => readable(c, "[data-mark], .label"));
  for (let e = row; !hidden && e && e !== document.body; e = e.parentElement) hidden = !seen(e, 16, 8);
  const unheard = [row, ...row.querySelectorAll("*")].some(odd) || silenced(row.parentElement);
  const strange = unheard || row.localName !== "tr" || others(row, ofRow).length > 0 || row.children.length !== cells.length || cells.some((c, i) => [...c.querySelectorAll(".label")].some((l) => l.textContent.trim() !== heads[i]));
  return {
    index: number(d.index),
    agency: d.agency ?? "",
    service: d.service ?? "",
    outcome: d.outcome ?? "",
    at: d.at ?? "",
    day: dated ? above.textContent : "",
    open: "open" in (above?.dataset ?? {}),
    cells: cells.map(read),
    links: cells.map((c) => [...c.querySelectorAll("a")].map((a) => a.getAttribute("href") ?? "").join(" ")),
    hidden,
    strange,
  };
}

// Where a history is shown by pages. Any other page with a list shows all of its file.
const paged = "/historique";

/** Which part of the history the page has to show, as its address says; null: all of it. */
function readView() {
  if (location.pathname !== paged) return null;
  const query = new URLSearchParams(location.search);
  const view = Object.fromEntries(["agence", "donnee", "issue", "q", "du", "au", "page", "vue"].map((name) => [name, query.get(name) ?? ""]));
  // What the server may read in another way.
  return { ...view, unclear: /;|%(?![0-9a-f]{2})/i.test(location.search) || Object.values(view).join().includes("\ufffd") };
}

// Where a history of some days is shown.
const ofDays = "/releve";

/** The days for which the page was asked, as its address says; null: up to now. */
function readDays() {
  if (location.pathname !== ofDays) return null;
  const query = new URLSearchParams(location.search);
  return { du: query.get("du") ?? "", au: query.get("au") ?? "" };
}

/** Elements that look like a list, or like facts, elsewhere than where they are compared. */
const elsewhere = (at) => [...document.querySelectorAll("table, tr, td, [data-index], [data-fact], [role=table], [role=grid], [role=row], [role=cell]")].filter((e) => !at.contains(e));

/** What the page shows, as its markup says, and whatever looks like a row. */
function readPage(at, lang) {
  const rows = [...at.querySelectorAll("tbody > tr, [data-index]")];
  const tables = [...at.querySelectorAll("table")];
  const filters = at.querySelectorAll("details.filters");
  const strange = others(at, ofList).filter((e) => ![...filters].some((f) => f.contains(e))).length + (filters.length > 1) + tables.filter((t) => !isTable(t) || [t, t.tHead, ...t.tHead.querySelectorAll("*"), ...t.tBodies].some(odd)).length;
  const page = {
    lang,
    of: at.dataset.of ?? "",
    rows: rows.map((row) => readRow(row)),
    view: readView(),
    marker: number(at.dataset.marker),
    heads: tables.map((t) => [...(t.tHead?.rows[0]?.cells ?? [])].map((c) => c.textContent)),
    strange: strange + elsewhere(at).length,
  };
  return [page, rows];
}

/** The entry whose page this is, as its address says; null: it is a list. */
const readEntry = () => number(location.pathname.match(/^\/acces\/(\d+)$/)?.[1]);

/** What the page of one access shows: each fact in its order, whatever looks like one, and the drawings of its proof. */
function readRecord(at, lang) {
  const { dataset: d } = at;
  const facts = [...at.querySelectorAll("[data-fact], dd")].map((e) => {
    const label = [];
    if (e.tagName === "DD") for (let t = e.previousElementSibling; t && t.tagName !== "DD"; t = t.previousElementSibling) label.unshift(t.textContent);
    const folded = e.closest("details") !== null;
    const links = [...e.querySelectorAll("a")].map((a) => a.getAttribute("href"));
    const within = [...e.querySelectorAll("*")];
    // What is folded has no size before it is opened.
    const hidden = !reachable(e) || !(folded ? within.every(reachable) : readable(e)) || silenced(e) || [e, ...within].some(odd) || others(e, e.dataset.fact === "status" ? ofStatus : ofFact).length > 0;
    return { key: e.dataset.fact ?? "", label: label.join(" "), text: folded ? read(e) : e.innerText, link: links.join(" "), folded, hidden };
  });
  const ways = [...at.querySelectorAll(".way")].map((way) => ({
    id: way.dataset.way ?? "",
    drawn: [...way.querySelectorAll("svg text")].map((t) => t.textContent),
    table: [...way.querySelectorAll("td")].map((t) => t.textContent),
  }));
  const record = { index: number(d.record), agency: d.agency ?? "", service: d.service ?? "", outcome: d.outcome ?? "", facts, ways, receipt: d.receipt ?? "" };
  return [{ lang, of: d.of ?? "", rows: [], view: null, marker: null, heads: [], strange: elsewhere(at).length, record }, [at]];
}

/** Lights the drawings of a proof, from the entry up and step by step; all at once for people who want nothing to move, and if something is wrong. */
function light(at, state) {
  for (const svg of at.querySelectorAll("svg[data-proof]")) {
    const parts = [...svg.querySelectorAll("[data-step]")];
    const last = Math.max(0, ...parts.map((p) => Number(p.dataset.step)));
    let timer;
    const upTo = (n) => {
      for (const p of parts) if (Number(p.dataset.step) <= n) p.dataset.lit = state;
      if (n >= last) svg.dataset.lit = state;
      else timer = setTimeout(() => upTo(n + 1), 120);
    };
    const moves = state === "verified" && !matchMedia("(prefers-reduced-motion: reduce)").matches;
    upTo(last);
    const fold = svg.closest("details");
    // It moves when it is looked at.
    const begin = () => {
      if (!moves || (fold && !fold.open)) return;
      clearTimeout(timer);
      for (const p of [svg, ...parts]) delete p.dataset.lit;
      upTo(0);
    };
    fold?.addEventListener("toggle", begin, { once: true });
    if (!fold || fold.open) begin();
  }
}

// What this browser remembers of the log, and nothing of the person: without it, or if it may not, nothing is compared.
const memory = {
  key: "regard:log",
  read() {
    try {
      const seen = JSON.parse(localStorage.getItem(this.key));
      return typeof seen === "object" ? seen : null;
    } catch {
      return null;
    }
  },
  write(seen) {
    try {
      if (seen?.policy) localStorage.setItem(this.key, JSON.stringify(seen));
    } catch {
      // A private window, or one that keeps nothing.
    }
  },
};

// How often, and after how many milliseconds, a file is fetched again that ends before the page does, or is of a smaller tree than was seen before: witnesses, or another broker, may be about to confirm more.
const again = { times: 6, wait: 3000 };

class Verdict {
  constructor(root) {
    this.root = root;
    this.lang = Object.hasOwn(words, root.dataset.lang) ? root.dataset.lang : "fr";
    this.words = words[this.lang];
    this.title = element("strong", { class: "verdict-title" });
    this.sentence = element("p", { role: "status" });
    this.band = element("div", { class: "verdict-band" }, this.title, " ", this.sentence);
    this.body = element("div", { class: "verdict-body" });
    root.replaceChildren(this.band, this.body);
    this.list = document.getElementById(root.dataset.list);
  }

  state(state, title, sentence, ...body) {
    this.root.dataset.state = state;
    this.band.querySelector("svg")?.remove();
    this.band.prepend(icon(state));
    this.title.textContent = title;
    this.sentence.textContent = sentence;
    this.body.replaceChildren(...body);
  }

  start(tries = 0, shown = null) {
    const { maxAge } = this.root.dataset;
    const { lang, words: w } = this;
    const progress = element("progress", { "aria-label": w.checking });
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) progress.value = 0; // one without a value moves
    const size = new Intl.NumberFormat(lang, { style: "unit", unit: "kilobyte", maximumFractionDigits: 0 });
    const count = element("p", { class: "verdict-progress" }, w.download);
    this.state("checking", "", w.checking, progress, count);
    let job;
    const end = (show) => {
      job?.terminate();
      show();
      this.root.dispatchEvent(new CustomEvent("regard:verdict", { bubbles: true, detail: { state: this.root.dataset.state } }));
    };
    // What is to be compared follows from the address, which the server can't write: the one access that it names, or else a list.
    const entry = readEntry();
    const files = this.files();
    if (!files || !this.list || number(this.list.dataset.record) !== entry || (entry === null && "record" in this.list.dataset) || !(Number(maxAge) > 0)) {
      // It isn't there: nothing may be said of it.
      end(() => this.notVerified("verifier"));
      return;
    }
    try {
      if (typeof WebAssembly?.instantiateStreaming !== "function" || typeof Element.prototype.checkVisibility !== "function") throw new Error("too old");
      job = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    } catch {
      end(() => this.notVerified("browser"));
      return;
    }
    // A file that is fetched again is compared with the same page: the browser may have translated it meanwhile.
    shown ??= entry === null ? readPage(this.list, lang) : readRecord(this.list, lang);
    const [page, rows] = shown;
    job.onerror = (e) => {
      e.preventDefault();
      end(() => this.notVerified("verifier"));
    };
    job.onmessage = ({ data }) => {
      if (data.cause) end(() => this.notVerified(data.cause));
      else if ((data.report?.cause === "behind" || data.report?.smaller) && tries < again.times) {
        job.terminate();
        setTimeout(() => this.start(tries + 1, shown), again.wait);
      } else if (data.report) end(() => this.report(data, rows));
      else if (data.got) {
        const [got, of] = [data.got, data.of].map((n) => size.format(Math.ceil(n / 1000)));
        if (data.of) [progress.max, progress.value] = [data.of, data.got];
        count.textContent = (data.of ? w.received : w.coming).replace("{got}", got).replace("{of}", of);
      } else if (data.of) {
        progress.max = data.of;
        progress.value = data.done;
        count.textContent = w.progress.replace("{done}", data.done).replace("{of}", data.of);
      }
    };
    job.postMessage({
      ...files,
      page,
      options: { lang, now: Date.now(), maxAge: Number(maxAge), asked: readDays(), seen: memory.read() },
    });
  }

  /** Where the files are; null if the page names one by what is no address. */
  files() {
    try {
      return Object.fromEntries(["bundle", "policy", "names"].map((name) => [name, new URL(this.root.dataset[name], document.baseURI).href]));
    } catch {
      return null;
    }
  }

  /** Another file is only compared with another page: somebody may have erased or attached something since, or somebody else have signed in. */
  retry() {
    const button = element("button", { type: "button" }, this.words.retry);
    button.addEventListener("click", () => location.reload());
    return button;
  }

  notVerified(cause) {
    this.show({ ...(this.words.causes[cause] ?? this.words.causes.verifier), state: "unverified" }, [this.retry()]);
  }

  report(data, rows) {
    const { report, whose, page, seen } = data;
    const known = memory.read() !== null;
    memory.write(seen);
    (report.rows ?? []).forEach(({ state, text }, i) => {
      rows[i].dataset.verified = state;
      const mark = rows[i].querySelector("[data-mark]");
      if (mark) mark.textContent = text;
      if (page.record) light(rows[i], state);
    });
    const actions = report.state === "refuted" ? this.save(data) : report.state === "unverified" ? [this.retry()] : [];
    this.show(report, actions, whose, known);
  }

  // The evidence comes before anything else: nothing invites to load the page again before it is saved.
  save({ report, policy, file, page, seen }) {
    const w = this.words;
    const said = element("p", { role: "status" });
    let again;
    const button = element("button", { type: "button", class: "verdict-save" }, w.save);
    button.addEventListener("click", () => {
      const evidence = { schema: "regard/evidence@v1", saved: new Date().toISOString(), place: location.origin + location.pathname, report, policy, page, before: seen.checkpoint, history: new TextDecoder().decode(file) };
      const url = URL.createObjectURL(new Blob([JSON.stringify(evidence)], { type: "application/json" }));
      const link = element("a", { href: url, download: `regard-${report.refuted.reference.replaceAll(" ", "")}.evidence.json` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
      said.textContent = w.saved;
      again ??= this.retry();
      said.after(again);
    });
    return [element("p", {}, report.refuted.keep), button, said];
  }

  show(report, actions, whose = [], known = false) {
    const w = this.words;
    const { refuted } = report;
    const body = [...actions];
    if (refuted) {
      body.push(element("h3", {}, w.tell), list(refuted.tell), element("p", {}, w.reference, " ", element("code", {}, refuted.reference)));
    }
    for (const text of [report.covers, report.quiet, ...(report.next ?? [])]) if (text) body.push(element("p", {}, text));
    // The list has to begin soon: on a phone, and to whoever was here before, what is said in full here is one touch away.
    if (whose.length) body.push((known ? fold : wide)(`${w.of} ${whose[0].value}`, element("p", { class: "verdict-whose" }, w.whose), facts(whose)));
    if (report.limits) {
      const said = report.limits.map((l) => limit(l, w.worry));
      body.push((report.state === "proven" ? fold : wide)(w.limits.replace("{n}", said.length), element("ul", { class: "verdict-limits" }, ...said)));
    }
    if (report.scope) body.push(fold(w.scope, element("ul", {}, ...report.scope.map((l) => limit(l)))));
    if (report.checks) body.push(fold(w.checks, ...report.checks.map((c) => this.check(c)), element("p", {}, w.times)));
    if (report.keys) {
      const keys = report.keys.flatMap((k) => [element("dt", {}, `${k.role} ${k.name}`), element("dd", {}, element("code", {}, k.fingerprint))]);
      body.push(fold(w.keys, element("p", {}, w.compare), element("dl", {}, ...keys)));
    }
    body.push(fold(w.worth, element("p", { class: "verdict-independent" }, w.independent)));
    this.state(report.state, report.title, report.sentence, ...body);
  }

  check(c) {
    const d = fold(c.title);
    d.firstChild.append(" · ", element("span", { class: "verdict-end" }, this.words[c.state]));
    d.dataset.check = c.code;
    d.dataset.state = c.state;
    if (c.says) d.append(list(c.says));
    if (c.not_proven) d.append(element("ul", { class: "verdict-not" }, ...c.not_proven.map((s) => element("li", {}, s))));
    if (c.evidence) d.append(element("p", { class: "verdict-label" }, this.words.evidence), facts(c.evidence));
    return d;
  }
}

const begin = () => {
  // Whatever the server says of them by itself, wherever it does.
  for (const mark of document.querySelectorAll("[data-mark]")) mark.textContent = "";
  for (const said of document.querySelectorAll("[data-lit], [data-verified]")) for (const of of ["lit", "verified"]) delete said.dataset[of];
  for (const root of document.querySelectorAll("#verdict[data-bundle]")) new Verdict(root).start();
};

// Whoever lets this script run before all of the page has come could add to it afterwards.
if (document.readyState === "loading") addEventListener("DOMContentLoaded", begin, { once: true });
else begin();
