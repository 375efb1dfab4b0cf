// Verifies the history that a page shows, in a worker, and says on the page what came of it. See docs/verifier.md for the markup.
//
// Nothing is green before the worker has finished, and whatever goes wrong on the way ends in "not verified", never in silence.

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

/** What can be read in a cell: its text, but for the mark that is put there. */
function read(cell) {
  const copy = cell.cloneNode(true);
  for (const mark of copy.querySelectorAll("[data-mark]")) mark.remove();
  return copy.textContent;
}

/** The heading above a row. */
function above(row) {
  let e = row.closest("table")?.previousElementSibling;
  while (e && !/^H[1-6]$/.test(e.tagName)) e = e.previousElementSibling;
  return e;
}

/** What the page shows, as its markup says, and whatever looks like a row; null if it shows no list. */
function readPage(at, lang) {
  const rows = [...(at?.querySelectorAll("tbody > tr, [data-index]") ?? [])];
  if (!at) return [null, rows];
  const number = (text, or) => (text === undefined ? or : /^(0|[1-9]\d{0,15})$/.test(text) ? Number(text) : NaN);
  const page = {
    lang,
    rows: rows.map((row) => {
      const { dataset: d } = row;
      const index = (d.index ?? "").split(" ").map((n) => number(n));
      const heading = above(row);
      return {
        index: index.every(Number.isSafeInteger) ? index : [],
        agency: d.agency ?? "",
        service: d.service ?? "",
        outcome: d.outcome ?? "",
        at: d.at ?? "",
        day: heading?.textContent ?? "",
        open: "open" in (heading?.dataset ?? {}),
        cells: [...(row.cells ?? [])].map(read),
      };
    }),
    full: "full" in at.dataset,
    from: number(at.dataset.from, 0),
    to: number(at.dataset.to, Number.MAX_SAFE_INTEGER),
  };
  // A range that can't be read is the widest: what isn't in it has to be shown.
  if (!Number.isSafeInteger(page.from)) page.from = 0;
  if (!Number.isSafeInteger(page.to)) page.to = Number.MAX_SAFE_INTEGER;
  return [page, rows];
}

/** Whether somebody who opens the folds around an element can read it. */
function seen(e) {
  for (let a = e; a && a !== document.body; a = a.parentElement) {
    const s = getComputedStyle(a);
    if (s.display === "none" || s.visibility !== "visible" || Number(s.opacity) === 0) return false;
  }
  const box = e.getBoundingClientRect();
  return e.closest("details") !== null || (box.width > 1 && box.height > 1);
}

/** What the page of one access shows: each fact in its order, whatever looks like one, and the drawings of its proof. */
function readRecord(at, lang) {
  const { dataset: d } = at;
  const facts = [...at.querySelectorAll("[data-fact], dd")].map((e) => {
    const label = [];
    if (e.tagName === "DD") for (let t = e.previousElementSibling; t && t.tagName !== "DD"; t = t.previousElementSibling) label.unshift(t.textContent);
    const folded = e.closest("details") !== null;
    const links = [...e.querySelectorAll("a")].map((a) => a.getAttribute("href"));
    return { key: e.dataset.fact ?? "", label: label.join(" "), text: folded ? read(e) : e.innerText, link: links.join(" "), folded, hidden: !seen(e) };
  });
  const ways = [...at.querySelectorAll(".way")].map((way) => ({
    id: way.dataset.way ?? "",
    drawn: [...way.querySelectorAll("svg text")].map((t) => t.textContent),
    table: [...way.querySelectorAll("td")].map((t) => t.textContent),
  }));
  const index = /^(0|[1-9]\d{0,15})$/.test(d.record) ? Number(d.record) : 0;
  const record = { index, agency: d.agency ?? "", service: d.service ?? "", outcome: d.outcome ?? "", facts, ways, receipt: "" };
  return [{ lang, rows: [], full: false, from: 0, to: 0, record }, [at]];
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

class Verdict {
  constructor(root) {
    this.root = root;
    this.words = JSON.parse(root.dataset.words);
    this.band = root.querySelector(".verdict-band");
    this.title = root.querySelector(".verdict-title");
    this.sentence = root.querySelector("[role=status]");
    this.body = root.querySelector(".verdict-body");
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

  start() {
    const { bundle, worker, wasm, policy, names, lang, maxAge } = this.root.dataset;
    const w = this.words;
    const progress = element("progress", { "aria-label": w.checking });
    const count = element("p", { class: "verdict-progress" }, w.download);
    this.state("checking", "", w.checking, progress, count);
    for (const mark of this.list?.querySelectorAll("[data-mark]") ?? []) mark.textContent = "";
    for (const lit of this.list?.querySelectorAll("[data-lit]") ?? []) delete lit.dataset.lit;
    const [page, rows] = this.list && "record" in this.list.dataset ? readRecord(this.list, lang) : readPage(this.list, lang);
    let job;
    const end = (show) => {
      job?.terminate();
      show();
      this.root.dispatchEvent(new CustomEvent("regard:verdict", { bubbles: true, detail: { state: this.root.dataset.state } }));
    };
    if (this.root.dataset.list && !this.list) {
      // What would be compared isn't there: nothing may be said of it.
      end(() => this.notVerified("verifier"));
      return;
    }
    try {
      if (typeof WebAssembly?.instantiateStreaming !== "function") throw new Error("too old");
      job = new Worker(worker, { type: "module" });
    } catch {
      end(() => this.notVerified("browser"));
      return;
    }
    job.onerror = (e) => {
      e.preventDefault();
      end(() => this.notVerified("verifier"));
    };
    job.onmessage = ({ data }) => {
      if (data.cause) end(() => this.notVerified(data.cause));
      else if (data.report) end(() => this.report(data, rows));
      else if (data.of) {
        progress.max = data.of;
        progress.value = data.done;
        count.textContent = w.progress.replace("{done}", data.done).replace("{of}", data.of);
      }
    };
    job.postMessage({
      bundle: new URL(bundle, document.baseURI).href,
      wasm: new URL(wasm, document.baseURI).href,
      policy: new URL(policy, document.baseURI).href,
      names: new URL(names, document.baseURI).href,
      receipt: page?.record && this.list.dataset.receipt ? new URL(this.list.dataset.receipt, document.baseURI).href : "",
      page,
      options: { lang, now: Date.now(), maxAge: Number(maxAge) },
    });
  }

  retry() {
    const button = element("button", { type: "button" }, this.words.retry);
    button.addEventListener("click", () => this.start());
    return button;
  }

  notVerified(cause) {
    this.show(this.words.causes[cause] ?? this.words.causes.verifier, [this.retry()]);
  }

  report(data, rows) {
    const { report, whose, page } = data;
    (report.rows ?? []).forEach(({ state, text }, i) => {
      rows[i].dataset.verified = state;
      const mark = rows[i].querySelector("[data-mark]");
      if (mark) mark.textContent = text;
      if (page.record) light(rows[i], state);
    });
    const actions = report.state === "refuted" ? this.save(data) : report.state === "unverified" ? [this.retry()] : [];
    this.show(report, actions, whose);
  }

  // The evidence comes before anything else: nothing invites to load the page again before it is saved.
  save({ report, policy, file, page }) {
    const w = this.words;
    const said = element("p", { role: "status" });
    let again;
    const button = element("button", { type: "button", class: "verdict-save" }, w.save);
    button.addEventListener("click", () => {
      const evidence = { schema: "regard/evidence@v1", saved: new Date().toISOString(), place: location.origin + location.pathname, report, policy, page, history: new TextDecoder().decode(file) };
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

  show(report, actions, whose = []) {
    const w = this.words;
    const { refuted } = report;
    const body = [...actions];
    if (refuted) {
      body.push(element("h3", {}, w.tell), list(refuted.tell), element("p", {}, w.reference, " ", element("code", {}, refuted.reference)));
    }
    for (const text of [report.covers, report.quiet, ...(report.next ?? [])]) if (text) body.push(element("p", {}, text));
    // On a phone the list has to begin soon: what is said in full here is one touch away there.
    if (whose.length) body.push(wide(`${w.of} ${whose[0].value}`, element("p", { class: "verdict-whose" }, w.whose), facts(whose)));
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

for (const root of document.querySelectorAll("#verdict[data-bundle]")) new Verdict(root).start();
