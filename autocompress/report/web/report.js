(() => {
const { el, colours, themed, lightened, config, copyable, sortable } = Figures;
const data = JSON.parse(document.getElementById("data").textContent);
const byTrial = new Map(data.trials.map((t) => [t.trial, t]));
const $ = (id) => document.getElementById(id);
const drawn = new Set();
let plotly = null, chosen = null, returnTo = null, visible = null, dimming = 0, order = { key: "trial", up: true };
let rowsShown = 60; // what can be seen; the others follow once the front is drawn

// ---- elements and words -------------------------------------------------------------------------------------
const number = (v, digits = 3) => String(parseFloat(v.toPrecision(digits)));
const ms = (v) => v === undefined || v === null ? "" : v >= 100 ? `${Math.round(v).toLocaleString("en")} ms` : `${number(v)} ms`;
function size(v) {
  if (v === undefined) return "";
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (v >= factor) return v < 100 * factor ? `${number(v / factor)} ${unit}` : `${Math.round(v / factor)} ${unit}`;
  }
  return `${v} B`;
}
const plain = (v) => data.percent ? `${(100 * v).toFixed(2)} %` : number(v, 4);
function interval(s) {
  const f = (v) => data.percent ? (100 * v).toFixed(2) : number(v, 4);
  return `${plain(s[0])} [${s[1] === null ? "no interval known" : `${f(s[1])}, ${f(s[2])}`}]`;
}
const latency = (t) => t.measured !== undefined ? t.measured : t.predicted;
const source = (t) => t.measured !== undefined ? "measured" : t.predicted !== undefined ? "predicted" : "";
const seconds = (t) => Object.values(t.seconds || {}).reduce((a, b) => a + b, 0);
const bits = (b) => b >= 32 ? "fp32" : b === 16 ? "16 bit" : `int${b}`;
const big = (v) => v >= 1e6 ? `${number(v / 1e6)} M` : v >= 1e3 ? `${number(v / 1e3)} k` : String(v);
const tag = (word, kind) => word ? el("span", { class: `tag ${kind || ""}` }, word) : null;

// ---- table of all trials ------------------------------------------------------------------------------------
const columns = [
  { key: "trial", head: "trial", num: true, value: (t) => t.trial },
  { key: "state", head: "state", value: (t) => (t.kind === "baseline" ? "baseline" : t.front ? "front" : t.state) },
  { key: "name", head: "recipe", value: (t) => t.name || "" },
  { key: "accuracy", head: `${data.metric}, validation`, num: true, value: (t) => t.validation && t.validation[0] },
  { key: "test", head: `${data.metric}, test`, num: true, value: (t) => t.test && t.test[0] },
  { key: "latency", head: "latency", num: true, value: latency },
  { key: "worst", head: "worst case", num: true, value: (t) => t.exits && t.worst },
  { key: "size", head: "size", num: true, value: (t) => t.size },
  { key: "versus", head: "against fp32, validation", value: (t) => t.versus || "" },
  { key: "seconds", head: "time", num: true, value: seconds },
];
function row(t) {
  const worst = t.exits && t.worst !== undefined;
  const state = columns[1].value(t);
  const cells = [
    el("td", { class: "num" }, String(t.trial)),
    el("td", {}, tag(state, state), t.kind === "baseline" && t.front ? tag("front", "front") : null),
    el("td", { class: "recipe" }, t.name || "", t.reason ? el("div", { class: "soft" }, t.reason) : null),
    el("td", { class: "num" }, t.validation ? interval(t.validation) : ""),
    el("td", { class: "num" }, t.test ? interval(t.test) : ""),
    el("td", { class: "num" }, `${ms(latency(t))} `, tag(source(t))),
    el("td", { class: "num" }, worst ? `${ms(t.worst)} ` : "", worst ? tag(source(t)) : null),
    el("td", { class: "num" }, size(t.size)),
    el("td", {}, t.versus || ""),
    el("td", { class: "num" }, t.seconds ? `${seconds(t).toFixed(1)} s` : ""),
  ];
  return el("tr", { "data-trial": t.trial, tabindex: -1, class: t.kind === "baseline" ? "baseline" : null }, ...cells);
}
const rowOf = (t) => t.row || (t.row = row(t));
function buildTable() {
  const heads = columns.map((c) => el("th", { class: c.num ? "num" : null, "data-key": c.key },
    el("button", { type: "button", onclick: () => sortBy(c.key) }, c.head)));
  $("trial-table").tHead.append(el("tr", {}, ...heads));
  if (!data.trials.length) {
    $("trial-table").tBodies[0].append(el("tr", {}, el("td", { colspan: columns.length, class: "soft" }, "No trial was judged yet.")));
  }
}
function sortBy(key) {
  order = { key, up: order.key === key ? !order.up : true };
  refreshTable();
}
function refreshTable() {
  const column = columns.find((c) => c.key === order.key), sign = order.up ? 1 : -1;
  const missing = (v) => v === undefined || v === null || v === "";
  const rows = data.trials.filter((t) => visible === null || visible.has(t.trial)).sort((a, b) => {
    const x = column.value(a), y = column.value(b);
    if (missing(x) || missing(y)) return missing(x) - missing(y) || a.trial - b.trial;
    return sign * (typeof x === "string" ? x.localeCompare(y) : x - y) || a.trial - b.trial;
  });
  if (data.trials.length) $("trial-table").tBodies[0].replaceChildren(...rows.slice(0, rowsShown).map(rowOf));
  rows.slice(0, rowsShown).forEach((t, i) => { t.row.tabIndex = i ? -1 : 0; });
  for (const th of document.querySelectorAll("#trial-table th")) {
    if (th.dataset.key === order.key) th.setAttribute("aria-sort", order.up ? "ascending" : "descending");
    else th.removeAttribute("aria-sort");
  }
  $("f-count").textContent = `${rows.length.toLocaleString("en")} of ${data.trials.length.toLocaleString("en")} trials`;
}

function showAllRows() {
  rowsShown = Infinity;
  refreshTable();
  if (chosen !== null) scrollTo(byTrial.get(chosen));
}
function scrollTo(t) {
  const active = $("trials").contains(document.activeElement);
  if (!active && rowOf(t).isConnected) $("trials").scrollTop = rowOf(t).offsetTop - 80;
}

// ---- filters ------------------------------------------------------------------------------------------------
function applyFilters() {
  const text = $("f-text").value.trim().toLowerCase(), state = $("f-state").value;
  const limit = (id) => $(id).value === "" ? null : Number($(id).value);
  const slow = limit("f-latency"), large = limit("f-size"), low = limit("f-accuracy");
  const active = text || state || slow !== null || large !== null || low !== null;
  const keep = (t) => {
    if (text && !`${t.trial} ${t.name || ""} ${t.reason || ""} ${t.recipe || ""}`.toLowerCase().includes(text)) return false;
    if (state === "front" ? !t.front : state === "baseline" ? t.kind !== "baseline" : state && t.state !== state) return false;
    if (slow !== null && !(latency(t) <= slow)) return false;
    if (large !== null && !(t.size <= large * 1e3)) return false;
    return low === null || Boolean(t.validation) && t.validation[0] * (data.percent ? 100 : 1) >= low;
  };
  visible = active ? new Set(data.trials.filter(keep).map((t) => t.trial)) : null;
  refreshTable();
  clearTimeout(dimming);
  dimming = setTimeout(() => drawn.forEach(dim), 200);
}
function dim(name) {
  // One call per plot: each restyle redraws it.
  const plot = $(`plot-${name}`), figure = data.figures[name];
  if (!plotly || ["progress", "importance"].includes(name) || plot.hidden) return;
  const shown = (n) => visible === null || visible.has(n);
  const faint = [], numbers = [], bars = [];
  figure.data.forEach((trace, i) => {
    if (!trace.customdata || trace.type === "heatmap") return;
    if (trace.type === "scatter3d") {
      const z = values(trace.z);
      plotly.restyle(plot, { z: [z.map((v, j) => (shown(trace.customdata[j]) ? v : null))] }, [i]);
      return;
    }
    const usual = trace.marker && trace.marker.opacity;
    const opacity = trace.customdata.map((n, j) => (Array.isArray(usual) ? usual[j] : 1) * (shown(n) ? 1 : 0.12));
    faint.push(opacity);
    numbers.push(i);
    bars.push(!trace.error_y ? null : visible === null ? trace.error_y.color : "rgba(136,136,136,0.3)");
  });
  if (!numbers.length) return;
  plotly.restyle(plot, { "marker.opacity": faint, ...(bars.some(Boolean) ? { "error_y.color": bars } : {}) }, numbers);
}
const values = (v) => Array.isArray(v) ? v : [];

// ---- plots --------------------------------------------------------------------------------------------------
function draw(name) {
  const plot = $(`plot-${name}`), figure = data.figures[name];
  if (!plotly || !plot || !figure || plot.hidden || drawn.has(name)) return;
  plot.replaceChildren();
  if (figure.data.every((trace) => !(trace.x || []).length)) {
    plot.classList.add("empty");
    plot.append(el("p", { class: "waiting" }, "Nothing to show yet."));
    return;
  }
  drawn.add(name);
  plotly.newPlot(plot, lightened(figure.data), themed(figure.layout), config).then(() => {
    plot.on("plotly_click", (event) => {
      const point = event.points.find((p) => p.data.type !== "heatmap" && Number.isInteger(p.customdata));
      if (point) open(point.customdata, plot);
    });
    if (visible !== null) dim(name);
    ring();
  });
}
function restyleAll() {
  for (const name of drawn) {
    if (name === "classes") showClasses(); // its colours begin at that of the page
    else plotly.react($(`plot-${name}`), lightened(data.figures[name].data), themed(data.figures[name].layout));
    if (visible !== null) dim(name);
  }
}
function ring() {
  const c = colours();
  for (const name of ["front", "fronttest"]) {
    const plot = $(`plot-${name}`);
    if (!drawn.has(name) || !plot.layout) continue;
    const base = (data.figures[name].layout.annotations || []).slice();
    for (const trace of plot.data) {
      const i = (trace.customdata || []).indexOf(chosen);
      if (i < 0) continue;
      const x = Math.log10(data.figures[name].data[plot.data.indexOf(trace)].x[i]);
      base.push({ x, y: trace.y[i], text: `trial ${chosen}`, showarrow: true, arrowhead: 0, arrowcolor: c.text, ax: 0, ay: -46,
        standoff: 8, bgcolor: c.card, bordercolor: c.text, borderpad: 3, font: { color: c.text, size: 12 } });
      break;
    }
    plotly.relayout(plot, { annotations: base });
  }
}
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}
async function unpackPlotly() {
  const stream = new Blob([bytesOf($("plotly").textContent)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
function runPlotly(source) {
  const script = document.createElement("script");
  script.textContent = source;
  document.head.append(script);
  plotly = window.Plotly;
}
function unpackArrays(node) {
  // Python writes numeric arrays as base64; the filters need them as lists.
  const types = { f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array, i2: Int16Array, u2: Uint16Array, i1: Int8Array, u1: Uint8Array };
  for (const [key, value] of Object.entries(node)) {
    if (!value || typeof value !== "object") continue;
    if (value.bdata && types[value.dtype]) {
      node[key] = [...new types[value.dtype](bytesOf(value.bdata).buffer)];
    } else unpackArrays(value);
  }
}

// ---- details ------------------------------------------------------------------------------------------------
function pairs(list) {
  const items = list.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return el("dl", { class: "pairs" }, ...items.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}
const table = (heads, rows) => el("div", { class: "scroll" }, Figures.table(heads, rows));
function meter(share, kind) {
  const fill = el("i");
  fill.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`;
  return el("span", { class: `meter ${kind || ""}` }, fill);
}
function change(before, after, share, kind) {
  return el("span", {}, `${before} \u2192 ${after}`, meter(share, kind));
}
function layerTable(t) {
  const rows = t.layers.map(([i, after, weight, activation, cost]) => [data.layers[i], after, weight, activation, cost]);
  const most = Math.max(...rows.map(([layer, , , , cost]) => Math.max(layer[3], cost)), 1e-9);
  return table(["layer", "channels", "weights", "activations", "predicted ms"], rows.map(([layer, after, weight, activation, cost]) => [
    el("span", {}, layer[0], el("div", { class: "soft" }, layer[1])),
    change(layer[2], after, after / Math.max(layer[2], 1)),
    bits(weight), bits(activation),
    layer[3] || cost ? change(number(layer[3]), number(cost), cost / most, "time") : "",
  ]));
}
function figuresOf(t) {
  const share = (v) => `${(100 * v).toFixed(2)} %`;
  return pairs([
    [`${data.metric}, test`, t.test && `${interval(t.test)}, ${t.test[3].toLocaleString("en")} samples`],
    [`${data.metric}, validation`, t.validation && `${interval(t.validation)}, ${t.validation[3].toLocaleString("en")} samples`],
    ["accuracy tie with faster", t.ties && `trial ${t.ties.join(", ")}`],
    ["latency, measured", ms(t.measured)],
    ["latency, predicted", ms(t.predicted)],
    [`worst case, ${source(t)}`, t.worst !== undefined && t.exits ? ms(t.worst) : ""],
    ["file size", t.size && `${size(t.size)} (${t.size.toLocaleString("en")} bytes)`],
    ["working memory", t.memory && size(t.memory)],
    ["energy of an inference", t.energy && `${number(t.energy)} mJ`],
    ["against fp32", t.final && `${t.final} (${t.basis})`],
    ["parameters, MACs", t.params || t.macs ? `${t.params ? big(t.params) : "?"}, ${t.macs ? big(t.macs) : "?"}` : ""],
    ["parity, file and torch", t.parity !== undefined ? share(t.parity) : ""],
    ["wall time", t.seconds && Object.entries(t.seconds).map(([k, v]) => `${k} ${v.toFixed(1)} s`).join(", ")],
    ["artefact", t.artifact || (t.state === "complete" ? "not kept" : "")],
    ["sha256", t.sha256],
    ["recipe digest", t.digest],
    ["shares the network of", t.derived !== undefined ? el("a", { href: `#trial=${t.derived}` }, `trial ${t.derived}`) : ""],
    ["finished", t.finished],
  ]);
}
function exitTable(t) {
  return table(["place", "#threshold", "#taken", `#${data.metric}, validation`, `#latency, ${source(t)}`], t.exits.map(
    ([place, threshold, rate, accuracy, cost]) => [place, threshold ? number(threshold, 4) : "always",
      `${(100 * rate).toFixed(1)} %`, accuracy === null ? "no sample" : plain(accuracy), ms(cost)]));
}
function fill(t) {
  const state = columns[1].value(t), close = el("button", { type: "button", onclick: shut, "aria-label": "Close details" }, "Close");
  const tags = [tag(state, state), ...(t.picks || []).flatMap((name) => [" ", tag(name, "pick")])];
  const head = el("div", { class: "head" }, el("h2", {}, `Trial ${t.trial} `, ...tags), close);
  const commands = data.commands.flatMap(([what, text]) => [el("p", { class: "soft small" }, what), copyable(text.replaceAll("{trial}", t.trial))]);
  const parts = [head, el("p", { class: "lead" }, t.name || "")];
  if (t.reason) parts.push(el("p", { class: "badge warn" }, t.reason));
  parts.push(figuresOf(t));
  if (t.exits) parts.push(el("h3", {}, "Early exits"), exitTable(t));
  if (t.state === "complete") parts.push(el("h3", {}, "Commands"), ...commands);
  parts.push(el("h3", {}, "Recipe"), copyable(t.recipe || ""));
  if (t.notes) parts.push(el("h3", {}, "Notes"), el("ul", {}, ...t.notes.map((n) => el("li", {}, n))));
  if (t.layers) parts.push(el("h3", {}, "Layers: original \u2192 this candidate"), layerTable(t));
  $("detail").replaceChildren(...parts);
}
function open(trial, from) {
  const t = byTrial.get(trial);
  if (!t) return;
  if (!$("detail").contains(document.activeElement)) returnTo = from || document.activeElement;
  mark(trial);
  follow(t);
  if (!$("trials").contains(document.activeElement) && rowOf(t).isConnected) $("trials").scrollTop = t.row.offsetTop - 80;
  fill(t);
  $("detail").hidden = false;
  $("detail").scrollTop = 0;
  document.body.classList.add("open");
  if (location.hash !== `#trial=${trial}`) history.replaceState(null, "", `#trial=${trial}`);
  $("detail").focus({ preventScroll: true });
  settle();
}
function shut() {
  $("detail").hidden = true;
  document.body.classList.remove("open");
  mark(null);
  history.replaceState(null, "", location.pathname + location.search);
  if (returnTo && returnTo.focus) returnTo.focus({ preventScroll: true });
  settle();
}
function mark(trial) {
  chosen = trial;
  for (const tr of document.querySelectorAll("tr.chosen")) tr.classList.remove("chosen");
  if (trial === null) return;
  const rows = [rowOf(byTrial.get(trial)), document.querySelector(`#front-table tr[data-trial="${trial}"]`)];
  for (const tr of rows) if (tr) tr.classList.add("chosen");
}
function follow(t) {
  // The views with a choice of their own show what is looked at.
  if (t.layers && choose("layer-trial", t)) showLayers();
  if (data.classes && data.classes.trials[t.trial] && choose("class-trial", t)) showClasses();
}
function choose(id, t) {
  const known = [...$(id).options].some((o) => o.value === String(t.trial));
  if (known) $(id).value = String(t.trial);
  return known;
}
function settle() {
  if (!plotly) return;
  for (const name of drawn) if (!$(`plot-${name}`).hidden) plotly.Plots.resize($(`plot-${name}`));
  ring();
}
function fromHash() {
  const match = /^#trial=(\d+)$/.exec(location.hash);
  if (match) open(Number(match[1]));
}

// ---- layers and classes of one trial ------------------------------------------------------------------------
const bitColours = { 32: "#888888", 16: "#CC79A7", 8: "#0072B2", 4: "#E69F00" };
function layoutOf(axes) {
  const { font, hoverlabel, legend, template } = data.figures.front.layout;
  const axis = { gridcolor: "#dddddd", zeroline: false, automargin: true, showline: true };
  const made = Object.fromEntries(Object.entries(axes).map(([name, value]) => [name, { ...axis, ...value }]));
  return { template, font, hoverlabel, legend, margin: { l: 60, r: 20, t: 40, b: 50 }, ...made };
}
function redraw(name, figure) {
  data.figures[name] = figure;
  if (!drawn.has(name)) draw(name);
  else plotly.react($(`plot-${name}`), lightened(figure.data), themed(figure.layout));
}
function showLayers() {
  const t = byTrial.get(Number($("layer-trial").value));
  if (!plotly || !t) return;
  const rows = t.layers.map(([i, after, weight, , cost]) => ({ layer: data.layers[i], after, weight, cost }));
  const bars = (part, value, rest) => ({ type: "bar", x: part.map((r) => r.layer[0]), y: part.map(value), ...rest });
  const pale = { color: "rgba(136,136,136,0.35)" }, time = { yaxis: "y2", hovertemplate: "%{x}: %{y:.4g} ms<extra>%{fullData.name}</extra>" };
  const channels = { hovertemplate: "%{x}: %{y} channels<extra>%{fullData.name}</extra>" };
  const traces = [
    bars(rows, (r) => r.layer[2], { name: "original", marker: pale, width: 0.9, ...channels }),
    bars(rows, (r) => r.layer[3], { name: "original", marker: pale, width: 0.9, showlegend: false, ...time }),
  ];
  for (const b of [...new Set(rows.map((r) => r.weight))].sort((x, y) => y - x)) {
    const part = rows.filter((r) => r.weight === b), look = { name: `trial ${t.trial}, ${bits(b)} weights`, marker: { color: bitColours[b] || "#56B4E9" }, width: 0.5 };
    traces.push(bars(part, (r) => r.after, { ...look, ...channels }), bars(part, (r) => r.cost, { ...look, ...time, showlegend: false }));
  }
  const layout = layoutOf({
    xaxis: { type: "category", categoryorder: "array", categoryarray: rows.map((r) => r.layer[0]), anchor: "y2", tickangle: -45, tickfont: { size: 10 } },
    yaxis: { title: { text: "channels" }, domain: [0.56, 1] },
    yaxis2: { title: { text: "predicted time (ms)" }, domain: [0, 0.46], anchor: "x" },
  });
  redraw("layers", { data: traces, layout: { ...layout, barmode: "overlay" } });
}
function classWords(t, before, after) {
  const { names, total } = data.classes, f = (v) => `${(100 * v).toFixed(1)} %`;
  const changes = names.map((name, i) => ({ name, a: before.correct[i] / total[i], b: after.correct[i] / total[i], n: total[i] })).filter((c) => c.n);
  const worst = changes.filter((c) => c.b < c.a).sort((x, y) => (x.b - x.a) - (y.b - y.a)).slice(0, 3);
  const lost = worst.length ? `Most lost: ${worst.map((c) => `${c.name} ${f(c.a)} \u2192 ${f(c.b)} (n = ${c.n})`).join("; ")}.` : "No class lost accuracy.";
  const pairs = (after.matrix || []).flatMap((row, i) => row.map((n, j) => ({ i, j, n, more: n - before.matrix[i][j] }))).filter((p) => p.i !== p.j && p.more > 0);
  const top = pairs.sort((x, y) => y.more - x.more).slice(0, 3).map((p) => `${names[p.i]} as ${names[p.j]} ${p.n - p.more} \u2192 ${p.n}`);
  return `Trial ${t.trial} against fp32 (${data.classes.split} split). ${lost}${top.length ? ` Mistaken more often: ${top.join("; ")}.` : ""}`;
}
function showClasses() {
  const t = byTrial.get(Number($("class-trial").value)), kept = data.classes;
  if (!t || !kept) return;
  const before = kept.trials[kept.reference], after = kept.trials[t.trial];
  $("class-words").textContent = classWords(t, before, after);
  if (!plotly) return;
  const card = colours().card, traces = [], whole = Boolean(after.matrix && after.matrix.length), n = kept.names.length;
  const heat = (matrix, axes, name) => ({
    type: "heatmap", x: kept.names, y: kept.names, z: matrix.map((row, i) => row.map((v) => Math.sqrt(v / Math.max(1, kept.total[i])))), zmin: 0, zmax: 1,
    customdata: matrix, text: matrix.map((row) => row.map((v) => v ? String(v) : "")), texttemplate: n <= 12 ? "%{text}" : "", showscale: false,
    colorscale: [[0, card], [1, "#0072B2"]], hovertemplate: `true %{y}, answered %{x}: %{customdata} samples<extra>${name}</extra>`, ...axes });
  if (whole) traces.push(heat(before.matrix, { xaxis: "x", yaxis: "y" }, "fp32"), heat(after.matrix, { xaxis: "x2", yaxis: "y2" }, `trial ${t.trial}`));
  const change = kept.names.map((_, i) => 100 * (after.correct[i] - before.correct[i]) / Math.max(1, kept.total[i]));
  traces.push({ type: "bar", x: kept.names, y: change, xaxis: "x3", yaxis: "y3", marker: { color: change.map((v) => (v < 0 ? "#D55E00" : "#0072B2")) },
    hovertemplate: "%{x}: %{y:+.2f} points<extra></extra>" });
  const category = { type: "category", showgrid: false }, down = { ...category, autorange: "reversed" };
  const axes = { xaxis3: { ...category, anchor: "y3", title: { text: "class" } }, yaxis3: { anchor: "x3", domain: whole ? [0, 0.24] : [0, 1], title: { text: "change (points)" } } };
  if (whole) Object.assign(axes, {
    xaxis: { ...category, domain: [0, 0.47], anchor: "y", title: { text: "answer, fp32" } }, yaxis: { ...down, domain: [0.44, 1], anchor: "x", title: { text: "true class" } },
    xaxis2: { ...category, domain: [0.53, 1], anchor: "y2", title: { text: `answer, trial ${t.trial}` } }, yaxis2: { ...down, domain: [0.44, 1], anchor: "x2" } });
  redraw("classes", { data: traces, layout: { ...layoutOf(axes), showlegend: false } });
}
function offer(id, trials, show) {
  const words = (t) => `${t.trial}: ${[...(t.picks || []), t.name || ""].join(", ")}`.slice(0, 90);
  $(id).append(...trials.map((t) => el("option", { value: t.trial }, words(t))));
  const first = trials.find((t) => (t.picks || []).includes("knee")) || trials[0];
  if (first) $(id).value = String(first.trial);
  $(id).addEventListener("change", show);
}
function offerViews() {
  const own = (t) => t.front || t.kind === "baseline";
  const layered = data.trials.filter((t) => t.layers && own(t));
  const scored = data.classes ? data.trials.filter((t) => data.classes.trials[t.trial] && t.trial !== data.classes.reference) : [];
  const found = { layers: layered.length, classes: scored.length, exits: data.figures.exits };
  for (const [name, some] of Object.entries(found)) {
    $(name).hidden = !some;
    for (const link of document.querySelectorAll(`[data-needs="${name}"]`)) link.hidden = !some;
  }
  offer("layer-trial", layered, showLayers);
  offer("class-trial", scored, showClasses);
  if (scored.length) showClasses();
}

// ---- events -------------------------------------------------------------------------------------------------
function onKey(event) {
  const tr = event.target.closest && event.target.closest("tr[data-trial]");
  if (event.key === "Escape" && !$("detail").hidden) shut();
  if (!tr || event.target !== tr) return;
  const move = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
  const edge = { Home: "firstElementChild", End: "lastElementChild" }[event.key];
  const next = move ? tr[move] : edge ? tr.parentNode[edge] : null;
  if (event.key === "Enter" || event.key === " ") open(Number(tr.dataset.trial), tr);
  else if (!next) return;
  else {
    if (tr.closest("#trial-table")) { tr.tabIndex = -1; next.tabIndex = 0; }
    next.focus();
  }
  event.preventDefault();
}
function show(name) {
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === name));
    $(`plot-${button.dataset.show}`).hidden = button.dataset.show !== name;
  }
  draw(name);
  if (drawn.has(name)) dim(name);
  settle();
}
function listen() {
  $("filters").addEventListener("input", applyFilters);
  $("filters").addEventListener("reset", () => setTimeout(applyFilters));
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", onKey);
  document.addEventListener("click", (event) => {
    const tr = event.target.closest("tr[data-trial]");
    if (tr && !event.target.closest("a, button")) open(Number(tr.dataset.trial), tr);
  });
  for (const button of document.querySelectorAll("[data-show]")) button.addEventListener("click", () => show(button.dataset.show));
  window.addEventListener("hashchange", fromHash);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plotly && (restyleAll(), ring()));
}
function drawWhenSeen() {
  // Plots below the fold cost seconds in a large study: each is drawn when it comes near, all of them for a printer.
  const views = { front: draw, exits: draw, importance: draw, measured: draw, progress: draw, budget: draw, layers: showLayers, classes: showClasses };
  const view = (name) => drawn.has(name) || !$(`plot-${name}`) || views[name](name);
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      observer.unobserve(entry.target);
      view(entry.target.id.replace("plot-", ""));
    }
  }, { rootMargin: "300px" });
  view("front");
  for (const name of Object.keys(views)) if ($(`plot-${name}`)) observer.observe($(`plot-${name}`));
  window.addEventListener("beforeprint", () => Object.keys(views).forEach(view));
}
async function start() {
  const unpacking = unpackPlotly(); // beside the rest
  $("f-unit").textContent = data.percent ? "(%)" : "";
  buildTable();
  refreshTable();
  sortable($("front-table"));
  offerViews();
  for (const box of document.querySelectorAll("[data-copy]")) box.replaceWith(copyable(box.textContent));
  listen();
  fromHash();
  if (!data.trials.some((t) => t.measured !== undefined && t.predicted !== undefined)) {
    $("plot-measured").hidden = true;
    $("no-measured").hidden = false;
  }
  for (const plot of document.querySelectorAll(".plot")) plot.append(el("p", { class: "waiting" }, "Drawing ..."));
  try {
    runPlotly(await unpacking);
  } catch (error) {
    showAllRows();
    for (const note of document.querySelectorAll(".waiting")) {
      note.textContent = `This browser cannot unpack the plots (${error.message}); the tables and details work.`;
    }
    return;
  }
  unpackArrays(data.figures);
  for (const trace of ["front", "fronttest", "front3d"].flatMap((name) => (data.figures[name] || { data: [] }).data)) {
    if (trace.customdata) trace.hovertext = trace.customdata.map((n) => data.hovers[n]);
  }
  drawWhenSeen();
  performance.mark("drawn");
  await new Promise((done) => setTimeout(done));
  showAllRows();
  document.body.dataset.ready = "yes";
}
start();
})();
