// What every part of the page shares.

import { Picture } from "./canvas.js";

export const $ = (id) => document.getElementById(id);
export const picture = new Picture($("stage"), $("canvas"), $("tints"), $("marks"));
export const state = {
  models: [], model: null,
  collection: { classes: [], images: [], evaluations: [], saves: false }, number: null,
  file: null, labels: null, width: 0, height: 0, colors: [], names: [], shown: [],
  embedded: null, prompts: [], asking: null, view: "image",
};

export function say(text, wrong = false) {
  $("status").textContent = text;
  $("status").classList.toggle("wrong", wrong);
}

export async function guarded(action) {
  try { return await action(); } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
    return undefined;
  }
}

export function download(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

export const stem = () => (state.file?.name || "image").replace(/\.[^.]*$/, "");

export function element(name, values = {}, ...children) {
  const one = Object.assign(document.createElement(name), values);
  one.append(...children);
  return one;
}

export function swatch(color) {
  const one = element("canvas", { className: "swatch", width: 4, height: 4 });
  const c = one.getContext("2d");
  c.fillStyle = `rgb(${color.join(",")})`;
  c.fillRect(0, 0, 4, 4);
  return one;
}
