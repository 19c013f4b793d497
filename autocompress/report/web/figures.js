"use strict";
// What all pages share: elements, words, and plots that follow the theme of the browser.
const Figures = (() => {
const drawn = new Map();
const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key === "onclick") node.addEventListener("click", value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined));
  return node;
}
function colours() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return { card: get("--card"), text: get("--text"), soft: get("--soft"), grid: get("--grid"), line: get("--line"), mark: get("--warn") };
}
function themed(layout) {
  const c = colours(), out = structuredClone(layout);
  out.paper_bgcolor = out.plot_bgcolor = "rgba(0,0,0,0)";
  out.font = { ...out.font, color: c.text };
  out.hoverlabel = { ...out.hoverlabel, bgcolor: c.card, bordercolor: c.line, font: { ...(out.hoverlabel || {}).font, color: c.text } };
  out.modebar = { bgcolor: "rgba(0,0,0,0)", color: c.soft, activecolor: c.text };
  out.uirevision = "kept";
  const axis = (a, grid) => Object.assign(a, { gridcolor: grid || c.grid, linecolor: c.line, tickcolor: c.line, zerolinecolor: c.grid });
  for (const key of Object.keys(out)) if (/^[xy]axis\d*$/.test(key)) axis(out[key]);
  for (const key of ["xaxis", "yaxis", "zaxis"]) if (out.scene) out.scene[key] = axis({ ...out.scene[key] }, c.line);
  if (window.innerWidth < 900 && out.legend) out.legend.font = { size: 11 };
  return out;
}
function lightened(traces) {
  // The blue of the palette is too dark for a dark page: its sky blue takes over.
  if (!matchMedia("(prefers-color-scheme: dark)").matches) return structuredClone(traces);
  return JSON.parse(JSON.stringify(traces).replaceAll("#0072B2", "#56B4E9"));
}
function draw(place, figure) {
  drawn.set(place, figure);
  if (!window.Plotly || !figure) return;
  for (const note of place.querySelectorAll(":scope > .waiting")) note.remove();
  window.Plotly.react(place, lightened(figure.data), themed(figure.layout), config);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((figure, place) => draw(place, figure)));

function table(heads, rows) {
  const cell = (name, value, i) => el(name, { class: heads[i].startsWith("#") ? "num" : null }, value);
  return el("table", {},
    el("thead", {}, el("tr", {}, ...heads.map((h, i) => cell("th", h.replace("#", ""), i)))),
    el("tbody", {}, ...rows.map((r) => el("tr", {}, ...r.map((v, i) => cell("td", v, i))))));
}
const FACTORS = { kB: 1e3, MB: 1e6, GB: 1e9, min: 60, h: 3600 };
function quantity(text) {
  // Cells hold words such as "5.2x faster", "12.3 min" or "990 kB": numbers count by their value.
  const found = /^(-?[\d.,]+) ?([A-Za-z]*)/.exec(text);
  return found && !Number.isNaN(parseFloat(found[1])) ? parseFloat(found[1].replaceAll(",", "")) * (FACTORS[found[2]] || 1) : null;
}
function sortable(table, order = {}) {
  // Headings become buttons; `order` ({ column, up }) outlives a table that is made anew.
  const heads = [...table.tHead.rows[0].cells], text = (tr) => tr.cells[order.column] ? tr.cells[order.column].textContent.trim() : "";
  function sort() {
    const sign = order.up ? 1 : -1, isNumber = heads[order.column].classList.contains("num");
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = text(a), y = text(b), n = quantity(x), m = quantity(y);
      if (isNumber && (n === null || m === null)) return (n === null) - (m === null);
      return sign * (isNumber ? n - m : x.localeCompare(y));
    });
    for (const th of heads) th.removeAttribute("aria-sort");
    heads[order.column].setAttribute("aria-sort", order.up ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  }
  heads.forEach((th, column) => {
    const turn = () => { Object.assign(order, { column, up: order.column !== column || !order.up }); sort(); };
    if (th.textContent.trim()) th.replaceChildren(el("button", { type: "button", onclick: turn }, ...th.childNodes));
  });
  if (order.column !== undefined) sort();
  return table;
}
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { style: "position:fixed;opacity:0" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}
function copyable(text) {
  const button = el("button", { type: "button" }, "Copy");
  button.addEventListener("click", () => copy(text, button));
  return el("div", { class: "copy" }, el("pre", {}, text), button);
}
const tag = (word, kind) => word ? el("span", { class: `tag ${kind || word}` }, word) : "";
return { el, colours, themed, lightened, config, draw, table, sortable, copyable, tag };
})();
