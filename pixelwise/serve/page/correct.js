// The view where labels are drawn: brush, eraser, polygon, fill, objects by clicks; saved beside the images or downloaded.

import * as api from "./api.js";
import { Drawing } from "./brush.js";
import { objectColor, table, translated } from "./labels.js";
import { found, hasClasses } from "./look.js";
import { chooseObject, listObjects, nameOf, objectsOf } from "./object_list.js";
import { Objects } from "./objects.js";
import * as polygon from "./polygon.js";
import { addPrompt, boxOf, maskFor } from "./prompts.js";
import { unsaved } from "./saving.js";
import { $, element, picture, say, state, swatch } from "./state.js";

export { chooseObject, removeObject, renameObject } from "./object_list.js";
export { changed, saveAs, saveHere, unsaved } from "./saving.js";

export const TOOLS = { move: "v", brush: "b", eraser: "e", polygon: "l", fill: "f", object: "g" };
export const desk = { drawing: null, file: null, classes: [], ignore: 255, ignoreValue: 255, chosen: 0, tool: "brush", painted: false, fromModel: false, number: null };
let stroke = null;  // places of the pointer that are not drawn yet

// --- classes ----------------------------------------------------------------------------------------

export function classes() {
  if (state.collection.classes.length) {
    const { ignore, ignore_value: ignoreValue } = state.collection;
    return { classes: state.collection.classes, ignore, ignoreValue };
  }
  const model = [state.model, ...state.models].find((one) => hasClasses(one));
  const known = model?.classes ?? [{ name: "background", color: [0, 0, 0] }, { name: "object", color: [230, 126, 34] }];
  const ignore = known.length <= 255 ? 255 : 65535;
  return { classes: known.map((one, value) => ({ ...one, value })), ignore, ignoreValue: ignore, model: model?.name };
}

function listClasses() {
  $("paint-classes").replaceChildren(...desk.classes.map((one, label) => {
    const radio = element("input", { type: "radio", name: "paint-class", checked: label === desk.chosen });
    radio.addEventListener("change", () => pick(label));
    const key = element("kbd", { className: "share", textContent: label < 9 ? String(label + 1) : "" });
    return element("li", {}, element("label", {}, radio, swatch(one.color), one.name, key));
  }));
}

export function pick(label) {
  if (label < 0 || label >= desk.classes.length) return;
  acceptObject();
  desk.chosen = label;
  if (desk.drawing?.objects && !polygon.isOpen()) chooseObject(-1);  // the next one is a new one
  const radio = $("paint-classes").children[label]?.querySelector("input");
  if (radio) { radio.checked = true; radio.scrollIntoView({ block: "nearest" }); }
  if (desk.tool === "eraser" || desk.tool === "move") use("brush");
}

export const pickBeside = (step) => pick((desk.chosen + step + desk.classes.length) % desk.classes.length);

export function use(tool) {
  accept();
  desk.tool = tool;
  for (const name of Object.keys(TOOLS)) $(`tool-${name}`).setAttribute("aria-pressed", String(name === tool));
  $("stage").dataset.tool = tool;
  Object.assign(picture, { cursor: null, cross: null });
  picture.soon();
  const told = {
    move: "Drag to move the image.", brush: "Draw with the chosen class.",
    eraser: "Pixels become unlabelled: they count for nothing.",
    polygon: "Click the corners; Enter or a double click closes, Backspace takes the last one back, Escape gives up. Arrow keys and Space click too.",
    fill: "Click a region: all of it gets the chosen class.",
    object: "Click an object: it gets the chosen class. Right click what does not belong to it, shift and drag a box around it; Enter accepts.",
  };
  $("tool-told").textContent = told[tool];
}

// --- where labels begin -----------------------------------------------------------------------------

const nothing = (width, height) => new (desk.ignore > 255 ? Uint16Array : Uint8Array)(width * height).fill(desk.ignore);

function starts() {
  const options = [];
  const image = state.collection.images[state.number];
  if (state.collection.objects) {
    if (image?.state === "saved") options.push(["saved", "what was saved"]);
    if (image && !["none", "saved"].includes(image.state)) options.push(["data", "the data's objects"]);
    for (const model of state.models) {
      if (model.outputs.includes("coco")) options.push([`model:${model.name}`, `the model ${model.name}`]);
    }
    return [...options, ["", "nothing"]];
  }
  if (image?.state === "saved") options.push(["saved", "what was saved"]);
  if (image && image.state !== "none") options.push(["data", "the data's labels"]);
  for (const model of state.models) if (hasClasses(model)) options.push([`model:${model.name}`, `the model ${model.name}`]);
  options.push(["", "nothing"]);
  return options;
}

export async function enter() {
  use(desk.tool);
  if (!state.file) return;
  Object.assign(picture, { marks: [], box: null });
  state.prompts = [];
  if (desk.file !== state.file) {
    Object.assign(desk, classes(), { drawing: null });
    desk.chosen = Math.min(desk.chosen, desk.classes.length - 1);
    $("start-from").replaceChildren(...starts().map(([value, text]) => new Option(text, value)));
    listClasses();
    await start();
  } else recolor();
}

export async function start() {
  polygon.taken();
  const from = $("start-from").value, { width, height } = picture, { file, number } = state;
  let labels = null, objects = state.collection.objects ? [] : null;
  if (objects && from) {
    objects = await objectsOf(from);
  } else if (from === "saved" || from === "data") {
    labels = await stored(from);
  } else if (from) {
    const model = state.models.find((one) => `model:${one.name}` === from);
    say("Looking at the image ...");
    const told = await found(model, null);
    if (!width && file === state.file) picture.set(await createImageBitmap(new ImageData(told.width, told.height)));
    labels = translated(told.labels, told.names, desk.classes.map((one) => one.name), desk.ignore);
  }
  if (file !== state.file) return;  // another image was opened meanwhile
  if (!picture.width) throw new Error("The browser cannot show this image: give it as PNG or JPEG.");
  if (labels && labels.length !== picture.width * picture.height) throw new Error("These labels have another size than the image.");
  desk.drawing = objects
    ? new Objects(picture.width, picture.height, objects)
    : new Drawing(labels ?? nothing(width, height), picture.width, picture.height);
  Object.assign(desk, { file, number, painted: false, fromModel: from.startsWith("model:") });
  if (state.view === "correct") recolor();
  tell();
  say(from ? `Begun with ${$("start-from").selectedOptions[0].text}.` : "Nothing is labelled yet: choose a class and draw.");
}

async function stored(of) {
  const told = await api.storedLabels(state.number, of);
  return told.labels.BYTES_PER_ELEMENT === nothing(0, 0).BYTES_PER_ELEMENT ? told.labels : Uint16Array.from(told.labels);
}

export function recolor() {
  if (!desk.drawing) return;
  const { objects } = desk.drawing;
  const colors = objects ? [[0, 0, 0], ...objects.map((_, i) => objectColor(i))] : desk.classes.map((one) => one.color);
  const entries = table(colors, colors.map((_, i) => !objects || i > 0), Math.round(2.55 * $("opacity").value));
  const { labels, width, height } = desk.drawing;
  picture.setLabels(labels, width, height, entries, $("outline").checked);
  listObjects();
}

// A step is over.
function done() {
  desk.drawing.end();
  if (desk.drawing.objects) recolor();
  tell();
}

export function tell() {
  const { drawing } = desk;
  $("step-back").disabled = !drawing?.past.length;
  $("step-forward").disabled = !drawing?.future.length;
  $("changed").textContent = unsaved() ? "Not saved yet." : "";
}

// --- drawing ----------------------------------------------------------------------------------------

export const size = () => Number($("brush-size").value);
export function resize(factor) {
  const old = size();
  $("brush-size").value = Math.max(1, Math.min(400, factor > 1 ? Math.max(old + 1, Math.round(old * factor)) : Math.min(old - 1, Math.round(old * factor))));
  $("brush-told").textContent = size();
}

// A brush of one pixel is drawn through the middles of pixels.
const snapped = (at) => (size() === 1 ? { x: Math.floor(at.x) + 0.5, y: Math.floor(at.y) + 0.5 } : at);

function drawStroke() {
  if (!stroke || !desk.drawing.step) return;
  const label = desk.tool === "eraser" ? desk.drawing.none ?? desk.ignore : desk.drawing.value(desk.chosen);
  const radius = size() === 1 ? 0.51 : size() / 2;
  const places = stroke.waiting;
  stroke.waiting = [];
  for (const at of places) {
    picture.touch(desk.drawing.stroke(stroke.at, at, radius, label));
    stroke.at = at;
  }
}

export function down(event, drag) {
  if (!desk.drawing || (desk.tool !== "brush" && desk.tool !== "eraser") || event.button !== 0) return;
  if (desk.tool === "eraser" && desk.drawing.chosen === -1) { say("Choose the object to erase from.", true); return; }
  drag.drawing = true;
  desk.drawing.begin();
  if (desk.drawing.objects) { desk.drawing.value(desk.chosen); recolor(); }
  const at = snapped(picture.at(event));
  stroke = { at, waiting: [at] };
  requestAnimationFrame(drawStroke);
}

export function moved(event, drag) {
  const at = picture.at(event);
  if (event.movementX || event.movementY) picture.cross = null;  // browsers also tell of moves without one
  if (desk.tool === "brush" || desk.tool === "eraser") {
    picture.cursor = { ...at, radius: size() / 2 };
    picture.soon();
  }
  if (drag?.drawing) {
    const many = event.getCoalescedEvents?.() ?? [];
    if (!stroke.waiting.length) requestAnimationFrame(drawStroke);
    for (const one of many.length ? many : [event]) stroke.waiting.push(snapped(picture.at(one)));
    return true;
  }
  if (desk.tool === "polygon" && polygon.isOpen()) { picture.cursor = at; picture.soon(); }
  if (drag?.boxing) { picture.box = boxOf(drag.at, at); picture.soon(); return true; }
  return false;
}

export async function up(at, drag) {
  const { drawing } = desk;
  if (!drawing) return;
  if (drag.drawing) {
    drawStroke();
    stroke = null;
    done();
    return;
  }
  if (desk.tool === "fill" && !drag.moved && drag.button === 0) {
    const x = Math.floor(drag.at.x), y = Math.floor(drag.at.y);
    if (x < 0 || y < 0 || x >= drawing.width || y >= drawing.height) return;
    drawing.begin();
    picture.touch(drawing.fill(x, y, drawing.value(desk.chosen)));
    done();
  }
  if (desk.tool === "move" && !drag.moved && drawing.objects) chooseObject((drawing.labels[pixelAt(drag.at)] ?? 0) - 1);
  if (desk.tool === "polygon" && !drag.moved && drag.button === 0 && polygon.add(drag.at)) closePolygon();
  if (desk.tool === "object" && addPrompt(drag, at)) await cut();
}

// The mask for the prompts so far takes the place of the one before.
async function cut() {
  const { drawing } = desk;
  say("Cutting out ...");
  const told = await maskFor($("cutter").value);
  if (drawing !== desk.drawing) return;  // another image was opened meanwhile
  if (desk.painted) { picture.touch(drawing.undo()); drawing.future.pop(); desk.painted = false; }
  if (told) {
    desk.isNew = drawing.chosen === -1;
    drawing.begin();
    picture.touch(drawing.mask(told.mask, drawing.value(desk.chosen)));
    desk.painted = drawing.step.size > 0;
    drawing.end();
  }
  if (drawing.objects) recolor();
  say(told ? "Enter accepts; right click takes away; Escape gives up." : "");
  tell();
}

// The keyboard clicks where it points.
export const points = () => ["polygon", "fill", "object"].includes(desk.tool);
export function pointBy(dx, dy) {
  picture.cursor = null;
  picture.pointBy(dx, dy);
  $("under").textContent = under(picture.cross);
}
export async function press(outside) {
  const at = picture.cross;
  if (at) await up(at, { at, moved: false, boxing: false, button: 0, alt: outside });
}

export function closePolygon() {
  const corners = polygon.taken(), { drawing } = desk;
  if (!corners || !drawing) return;
  const isNew = drawing.chosen === -1;
  drawing.begin();
  picture.touch(drawing.polygon(corners, drawing.value(desk.chosen)));
  done();
  if (isNew) chooseObject(-1);  // a polygon is an object
}

export function takeCornerBack() {
  if (polygon.isOpen()) polygon.removeLast();
}

export function accept() {
  closePolygon();
  acceptObject();
}

export function acceptObject() {
  if (!state.prompts.length) return;
  state.prompts = [];
  if (desk.painted && desk.isNew) { desk.drawing.choose(-1); recolor(); }
  desk.painted = false;
  Object.assign(picture, { marks: [], box: null });
  picture.soon();
  say("");
}

export async function giveUp() {
  if (polygon.isOpen()) { polygon.taken(); return; }
  if (!state.prompts.length) { chooseObject(-1); return; }
  state.prompts = [];
  await cut();
}

export async function step(back) {
  if (!desk.drawing || desk.drawing.step) return;
  if (back && polygon.isOpen()) { polygon.removeLast(); return; }
  if (back && state.prompts.length) { state.prompts.pop(); await cut(); return; }
  accept();
  picture.touch(back ? desk.drawing.undo() : desk.drawing.redo());
  if (desk.drawing.objects) recolor();
  tell();
}

// The number of the pixel at a place; -1 beside the image.
function pixelAt(at) {
  const { drawing } = desk, x = Math.floor(at.x), y = Math.floor(at.y);
  const inside = drawing && x >= 0 && y >= 0 && x < drawing.width && y < drawing.height;
  return inside ? y * drawing.width + x : -1;
}

export function under(at) {
  const { drawing } = desk, pixel = pixelAt(at);
  if (pixel < 0) return "\u00a0";
  const label = drawing.labels[pixel], name = drawing.objects ? label && nameOf(label - 1) : desk.classes[label]?.name;
  return `${name || "unlabelled"} at ${Math.floor(at.x)}, ${Math.floor(at.y)}`;
}
