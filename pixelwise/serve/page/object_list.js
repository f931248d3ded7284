// The list of objects beside the image, where objects are drawn.

import * as api from "./api.js";
import { acceptObject, desk, recolor, tell } from "./correct.js";
import { objectColor } from "./labels.js";
import { object } from "./objects.js";
import { $, element, picture, say, state, swatch } from "./state.js";

// Objects that were saved, of the data, or that a model finds; those of other classes are left out.
export async function objectsOf(from) {
  if (from === "saved" || from === "data") {
    const told = await api.storedObjects(state.number, from);
    return sized(told.height, told.width, told.objects.map((one) => object(one.label, one.rle, one.crowd)));
  }
  say("Looking at the image ...");
  const answer = await api.predict(from.slice("model:".length), state.file, "coco");
  const { images: [image], annotations, categories } = await answer.json();
  const labelOf = new Map(categories.map((one) => [one.id, desk.classes.findIndex((mine) => mine.name === one.name)]));
  const kept = annotations.filter((one) => labelOf.get(one.category_id) >= 0);
  return sized(image.height, image.width, kept.map((one) => object(labelOf.get(one.category_id), one.segmentation)));
}

function sized(height, width, objects) {
  if (picture.width && (height !== picture.height || width !== picture.width)) throw new Error("These objects have another size than the image.");
  return objects;
}

// --- the list of objects ------------------------------------------------------------------------------

export const nameOf = (i) => `${desk.classes[desk.drawing.objects[i].label]?.name ?? "?"} ${i + 1}`;

export function listObjects() {
  const { objects, chosen } = desk.drawing ?? {};
  $("object-choice").hidden = !objects;
  if (!objects) return;
  const first = Math.max(0, Math.min(chosen - 100, objects.length - 300));
  $("objects").replaceChildren(...objects.slice(first, first + 300).map((_, place) => {
    const i = first + place;
    const radio = element("input", { type: "radio", name: "object", checked: i === chosen });
    radio.addEventListener("change", () => chooseObject(i));
    return element("li", {}, element("label", {}, radio, swatch(objectColor(i)), nameOf(i)));
  }));
  const list = $("objects"), row = list.children[chosen - first];
  if (row) list.scrollTop = row.offsetHeight * (chosen - first) - list.clientHeight / 2;  // the page itself stays
  $("objects-told").textContent = chosen < 0
    ? `${objects.length} objects. What you draw next is a new ${desk.classes[desk.chosen]?.name ?? "object"}.`
    : `${nameOf(chosen)} is drawn on. A class or A begins the next object.`;
  $("object-class").replaceChildren(...desk.classes.map((one, label) => new Option(one.name, label, false, label === objects[chosen]?.label)));
  $("object-class").disabled = $("object-remove").disabled = chosen < 0;
}

export function chooseObject(i) {
  if (!desk.drawing?.objects) return;
  acceptObject();
  desk.drawing.choose(i);
  recolor();
}

export function removeObject() {
  if (!(desk.drawing?.chosen >= 0)) return;
  acceptObject();
  desk.drawing.remove();
  recolor();
  tell();
}

export function renameObject() {
  if (!(desk.drawing?.chosen >= 0)) return;
  desk.drawing.rename(Number($("object-class").value));
  recolor();
  tell();
}
