"use strict";
(() => {
const { el, draw, table, sortable, copyable, tag } = Figures;
const $ = (id) => document.getElementById(id);
const PERIOD_MS = 2000;
const tags = {}, opened = new Set(), orders = { front: {}, recent: {} };
let percent = false, lost = 0;

const number = (v, digits = 3) => String(parseFloat(v.toPrecision(digits)));
const ms = (v) => v === null ? "" : v >= 100 ? `${Math.round(v)} ms` : `${number(v)} ms`;
const accuracy = (v) => v === null ? "" : percent ? `${(100 * v).toFixed(2)} %` : number(v, 4);
function size(v) {
  if (v === null) return "";
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (v >= factor) return `${number(v / factor)} ${unit}`;
  return `${v} B`;
}
function duration(s) {
  if (s < 90) return `${Math.round(s)} s`;
  const m = Math.round(s / 60);
  return m < 90 ? `${m} min` : `${Math.floor(m / 60)} h ${m % 60} min`;
}
const ago = (iso) => Math.max(0, (Date.now() - Date.parse(iso)) / 1000);

function showProgress(p) {
  const words = { running: "running", finished: "finished", interrupted: "interrupted: the same command goes on",
    waiting: "waiting for the study to begin", unknown: "does not say whether it runs" };
  $("state").textContent = words[p.state] || p.state;
  $("state").className = `badge ${p.state === "finished" || p.state === "running" ? "good" : "warn"}`;
  document.title = `${p.state === "running" && p.share ? `${Math.round(100 * p.share)} % ` : ""}${$("title").textContent} - autocompress`;
  const share = p.state === "finished" ? 1 : p.share;
  if (share === null || share === undefined) $("bar").removeAttribute("value");
  else $("bar").value = Math.min(1, share);
  $("bar").hidden = p.state === "interrupted" || p.state === "unknown";
  const limits = [];
  if (p.budget && p.budget.trials) limits.push(`${p.budget.trials} candidates`);
  if (p.budget && p.budget.hours) limits.push(`${number(p.budget.hours)} h`);
  const parts = [];
  if (p.share !== null && p.share !== undefined) parts.push(`${Math.round(100 * Math.min(1, p.share))} % of the budget spent`);
  if (limits.length) parts.push(`budget: ${limits.join(" or ")}`);
  if (p.state === "running" && p.eta_s) parts.push(`about ${duration(p.eta_s)} left`);
  if (p.state === "running" && p.started_at) parts.push(`this session began ${duration(ago(p.started_at))} ago`);
  if (p.state !== "running" && p.updated_at) parts.push(`last heard of ${duration(ago(p.updated_at))} ago`);
  $("budget").textContent = parts.join(" · ");
  const doing = p.state === "running" ? p.workers : [];
  $("workers").replaceChildren(...(doing.length ? [table(["#trial", "what is done now"],
    doing.map((w) => [w.trial === null ? "" : String(w.trial), w.doing]))] : []));
  $("notes").replaceChildren(...(p.notes || []).slice(-5).map((n) => el("p", { class: "soft small" }, `note: ${n}`)));
}

function showState(s) {
  $("folder").textContent = s.folder;
  if (!s.study) {
    $("title").textContent = s.folder;
    $("about").textContent = "";
    return;
  }
  percent = s.percent;
  const device = s.device;
  $("title").replaceChildren(s.task, el("span", { class: "soft" }, " on "), device.name);
  const facts = [device.processor, `${device.runtime}, ${device.threads} thread(s)`, `metric: ${s.metric}`, `${s.sampler}, seed ${s.seed}`, ...s.constraints];
  $("about").textContent = facts.filter(Boolean).join(" · ");
  $("sentences").replaceChildren(...s.sentences.map((text) => el("li", {}, text)));
  for (const name of ["front", "volume"]) if (s.figures[name]) draw($(`plot-${name}`), s.figures[name]);
  $("reference").textContent = s.reference;
  showFront(s);
  const c = s.counts;
  const lines = s.reasons.map(([state, reason, count, trials]) => [tag(state), String(count), reason, trials.join(" ") + (count > trials.length ? " ..." : "")]);
  const summary = `${c.complete} completed, ${c.rejected} rejected before training, ${c.failed} failed, ${c.repeated} gave a file that was known` +
    (c.unreadable ? `; the results of ${c.unreadable} cannot be read (yet)` : "");
  $("counts").textContent = summary;
  $("reasons").replaceChildren(...(lines.length ? [table(["state", "#count", "reason (the first of its kind)", "trials"], lines)] : []));
  remake("recent", table(["#trial", "state", "recipe", `#${s.metric}, validation`, "#latency", "#size"],
    s.recent.toReversed().map((t) => [String(t.trial), tag(t.state), el("span", {}, t.recipe, t.reason ? el("div", { class: "soft" }, t.reason) : ""),
      accuracy(t.accuracy), ms(t.latency_ms), size(t.size_bytes)])));
}
function remake(name, made) {
  // Order and focus stay when a table is made anew.
  const place = $(name), buttons = () => [...place.querySelectorAll("th button")];
  const focused = buttons().indexOf(document.activeElement);
  place.replaceChildren(sortable(made, orders[name]));
  if (focused >= 0) buttons()[focused].focus({ preventScroll: true });
}
function showFront(s) {
  const rows = s.rows.map((r) => [String(r.trial), el("span", {}, ...r.mark.split(", ").map((w) => tag(w))), handover(r),
    r.accuracy, el("span", {}, `${r.latency} `, tag(r.source, "plain")), r.size, r.versus]);
  const focused = $("front").contains(document.activeElement) && document.activeElement.closest("details");
  remake("front", table(["#trial", "", "recipe", `#${s.metric}, ${s.split} [95 % interval]`, "#latency", "#size", "against fp32"], rows));
  if (focused) ($("front").querySelector(`details[data-trial="${focused.dataset.trial}"] summary`) || document.body).focus({ preventScroll: true });
}
function handover(r) {
  // A native disclosure: works with the keyboard; stays open when the table is made anew.
  const details = el("details", { "data-trial": r.trial }, el("summary", {}, r.recipe), el("div", {}, copyable(r.export), copyable(r.yaml), el("p", { class: "soft small" }, r.artifact)));
  details.open = opened.has(r.trial);
  details.addEventListener("toggle", () => details.open ? opened.add(r.trial) : opened.delete(r.trial));
  return details;
}

async function look(name, show) {
  const response = await fetch(name, { headers: tags[name] ? { "If-None-Match": tags[name] } : {}, cache: "no-store" });
  if (response.status === 304) return;
  if (!response.ok) throw new Error(`${response.status}`);
  const data = await response.json();
  tags[name] = response.headers.get("ETag");
  show(data);
}
async function poll() {
  try {
    await look("state.json", showState);
    await look("progress.json", showProgress);
    lost = 0;
  } catch {
    lost += 1;
    if (lost > 1) {
      $("state").textContent = "the page's server does not answer: is autocompress still running?";
      $("state").className = "badge warn";
      for (const name of Object.keys(tags)) delete tags[name];
    }
  }
  setTimeout(poll, document.hidden ? 5 * PERIOD_MS : PERIOD_MS);
}
poll();
})();
