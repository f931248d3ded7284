// The view of an image: what a model finds in it.

import * as api from "./api.js";
import { objectColor, shares, table, translated } from "./labels.js";
import { embedded, maskFor } from "./prompts.js";
import { $, download, element, picture, say, state, stem, swatch } from "./state.js";

export async function setFile(file, number) {
  Object.assign(state, { file, number });  // at once: labels belong to both
  $("welcome").hidden = true;
  let image = null;
  try { image = await createImageBitmap(file); } catch { /* the browser cannot show it, the server may read it */ }
  picture.set(image);
}

function forget() {
  state.asking?.abort();
  state.asking = new AbortController();
  Object.assign(state, { labels: null, embedded: null, prompts: [] });
  Object.assign(picture, { marks: [], box: null, cursor: null });
  picture.setLabels(null);
  $("legend").replaceChildren();
  $("score").textContent = "";
}

export async function look() {
  forget();
  const began = performance.now();
  say("Looking at the image ...");
  if (state.model.takes_prompts) {
    state.embedded = await embedded(state.model.name);
    say("Click an object.");
    return;
  }
  if (!state.model.outputs.includes("raw")) {
    const answer = await api.predict(state.model.name, state.file, "overlay", state.asking.signal);
    picture.set(await createImageBitmap(await answer.blob()));
  } else {
    Object.assign(state, await found(state.model));
    const other = state.models.find((one) => one.name === $("compare").value);
    if (other && other !== state.model) await compare(other);
    legend();
    recolor();
  }
  say(`Done in ${((performance.now() - began) / 1000).toFixed(1)} s.`);
}

// Labels with their names and colours.
export async function found(model, signal = state.asking?.signal) {
  const told = await api.raw(await api.predict(model.name, state.file, "raw", signal));
  if (hasClasses(model)) {
    told.names = model.classes.map((one) => one.name);
    told.colors = model.classes.map((one) => one.color);
  } else {
    const most = told.labels.reduce((a, b) => Math.max(a, b), 0);
    told.names = Array.from({ length: most + 1 }, (_, i) => (i ? `object ${i}` : "nothing"));
    told.colors = told.names.map((_, i) => objectColor(i));
  }
  const background = /^(_?background_?|nothing|void|unlabell?ed)$/i;
  told.shown = told.names.map((name) => !background.test(name));
  return told;
}

export const hasClasses = (model) => model.usual_output === "labels" && model.task !== "panoptic";

// Only where two models disagree, in the colours of the second.
async function compare(other) {
  const told = await found(other);
  const none = 255;
  const theirs = translated(told.labels, told.names, state.names, none);
  const same = state.names.length;
  const labels = new Uint16Array(theirs.length);
  for (let i = 0; i < labels.length; i++) labels[i] = theirs[i] === state.labels[i] ? same : theirs[i];
  state.labels = labels;
  state.names = [...state.names.map((name) => `${other.name}: ${name}`), "the same"];
  state.colors = [...state.colors, [0, 0, 0]];
  state.shown = state.names.map((_, i) => i !== same);
}

function legend() {
  const share = shares(state.labels, state.names.length);
  const order = state.names.map((_, i) => i).filter((i) => share[i] > 0).sort((a, b) => share[b] - share[a]);
  $("legend").replaceChildren(...order.slice(0, 300).map((i) => {
    const box = element("input", { type: "checkbox", checked: state.shown[i] });
    box.addEventListener("change", () => { state.shown[i] = box.checked; recolor(); });
    const told = element("span", { className: "share", textContent: `${(100 * share[i]).toFixed(1)} %` });
    return element("li", {}, element("label", {}, box, swatch(state.colors[i]), state.names[i], told));
  }));
}

export function recolor() {
  if (!state.labels) return;
  const entries = table(state.colors, state.shown, Math.round(2.55 * $("opacity").value));
  picture.setLabels(state.labels, state.width, state.height, entries, $("outline").checked);
}

export async function ask() {
  const told = await maskFor(state.model.name);
  if (!told) { state.labels = null; picture.setLabels(null); $("score").textContent = ""; return; }
  Object.assign(state, {
    labels: told.mask, width: told.width, height: told.height,
    colors: [[0, 0, 0], [41, 128, 185]], names: ["nothing", "object"], shown: [false, true],
  });
  recolor();
  $("score").textContent = state.model.sha256 ? `Expected IoU ${told.score.toFixed(2)}` : "";
  say("");
}

export async function save(output) {
  if (!state.file) { say("There is no image yet.", true); return; }
  const suffix = { labels: ".png", overlay: "_overlay.png", coco: ".json", geojson: ".geojson" }[output];
  const answer = await api.predict(state.model.name, state.file, output);
  download(await answer.blob(), stem() + suffix);
}

export async function saveMask() {
  if (!state.labels) { say("Click an object first.", true); return; }
  const canvas = new OffscreenCanvas(state.width, state.height);
  const pixels = new ImageData(state.width, state.height);
  new Uint32Array(pixels.data.buffer).forEach((_, i, out) => { out[i] = state.labels[i] ? 0xffffffff : 0xff000000; });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  download(await canvas.convertToBlob({ type: "image/png" }), "mask.png");
}
