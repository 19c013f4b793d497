(async () => {
const figures = JSON.parse(document.getElementById("data").textContent);

function sortable(table) {
  // Cells hold words such as "5.2x faster" or "12.3 min": numbers count by their value.
  const value = (tr, i) => tr.cells[i].textContent.trim();
  const numeric = (text) => { const v = parseFloat(text.replaceAll(",", "")); return Number.isNaN(v) ? null : v; };
  table.tHead.addEventListener("click", (event) => {
    const th = event.target.closest("th");
    if (!th) return;
    const i = th.cellIndex, up = th.getAttribute("aria-sort") !== "ascending", sign = up ? 1 : -1;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = value(a, i), y = value(b, i), n = numeric(x), m = numeric(y);
      return sign * (th.classList.contains("num") && n !== null && m !== null ? n - m : x.localeCompare(y));
    });
    for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  });
}
sortable(document.getElementById("studies"));

try {
  const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
} catch (error) {
  for (const note of document.querySelectorAll(".waiting")) note.textContent = `This browser cannot unpack the plots (${error.message}); the table works.`;
  return;
}
for (const [name, figure] of Object.entries(figures)) Figures.draw(document.getElementById(`plot-${name}`), figure);
})();
