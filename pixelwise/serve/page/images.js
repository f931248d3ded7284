// The images of the server: a list with scores, worst first; and walking from one to the next.

import * as api from "./api.js";
import * as correct from "./correct.js";
import { $, download, element, guarded, say, state } from "./state.js";

const ROW = 32;  // pixels of a row; only those in sight are made
const order = { by: "name", up: true, rows: [] };
const CONFUSED = "confused/";  // columns of `pixelwise evaluate --csv`
const STATES = { saved: "saved", other: "not saved here", given: "from the data", none: "none" };

export async function load() {
  state.collection = await api.collection($("score-column").value);
  const { columns = [], column, evaluations, images } = state.collection;
  $("view-list").hidden = !images.length;
  $("walk").hidden = !images.length;
  $("draw-png").hidden = $("all-png").hidden = Boolean(state.collection.objects);
  $("score-column").replaceChildren(...columns.map((name) => new Option(name, name, false, name === column)));
  $("score-choice").hidden = !columns.length;
  if (evaluations.length && order.by === "name") order.by = evaluations.length > 1 ? "difference" : 0;
  const confused = columns.filter((name) => name.startsWith(CONFUSED));
  $("confused").hidden = !confused.length;
  $("confusions").replaceChildren(...confused.map((name) => {
    const button = element("button", { type: "button", textContent: name.slice(CONFUSED.length) });
    button.setAttribute("aria-pressed", String(name === column));
    button.addEventListener("click", () => guarded(() => choose(name)));
    return button;
  }));
  sort();
}

// The images with the worst of a score come first: the lowest, but of confusions the highest.
export async function choose(column) {
  $("score-column").value = column;
  order.up = !column.startsWith(CONFUSED);
  if (!order.up) order.by = 0;
  await load();
}

export function headings() {
  const { evaluations } = state.collection;
  const columns = [["name", "Image"], ["state", "Labels"], ...evaluations.map((name, i) => [i, name])];
  if (evaluations.length > 1) columns.push(["difference", `${evaluations[1]} - ${evaluations[0]}`]);
  return columns;
}

function value(image, by) {
  if (by === "name") return image.name;
  if (by === "state") return image.state;
  const [a, b] = image.scores;
  if (by === "difference") return a == null || b == null ? null : b - a;
  return image.scores[by] ?? null;
}

function sort() {
  const rows = state.collection.images.map((image) => [value(image, order.by), image]);
  rows.sort(([a], [b]) => (a === null) - (b === null) || (a < b ? -1 : a > b ? 1 : 0) * (order.up ? 1 : -1));
  order.rows = rows.map(([, image]) => image);
  draw();
}

export function draw() {
  const columns = headings();
  $("list-head").replaceChildren(...columns.map(([by, text]) => {
    const button = element("button", { type: "button", textContent: text });
    if (by === order.by) button.append(order.up ? " \u2191" : " \u2193");
    button.addEventListener("click", () => {
      order.up = by === order.by ? !order.up : true;
      order.by = by;
      sort();
    });
    return element("th", { scope: "col" }, button);
  }));
  const list = $("list"), count = order.rows.length;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(count, first + Math.ceil((list.clientHeight || 600) / ROW) + 10);
  const space = (rows) => {
    const one = element("tr", { className: "space" }, element("td", { colSpan: columns.length }));
    one.firstChild.height = rows * ROW;
    return one;
  };
  $("list-rows").replaceChildren(space(first), ...order.rows.slice(first, last).map((image) => {
    const open = element("button", { type: "button", textContent: image.name, className: "link" });
    open.addEventListener("click", () => guarded(() => openNumber(image.number, "correct")));
    const row = element("tr", {}, element("td", {}, open), element("td", { textContent: STATES[image.state] }));
    for (const [by] of columns.slice(2)) {
      const number = value(image, by);
      row.append(element("td", { className: "number", textContent: number === null ? "" : number.toFixed(3) }));
    }
    if (image.number === state.number) row.setAttribute("aria-current", "true");
    return row;
  }), space(count - last));
  const saved = state.collection.images.filter((one) => one.state === "saved").length;
  $("list-told").textContent = `${count} images, ${saved} saved.`;
  $("all-choice").hidden = !saved;
}

let opener = null;
export function onOpen(action) { opener = action; }

export async function openNumber(number, view) {
  if (!(await left())) return;
  const image = state.collection.images[number];
  say("Fetching the image ...");
  const file = await api.imageFile(number, image.name);
  if (!(await left())) return;  // more may have been drawn meanwhile
  const place = order.rows.findIndex((one) => one.number === number) + 1;
  $("walk-told").textContent = `${place} of ${order.rows.length}: ${image.name}`;
  await opener(file, view, number);
}

// Changes are saved before another image is opened; whether it may be.
export async function left() {
  correct.accept();
  if (!correct.changed()) return true;
  if (state.collection.saves && state.number !== null) return correct.saveHere();
  return confirm("The labels of this image are not saved. Leave them?");
}

export async function walk(step) {
  if (!order.rows.length) return;
  correct.accept();
  // Going on says that these labels are right, also those of a model that nothing was changed about.
  if (step > 0 && state.collection.saves && correct.unsaved() && !(await correct.saveHere())) return;
  const here = order.rows.findIndex((one) => one.number === state.number);
  const next = order.rows[here < 0 ? 0 : here + step];
  if (!next) { say(step > 0 ? "This was the last image." : "This is the first image."); return; }
  await openNumber(next.number, "correct");
}

export async function saveAll(output) {
  say("Gathering all that was saved ...");
  download(await api.everything(output), { coco: "labels.json", yolo: "yolo.zip", png: "labels.zip" }[output]);
  say("");
}
