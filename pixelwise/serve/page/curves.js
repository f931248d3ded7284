// Curves of a training as SVG.

const SVG = "http://www.w3.org/2000/svg";

function add(parent, name, values, text) {
  const one = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(values)) one.setAttribute(key, value);
  if (text !== undefined) one.textContent = text;
  parent.append(one);
  return one;
}

export function chart(rows, names, title) {
  const width = 600, height = 240, left = 50, bottom = 30, key = 190;
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const values = names.flatMap((name) => rows.map((row) => row[name])).filter((v) => v !== null && v !== undefined);
  if (!values.length) return null;
  const low = Math.min(...values, 0), high = Math.max(...values) || 1;
  const x = (i) => left + (i / Math.max(1, rows.length - 1)) * (width - left - key);
  const y = (v) => 10 + (1 - (v - low) / (high - low || 1)) * (height - bottom - 20);
  add(svg, "line", { x1: left, x2: left, y1: 10, y2: height - bottom, class: "axis" });
  add(svg, "line", { x1: left, x2: width - key, y1: height - bottom, y2: height - bottom, class: "axis" });
  for (const v of [low, (low + high) / 2, high]) {
    add(svg, "text", { x: left - 5, y: y(v) + 4, "text-anchor": "end", class: "tick" }, v.toPrecision(3));
  }
  add(svg, "text", { x: left, y: height - 8, class: "tick" }, `${title}, epoch 1 to ${rows.length}`);
  const colors = ["#2980b9", "#c0392b", "#27ae60", "#8e44ad"];
  names.forEach((name, n) => {
    const points = rows.map((row, i) => [x(i), row[name]]).filter((p) => p[1] !== null && p[1] !== undefined);
    if (!points.length) return;
    const path = points.map(([px, v]) => `${px.toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    add(svg, "polyline", { points: path, fill: "none", stroke: colors[n % 4], "stroke-width": 2 });
    const place = { x: width - key + 10, y: 14 + 18 * n };
    add(svg, "rect", { ...place, width: 14, height: 4, fill: colors[n % 4] });
    add(svg, "text", { x: place.x + 20, y: place.y + 6, class: "tick" }, name.replaceAll("_", " "));
  });
  return svg;
}
