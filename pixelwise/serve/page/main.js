// The page: what people do, and what follows from it.

import * as api from "./api.js";
import { Picture } from "./canvas.js";
import { chart } from "./curves.js";
import { objectColor, shares, table, tint } from "./labels.js";
import { paint } from "./rle.js";

const $ = (id) => document.getElementById(id);
const picture = new Picture($("canvas"), $("stage"));
const state = {
  models: [], model: null, file: null, labels: null, width: 0, height: 0, colors: [], names: [], shown: [],
  embedded: null, prompts: [], asking: null,
};

function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

async function guarded(action) {
  try { await action(); } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

// --- models ----------------------------------------------------------------------------------------

async function start() {
  state.models = await api.models();
  $("model").replaceChildren(...state.models.map((one) => new Option(`${one.name} (${one.task})`, one.name)));
  choose(state.models[0].name);
}

function choose(name) {
  state.model = state.models.find((one) => one.name === name);
  const { takes_prompts: promptable, outputs, classes } = state.model;
  $("prompt").hidden = !promptable;
  $("save-mask").hidden = !promptable;
  $("classes").hidden = promptable;
  for (const output of ["labels", "overlay", "coco", "geojson"]) $(`save-${output}`).hidden = !outputs.includes(output);
  $("what").textContent = promptable
    ? "Then click an object to cut it out."
    : `It will be divided into ${classes.length} classes: ${classes.slice(0, 8).map((c) => c.name).join(", ")}${classes.length > 8 ? ", ..." : ""}.`;
  say("");
  if (state.file) guarded(look);
  if (!$("run-view").hidden) guarded(showTraining);
}

// --- images ----------------------------------------------------------------------------------------

async function open(file) {
  state.file = file;
  $("welcome").hidden = true;
  let image = null;
  try { image = await createImageBitmap(file); } catch { /* the browser cannot show it, the server may read it */ }
  picture.set(image);
  await look();
}

async function look() {
  state.asking?.abort();
  state.asking = new AbortController();
  state.labels = null;
  state.embedded = null;
  state.prompts = [];
  picture.marks = [];
  picture.box = null;
  picture.setLayer(null);
  $("legend").replaceChildren();
  const began = performance.now();
  say("Looking at the image ...");
  if (state.model.takes_prompts) {
    state.embedded = await api.embed(state.model.name, state.file);
    state.width = state.embedded.width;
    state.height = state.embedded.height;
    say("Click an object.");
    return;
  }
  if (state.model.outputs.includes("raw")) await lookAtLabels();
  else await lookAtOverlay();
  say(`Done in ${((performance.now() - began) / 1000).toFixed(1)} s.`);
}

async function lookAtLabels() {
  const answer = await api.predict(state.model.name, state.file, "raw", state.asking.signal);
  const [height, width] = answer.headers.get("X-Shape").split(",").map(Number);
  const bytes = await answer.arrayBuffer();
  state.labels = answer.headers.get("X-Type") === "uint8" ? new Uint8Array(bytes) : new Uint16Array(bytes);
  state.width = width;
  state.height = height;
  const classes = state.model.classes;
  if (state.model.usual_output === "labels" && state.model.task !== "panoptic") {
    state.names = classes.map((one) => one.name);
    state.colors = classes.map((one) => one.color);
  } else {
    const most = state.labels.reduce((a, b) => Math.max(a, b), 0);
    state.names = Array.from({ length: most + 1 }, (_, i) => (i ? `object ${i}` : "nothing"));
    state.colors = state.names.map((_, i) => objectColor(i));
  }
  const background = /^(background|nothing|void|unlabell?ed)$/i;
  state.shown = state.names.map((name) => !background.test(name));
  legend();
  recolor();
}

async function lookAtOverlay() {
  const answer = await api.predict(state.model.name, state.file, "overlay", state.asking.signal);
  picture.set(await createImageBitmap(await answer.blob()));
}

function legend() {
  const found = shares(state.labels, state.names.length);
  const order = state.names.map((_, i) => i).filter((i) => found[i] > 0).sort((a, b) => found[b] - found[a]);
  $("legend").replaceChildren(...order.slice(0, 300).map((i) => {
    const item = document.createElement("li");
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: state.shown[i] });
    box.addEventListener("change", () => { state.shown[i] = box.checked; recolor(); });
    const swatch = document.createElement("canvas");
    swatch.className = "swatch";
    const c = swatch.getContext("2d");
    c.fillStyle = `rgb(${state.colors[i].join(",")})`;
    c.fillRect(0, 0, swatch.width, swatch.height);
    const share = Object.assign(document.createElement("span"), { className: "share" });
    share.textContent = `${(100 * found[i]).toFixed(1)} %`;
    label.append(box, swatch, state.names[i], share);
    item.append(label);
    return item;
  }));
}

function recolor() {
  if (!state.labels) return;
  const alpha = Math.round(2.55 * $("opacity").value);
  const entries = table(state.colors, state.shown, alpha);
  picture.setLayer(tint(state.labels, state.width, state.height, entries, $("outline").checked));
}

// --- prompts ---------------------------------------------------------------------------------------

async function ask() {
  picture.marks = state.prompts.filter((one) => !one.box).map((one) => ({ x: one.x, y: one.y, inside: one.inside }));
  const box = state.prompts.findLast((one) => one.box)?.box ?? null;
  picture.box = box;
  picture.draw();
  if (!state.prompts.length) { state.labels = null; picture.setLayer(null); $("score").textContent = ""; return; }
  state.asking?.abort();
  state.asking = new AbortController();
  const prompt = {};
  if (picture.marks.length) {
    prompt.points = picture.marks.map((one) => [one.x, one.y]);
    prompt.labels = picture.marks.map((one) => (one.inside ? 1 : 0));
  }
  if (box) prompt.box = box;
  let found;
  try {
    found = await api.segment(state.model.name, state.embedded.image, prompt, state.asking.signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    state.embedded = await api.embed(state.model.name, state.file);  // forgotten meanwhile: send it again
    found = await api.segment(state.model.name, state.embedded.image, prompt, state.asking.signal);
  }
  state.labels = new Uint8Array(state.width * state.height);
  const best = found.masks[0];
  paint(state.labels, best.rle, 1);
  state.colors = [[0, 0, 0], [41, 128, 185]];
  state.names = ["nothing", "object"];
  state.shown = [false, true];
  recolor();
  $("score").textContent = `Expected IoU ${best.score.toFixed(2)}`;
  say("");
}

// --- saving ----------------------------------------------------------------------------------------

function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function save(output) {
  if (!state.file) { say("There is no image yet.", true); return; }
  const stem = (state.file.name || "image").replace(/\.[^.]*$/, "");
  const suffix = { labels: ".png", overlay: "_overlay.png", coco: ".json", geojson: ".geojson" }[output];
  const answer = await api.predict(state.model.name, state.file, output);
  download(await answer.blob(), stem + suffix);
}

async function saveMask() {
  if (!state.labels) { say("Click an object first.", true); return; }
  const canvas = new OffscreenCanvas(state.width, state.height);
  const entries = table([[0, 0, 0], [255, 255, 255]], [true, true], 255);
  canvas.getContext("2d").putImageData(tint(state.labels, state.width, state.height, entries, false), 0, 0);
  download(await canvas.convertToBlob({ type: "image/png" }), "mask.png");
}

// --- training --------------------------------------------------------------------------------------

async function showTraining() {
  const told = await api.training(state.model.name);
  const rows = told.history;
  $("run-none").hidden = rows.length > 0 || told.settings !== null;
  const names = rows.length ? Object.keys(rows[0]) : [];
  const groups = [
    ["Loss", names.filter((name) => /loss$/.test(name))],
    ["Scores", names.filter((name) => name.startsWith("val_") && !name.includes("/") && !/loss$/.test(name)).slice(0, 4)],
  ];
  $("curves").replaceChildren(...groups.map(([title, of]) => chart(rows, of, title)).filter(Boolean));
  $("settings").tBodies[0].replaceChildren(...Object.entries(told.settings ?? {}).map(([name, value]) => {
    const row = document.createElement("tr");
    for (const text of [name, typeof value === "string" ? value : JSON.stringify(value)]) {
      row.append(Object.assign(document.createElement("td"), { textContent: text }));
    }
    return row;
  }));
}

function show(view) {
  for (const one of ["image", "run"]) {
    $(`${one}-view`).hidden = one !== view;
    $(`view-${one}`).setAttribute("aria-pressed", String(one === view));
  }
  if (view === "run") guarded(showTraining);
  else picture.fit();
}

// --- what people do --------------------------------------------------------------------------------

const stage = $("stage");
let drag = null;

stage.addEventListener("pointerdown", (event) => {
  if (event.target.closest("#welcome")) return;
  stage.setPointerCapture(event.pointerId);
  const at = picture.at(event);
  const boxing = event.shiftKey && state.embedded !== null;
  drag = { x: event.clientX, y: event.clientY, at, moved: false, boxing, button: event.button, alt: event.altKey };
});
stage.addEventListener("pointermove", (event) => {
  const at = picture.at(event);
  if (drag) {
    const far = Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 3;
    drag.moved ||= far;
    if (drag.boxing) {
      picture.box = [Math.min(drag.at.x, at.x), Math.min(drag.at.y, at.y), Math.max(drag.at.x, at.x), Math.max(drag.at.y, at.y)];
      picture.draw();
    } else if (drag.moved) {
      picture.move(event.movementX, event.movementY);
    }
    return;
  }
  const x = Math.floor(at.x * state.width / (picture.image?.width || 1));
  const y = Math.floor(at.y * state.height / (picture.image?.height || 1));
  const inside = state.labels && x >= 0 && y >= 0 && x < state.width && y < state.height;
  $("under").textContent = inside ? `${state.names[state.labels[y * state.width + x]] ?? "ignored"} at ${x}, ${y}` : "\u00a0";
});
stage.addEventListener("pointerup", (event) => {
  const done = drag;
  drag = null;
  if (!done || !state.embedded) return;
  const clamp = (value, most) => Math.max(0, Math.min(most, value));
  if (done.boxing && done.moved) {
    const [x0, y0, x1, y1] = picture.box;
    state.prompts.push({ box: [clamp(x0, state.width), clamp(y0, state.height), clamp(x1, state.width), clamp(y1, state.height)] });
  } else if (!done.moved) {
    const { x, y } = done.at;
    if (x < 0 || y < 0 || x > state.width || y > state.height) return;
    state.prompts.push({ x, y, inside: done.button === 0 && !done.alt });
  } else return;
  guarded(ask);
});
stage.addEventListener("contextmenu", (event) => event.preventDefault());
stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  picture.zoomBy(Math.exp(-event.deltaY / 500), event);
}, { passive: false });
for (const name of ["dragenter", "dragover"]) {
  stage.addEventListener(name, (event) => { event.preventDefault(); stage.classList.add("over"); });
}
stage.addEventListener("dragleave", () => stage.classList.remove("over"));
stage.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  const file = event.dataTransfer.files[0];
  if (file) guarded(() => open(file));
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) guarded(() => open(file));
});
$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) guarded(() => open($("file").files[0])); });
$("model").addEventListener("change", () => choose($("model").value));
$("opacity").addEventListener("input", recolor);
$("outline").addEventListener("change", recolor);
$("undo").addEventListener("click", () => { state.prompts.pop(); guarded(ask); });
$("clear").addEventListener("click", () => { state.prompts = []; guarded(ask); });
for (const output of ["labels", "overlay", "coco", "geojson"]) {
  $(`save-${output}`).addEventListener("click", () => guarded(() => save(output)));
}
$("save-mask").addEventListener("click", () => guarded(saveMask));
$("view-image").addEventListener("click", () => show("image"));
$("view-run").addEventListener("click", () => show("run"));
addEventListener("keydown", (event) => {
  if (event.target.closest("input, select") && event.key !== "Escape") return;
  const step = 40;
  const does = {
    "+": () => picture.zoomBy(1.25), "=": () => picture.zoomBy(1.25), "-": () => picture.zoomBy(0.8), 0: () => picture.fit(),
    ArrowLeft: () => picture.move(step, 0), ArrowRight: () => picture.move(-step, 0),
    ArrowUp: () => picture.move(0, step), ArrowDown: () => picture.move(0, -step),
    o: () => $("file").click(),
    c: () => { $("opacity").value = $("opacity").value > 0 ? 0 : 55; recolor(); },
    Escape: () => { if (state.embedded) { state.prompts = []; guarded(ask); } },
  }[event.key];
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && state.embedded) {
    event.preventDefault();
    state.prompts.pop();
    guarded(ask);
  } else if (does && !event.ctrlKey && !event.metaKey) does();
});

guarded(start);
