// Labels and objects are saved beside the images, or downloaded.

import * as api from "./api.js";
import { accept, classes, desk, tell } from "./correct.js";
import { labelPng } from "./png.js";
import { download, say, state, stem } from "./state.js";

export const changed = () => Boolean(desk.drawing?.changed && desk.file === state.file);
export const unsaved = () => changed() || Boolean(desk.drawing && desk.fromModel);

// Labels as the class file numbers them, with the palette of the classes.
async function png(inFile) {
  const { labels, width, height } = desk.drawing, palette = [];
  const values = new Uint16Array(65536).fill(inFile ? desk.ignoreValue : desk.ignore);
  desk.classes.forEach((one, label) => {
    values[label] = inFile ? one.value : label;
    palette[values[label]] = one.color;
  });
  const wide = Math.max(...desk.classes.map((_, label) => values[label]), values[desk.ignore]) > 255;
  const written = new (wide ? Uint16Array : Uint8Array)(labels.length);
  for (let i = 0; i < labels.length; i++) written[i] = values[labels[i]];
  return labelPng(written, width, height, palette);
}

export async function saveHere() {
  accept();
  const { drawing, number } = desk;
  if (!drawing || desk.file !== state.file) { say("There is no image yet.", true); return false; }
  if (!state.collection.saves || number === null) {
    const why = state.collection.saves ? "This image is not one of the server's" : "This server saves no labels (--save-to)";
    say(`${why}: download them.`, true);
    return false;
  }
  drawing.changed = desk.fromModel = false;  // unless more is drawn while this is on its way
  try {
    const told = drawing.objects ? await api.saveObjects(number, drawing.told()) : await api.save(number, await png(false));
    state.collection.images[number].state = "saved";
    say(`Saved as ${told.file}.`);
  } catch (error) {
    drawing.changed = true;
    throw error;
  } finally { tell(); }
  return true;
}

export async function saveAs(output) {
  accept();
  if (!desk.drawing) { say("There is no image yet.", true); return; }
  const suffix = stem() + { png: ".png", coco: ".json", yolo: ".txt" }[output];
  if (desk.drawing.objects) { download(await api.convertedObjects(desk.drawing.told(), output, state.file.name), suffix); return; }
  if (output === "png") { download(await png(true), suffix); return; }
  const model = state.collection.classes.length ? null : classes().model;
  download(await api.converted(await png(false), output, state.file.name, model), suffix);
}
