// Objects by clicks: points and boxes go to a model that takes prompts, and a mask comes back.

import * as api from "./api.js";
import { picture, state } from "./state.js";
import { paint } from "./rle.js";

// The file that a model has looked at last; asked twice, it is sent once.
const seen = { model: null, file: null, told: null };

export async function embedded(model) {
  if (seen.model !== model || seen.file !== state.file) {
    Object.assign(seen, { model, file: state.file, told: api.embed(model, state.file) });
  }
  try { return await seen.told; } catch (error) { seen.file = null; throw error; }
}

export function showPrompts() {
  picture.marks = state.prompts.filter((one) => !one.box);
  picture.box = state.prompts.findLast((one) => one.box)?.box ?? null;
  picture.soon();
}

// The best mask for the prompts; null without prompts.
export async function maskFor(model) {
  showPrompts();
  state.asking?.abort();
  if (!state.prompts.length) return null;
  state.asking = new AbortController();
  const { signal } = state.asking;
  const prompt = {};
  if (picture.marks.length) {
    prompt.points = picture.marks.map((one) => [one.x, one.y]);
    prompt.labels = picture.marks.map((one) => (one.inside ? 1 : 0));
  }
  if (picture.box) prompt.box = picture.box;
  let told = await embedded(model), found;
  try {
    found = await api.segment(model, told.image, prompt, signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    seen.file = null;  // forgotten meanwhile: send it again
    told = await embedded(model);
    found = await api.segment(model, told.image, prompt, signal);
  }
  if (signal.aborted) throw new DOMException("asked again", "AbortError");
  const mask = new Uint8Array(told.width * told.height);
  paint(mask, found.masks[0].rle, 1);
  return { mask, width: told.width, height: told.height, score: found.masks[0].score };
}

// A click or a dragged box becomes a prompt; whether it did.
export function addPrompt(drag, at) {
  const clamp = (value, most) => Math.max(0, Math.min(most, value));
  const { width, height } = picture;
  if (drag.boxing && drag.moved) {
    const box = boxOf(drag.at, at);
    state.prompts = state.prompts.filter((one) => !one.box);
    state.prompts.push({ box: [clamp(box[0], width), clamp(box[1], height), clamp(box[2], width), clamp(box[3], height)] });
    return true;
  }
  if (drag.moved) return false;
  const { x, y } = drag.at;
  if (x < 0 || y < 0 || x > width || y > height) return false;
  state.prompts.push({ x, y, inside: drag.button === 0 && !drag.alt });
  return true;
}

export const boxOf = (a, b) => [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
