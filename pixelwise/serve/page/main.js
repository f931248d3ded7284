// The page: what people do, and what follows from it.

import * as api from "./api.js";
import * as correct from "./correct.js";
import * as images from "./images.js";
import * as look from "./look.js";
import { addPrompt, boxOf } from "./prompts.js";
import { $, element, guarded, picture, say, state } from "./state.js";
import { showTraining } from "./training.js";

// --- models ----------------------------------------------------------------------------------------

async function start() {
  state.models = await api.models();
  const cutters = state.models.filter((one) => one.takes_prompts);
  $("model").replaceChildren(...state.models.map((one) => new Option(`${one.name} (${one.task})`, one.name)));
  $("cutter").replaceChildren(...cutters.map((one) => new Option(one.name, one.name)));
  $("tool-object").hidden = $("cutter-choice").hidden = !cutters.length;
  await images.load();
  choose(state.models[0].name);
  if (state.model.takes_prompts && state.collection.images.length) await turnTo("correct");
  if (!(await follow(new URLSearchParams(location.search)))) await showSamples();
}

// Where a link leads, such as that of a report: ?image=NAME, ?model=NAME, ?view=run. Whether to an image.
async function follow(asked) {
  const model = asked.get("model"), view = asked.get("view"), name = asked.get("image");
  if (model !== null && state.models.some((one) => one.name === model)) choose(model);
  if (name !== null) {
    const image = state.collection.images.find((one) => one.name === name);
    if (image) { await images.openNumber(image.number, view === "image" ? view : "correct"); return true; }
    say(`${name} is not among the images of this server: start it with --data and the right --split.`, true);
  } else if (view === "run" || (view === "list" && state.collection.images.length)) await turnTo(view);
  return false;
}

function choose(name) {
  state.model = state.models.find((one) => one.name === name);
  $("model").value = name;
  const { takes_prompts: promptable, outputs, classes } = state.model;
  $("prompt").hidden = !promptable;
  $("save-mask").hidden = !promptable;
  $("classes").hidden = promptable;
  for (const output of ["labels", "overlay", "coco", "geojson"]) $(`save-${output}`).hidden = !outputs.includes(output);
  const others = state.models.filter((one) => look.hasClasses(one) && one !== state.model);
  $("compare").replaceChildren(new Option("no other model", ""), ...others.map((one) => new Option(one.name, one.name)));
  $("compare-choice").hidden = !others.length || !look.hasClasses(state.model);
  const labelled = state.collection.classes.length;
  $("what").textContent = promptable
    ? (labelled ? `You label it with ${labelled} classes; "Images" lists them all.` : "Then click an object to cut it out.")
    : `It will be divided into ${classes.length} classes: ${classes.slice(0, 8).map((c) => c.name).join(", ")}${classes.length > 8 ? ", ..." : ""}.`;
  say("");
  if (state.file && state.view === "image") guarded(look.look);
  if (state.view === "run") guarded(showTraining);
}

// --- images ----------------------------------------------------------------------------------------

async function showSamples() {
  const open = (label, action, file) => {
    const button = element("button", { type: "button", title: label, className: "sample" });
    button.append(element("img", { src: URL.createObjectURL(file), alt: label }));
    button.addEventListener("click", () => guarded(action));
    $("samples").append(button);
  };
  for (const image of state.collection.images.slice(0, 4)) {
    const file = await api.imageFile(image.number, image.name);
    open(image.name, () => images.openNumber(image.number, state.view), file);
  }
  if (state.collection.images.length) return;
  for (const sample of await api.samples()) {
    const file = await api.fileAt(`/v1/samples/${sample.number}`, sample.name);
    open(sample.name, () => opened(file), file);
  }
}

async function opened(file) {
  if (!(await images.left())) return;
  $("walk-told").textContent = "";
  await show(file, state.view === "correct" ? "correct" : "image", null);
}

async function show(file, view, number) {
  await look.setFile(file, number);
  if (state.file !== file) return;  // another one was opened meanwhile
  await turnTo(view);
}
images.onOpen(show);

const VIEWS = ["image", "correct", "list", "run"];

async function turnTo(view) {
  if (state.view === "correct" && view !== "correct") correct.accept();
  state.view = view;
  document.body.dataset.view = view;
  $("image-view").hidden = view !== "image" && view !== "correct";
  $("list-view").hidden = view !== "list";
  $("run-view").hidden = view !== "run";
  $("look").hidden = view !== "image";
  $("correct").hidden = view !== "correct";
  for (const one of VIEWS) $(`view-${one}`).setAttribute("aria-pressed", String(one === view));
  if (view === "run") await showTraining();
  if (view === "list") images.draw();
  if (view === "correct") await correct.enter();
  if (view === "image" && state.file) await look.look();
}

// --- the stage -------------------------------------------------------------------------------------

const stage = $("stage");
let drag = null;

stage.addEventListener("pointerdown", (event) => {
  if (event.target.closest("#welcome")) return;
  stage.setPointerCapture(event.pointerId);
  const tool = state.view === "correct" ? stage.dataset.tool : state.embedded ? "object" : "move";
  drag = {
    x: event.clientX, y: event.clientY, at: picture.at(event), moved: false, button: event.button, alt: event.altKey,
    boxing: event.shiftKey && tool === "object",
  };
  if (state.view === "correct" && !event.shiftKey) correct.down(event, drag);
});
stage.addEventListener("pointermove", (event) => {
  const at = picture.at(event);
  if (drag) drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 3;
  if (state.view === "correct") {
    if (correct.moved(event, drag)) return;
    $("under").textContent = correct.under(at);
  } else if (drag?.boxing) {
    picture.box = boxOf(drag.at, at);
    picture.soon();
    return;
  }
  if (drag) { if (drag.moved) picture.move(event.movementX, event.movementY); return; }
  if (state.view === "correct") return;
  const x = Math.floor(at.x * state.width / (picture.width || 1)), y = Math.floor(at.y * state.height / (picture.height || 1));
  const inside = state.labels && x >= 0 && y >= 0 && x < state.width && y < state.height;
  $("under").textContent = inside ? `${state.names[state.labels[y * state.width + x]] ?? "ignored"} at ${x}, ${y}` : "\u00a0";
});
function released(event) {
  const done = drag;
  drag = null;
  if (!done) return;
  if (state.view === "correct") guarded(() => correct.up(picture.at(event), done));
  else if (state.embedded && addPrompt(done, picture.at(event))) guarded(look.ask);
}
stage.addEventListener("pointerup", released);
stage.addEventListener("pointercancel", released);
stage.addEventListener("dblclick", () => { if (state.view === "correct") correct.closePolygon(); });
stage.addEventListener("pointerleave", () => { picture.cursor = null; picture.soon(); });
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
  if (file) guarded(() => opened(file));
});
addEventListener("paste", (event) => {
  const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
  if (file) guarded(() => opened(file));
});
addEventListener("beforeunload", (event) => { if (correct.changed()) event.preventDefault(); });

// --- buttons ---------------------------------------------------------------------------------------

const recolor = () => (state.view === "correct" ? correct.recolor() : look.recolor());
const on = (id, action) => $(id).addEventListener("click", () => guarded(async () => action()));
on("choose", () => $("file").click());
$("file").addEventListener("change", () => { if ($("file").files[0]) guarded(() => opened($("file").files[0])); });
$("model").addEventListener("change", () => choose($("model").value));
$("compare").addEventListener("change", () => { if (state.file) guarded(look.look); });
$("opacity").addEventListener("input", recolor);
$("outline").addEventListener("change", recolor);
on("undo", () => { state.prompts.pop(); return look.ask(); });
on("clear", () => { state.prompts = []; return look.ask(); });
for (const output of ["labels", "overlay", "coco", "geojson"]) on(`save-${output}`, () => look.save(output));
on("save-mask", look.saveMask);
for (const view of VIEWS) on(`view-${view}`, () => turnTo(view));
for (const tool of Object.keys(correct.TOOLS)) on(`tool-${tool}`, () => { correct.use(tool); stage.focus(); });
$("brush-size").addEventListener("input", () => { $("brush-told").textContent = correct.size(); });
$("start-from").addEventListener("change", () => guarded(async () => { if (state.file) await correct.start(); }));
on("object-remove", correct.removeObject);
$("object-class").addEventListener("change", correct.renameObject);
on("step-back", () => correct.step(true));
on("step-forward", () => correct.step(false));
on("save-here", correct.saveHere);
on("walk-back", () => images.walk(-1));
on("walk-on", () => images.walk(1));
for (const output of ["png", "coco", "yolo"]) {
  on(`draw-${output}`, () => correct.saveAs(output));
  on(`all-${output}`, () => images.saveAll(output));
}
$("list").addEventListener("scroll", () => images.draw());
$("score-column").addEventListener("change", () => guarded(() => images.choose($("score-column").value)));
on("help", () => $("keys").showModal());
on("keys-close", () => $("keys").close());

// --- keys ------------------------------------------------------------------------------------------

const STEP = 40;
const EVERYWHERE = {
  "+": () => picture.zoomBy(1.25), "=": () => picture.zoomBy(1.25), "-": () => picture.zoomBy(0.8), 0: () => picture.fit(),
  ArrowLeft: () => picture.move(STEP, 0), ArrowRight: () => picture.move(-STEP, 0),
  ArrowUp: () => picture.move(0, STEP), ArrowDown: () => picture.move(0, -STEP),
  o: () => $("file").click(),
  c: () => { $("opacity").value = $("opacity").value > 0 ? 0 : 55; recolor(); },
  "?": () => $("keys").showModal(),
  Escape: () => { if (state.embedded) { state.prompts = []; return look.ask(); } return undefined; },
};
const DRAWING = {
  "[": () => correct.resize(0.8), "]": () => correct.resize(1.25),
  ",": () => correct.pickBeside(-1), ".": () => correct.pickBeside(1),
  a: () => correct.chooseObject(-1), Delete: correct.removeObject,
  Enter: correct.accept, Escape: correct.giveUp, Backspace: correct.takeCornerBack, s: correct.saveHere,
  n: () => images.walk(1), p: () => images.walk(-1),
};
const POINTING = { " ": (event) => correct.press(event.shiftKey) };
for (const [key, dx, dy] of [["ArrowLeft", -1, 0], ["ArrowRight", 1, 0], ["ArrowUp", 0, -1], ["ArrowDown", 0, 1]]) {
  POINTING[key] = (event) => { const step = event.shiftKey ? 1 : 10; correct.pointBy(step * dx, step * dy); };
}
for (const [tool, key] of Object.entries(correct.TOOLS)) DRAWING[key] = () => correct.use(tool);
for (let digit = 1; digit < 10; digit++) DRAWING[digit] = () => correct.pick(digit - 1);

addEventListener("keydown", (event) => {
  const typing = event.target.closest("select, input:not([type=range], [type=radio], [type=checkbox])");
  if ($("keys").open || (typing && event.key !== "Escape")) return;
  const drawing = state.view === "correct", own = event.target.closest("input, button, #list");
  if (event.ctrlKey || event.metaKey) {
    const key = event.key.toLowerCase(), back = key === "z" && !event.shiftKey;
    if (drawing && (key === "z" || key === "y")) guarded(() => correct.step(back));
    else if (state.embedded && back) { state.prompts.pop(); guarded(look.ask); } else return;
    event.preventDefault();
    return;
  }
  if (event.altKey || (own && /^(Arrow|Enter| )/.test(event.key))) return;  // they belong to what has the focus
  const pointing = drawing && correct.points() && POINTING[event.key];
  const does = pointing || (drawing && DRAWING[event.key]) || EVERYWHERE[event.key];
  if (does) { event.preventDefault(); guarded(async () => does(event)); }
});

guarded(start);
