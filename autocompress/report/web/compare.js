(async () => {
const figures = JSON.parse(document.getElementById("data").textContent);

Figures.sortable(document.getElementById("studies"));

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
