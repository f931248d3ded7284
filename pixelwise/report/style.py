"""Look and behaviour of the page. Without scripts everything can still be read."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2128; --soft: #5f6976; --line: #e2e6eb;
  --card: #f5f7f9; --accent: #2f81f7; --mark: #fff3d6; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #dde3ea; --soft: #98a2ae;
  --line: #2b3138; --card: #1c2025; --mark: #3b3320; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
a { color: var(--accent); }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 28px; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 10px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
p { margin: 6px 0; color: var(--soft); }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 18px 0; }
.tiles div { flex: 1 1 110px; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 10px 14px; }
.tiles b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tiles span { color: var(--soft); font-size: 13px; }
.tiles div:first-child b { color: var(--accent); }
.wide { overflow-x: auto; }
.tall { max-height: 430px; overflow: auto; border: 1px solid var(--line); border-radius: 8px; }
.tall th { position: sticky; top: 0; background: var(--card); }
.tall tbody tr:last-child td { border-bottom: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: 13px; }
th:first-child, td:first-child { text-align: left; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer; }
th button:hover { color: var(--ink); text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
tfoot td { font-weight: 600; }
td.bar { width: 24%; min-width: 90px; }
td.bar i { display: block; height: 8px; border-radius: 4px; background: var(--accent); }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 8px;
  vertical-align: -1px; border: 1px solid #8888; }
.legend span { display: inline-block; margin: 0 8px; }
img { max-width: 100%; height: auto; display: block; }
.plot { margin: 6px auto; }
.example { margin: 18px 0; }
.example p { overflow-wrap: anywhere; } .example b { color: var(--ink); margin-right: 10px; }
.panels { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
@media (max-width: 700px) { .panels { grid-template-columns: repeat(2, 1fr); } }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: 12px; text-align: center; }
.zoom { display: block; width: 100%; padding: 0; border: 0; background: none; cursor: zoom-in; }
.zoom img { width: 100%; border-radius: 6px; }
img.small { image-rendering: pixelated; }
dialog { border: 0; padding: 0; max-width: none; max-height: none; width: 100vw; height: 100vh;
  background: #0d0f12f2; cursor: zoom-out; }
dialog figure { height: 100%; display: flex; flex-direction: column; padding: 12px; }
dialog img { flex: 1; min-height: 0; width: 100%; object-fit: contain; }
dialog figcaption { color: #dde3ea; font-size: 15px; padding-top: 8px; }
table.values td { text-align: left; white-space: normal; overflow-wrap: anywhere; font-size: 13px; }
table.values td:first-child { color: var(--soft); white-space: nowrap; width: 1%; }
table.values tr.changed td { background: var(--mark); color: var(--ink); }
table.values td.default { color: var(--soft); }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px;
  white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; margin: 6px 0 14px; }
"""

SCRIPT = """
"use strict";
const box = document.querySelector("dialog");
const pictures = [...document.querySelectorAll(".zoom img")];
let shown = 0;
function show(number) {
  shown = (number + pictures.length) % pictures.length;
  box.querySelector("figure").replaceChildren(
    pictures[shown].cloneNode(), Object.assign(document.createElement("figcaption"), {
      textContent: pictures[shown].alt + " \\u2013 arrow keys: next picture, Escape: close" }));
  if (!box.open) box.showModal();
}
pictures.forEach((picture, number) => picture.parentNode.addEventListener("click", () => show(number)));
if (box) box.addEventListener("click", () => box.close());
if (box) box.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step) { event.preventDefault(); show(shown + step); }
});
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const up = head.getAttribute("aria-sort") === "descending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const cell = (row) => row.cells[head.cellIndex];
  const words = (a, b) => cell(a).textContent.localeCompare(cell(b).textContent, "en", { numeric: true });
  const numbers = (a, b) => cell(a).dataset.value - cell(b).dataset.value;
  const compare = "value" in cell(body.rows[0]).dataset ? numbers : words;
  body.append(...[...body.rows].sort((a, b) => up ? compare(a, b) : compare(b, a)));
});
"""

# `pixelwise serve` shows reports under this address; elsewhere there is no page to lead to.
LINKS = """
if (/^\\/v1\\/reports\\/[0-9]+$/.test(location.pathname)) {
  const link = (href, textContent) => Object.assign(document.createElement("a"), { href, textContent });
  for (const one of document.querySelectorAll("[data-image]")) {
    one.replaceChildren(link(`/?image=${encodeURIComponent(one.textContent)}`, one.textContent));
  }
  const back = document.createElement("p");
  back.append(link("/?view=run", "To the page"));
  document.querySelector("main").prepend(back);
}
"""
