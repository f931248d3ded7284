// Objects that are drawn on: each has its own pixels, so they may lie over each other.
//
// What is shown is one map: 0 for nothing, i + 1 for the object i; later objects lie over earlier ones, and the
// chosen one over all. Strokes paint into that map with the number of the chosen object; when one ends, the
// pixels of that number are the object's, and those of the others stay what they were. An object is never
// changed in place: a step is the list of objects as it was before.

import { Drawing, joined } from "./brush.js";
import { encoded, runs } from "./rle.js";

export class Objects extends Drawing {
  constructor(width, height, objects = []) {
    super(new Uint16Array(width * height), width, height);
    Object.assign(this, { objects, chosen: -1, touched: null, before: null, none: 0 });
    this.compose();
  }

  // The number to paint with: of the chosen object, or of a new one of this class.
  value(label) {
    if (this.chosen < 0) {
      this.objects = [...this.objects, { label, runs: [], box: null, crowd: false }];
      this.chosen = this.objects.length - 1;
    }
    return this.chosen + 1;
  }

  begin() {
    if (this.step) return;
    this.step = new Map();
    this.before = [this.objects, this.chosen];
    this.touched = null;
  }

  keep(x0, y0, x1, y1) {
    this.touched = joined(this.touched, [x0, y0, x1, y1]);
    this.step.set(0, this.touched);  // something has changed
  }

  end() {
    const { chosen, touched } = this;
    this.step = null;
    if (!touched) { [this.objects, this.chosen] = this.before; return; }
    const old = this.objects[chosen], box = joined(old.box ?? touched, touched);
    const found = this.runsOf(chosen + 1, box);
    const rest = this.objects.filter((_, i) => i !== chosen);
    this.objects = found.length ? this.objects.with(chosen, { ...old, runs: found, box }) : rest;
    if (!found.length) this.chosen = -1;
    this.note(this.before);
  }

  // The list was another one before.
  note(before) {
    this.past.push(before);
    this.future = [];
    this.changed = true;
    this.compose();
  }

  swap(from, to) {
    const other = from.pop();
    if (!other) return null;
    to.push([this.objects, this.chosen]);
    [this.objects, this.chosen] = other;
    this.changed = true;
    this.compose();
    return [0, 0, this.width, this.height];
  }

  choose(i) {
    this.chosen = i;
    this.compose();
  }

  rename(label) {
    const before = [this.objects, this.chosen];
    this.objects = this.objects.with(this.chosen, { ...this.objects[this.chosen], label });
    this.note(before);
  }

  remove() {
    const before = [this.objects, this.chosen];
    this.objects = this.objects.filter((_, i) => i !== this.chosen);
    this.chosen = -1;
    this.note(before);
  }

  compose() {
    const { labels, objects, chosen } = this;
    labels.fill(0);
    const paint = (i) => {
      const { runs: of } = objects[i];
      for (let k = 0; k < of.length; k += 2) labels.fill(i + 1, of[k], of[k + 1]);
    };
    objects.forEach((_, i) => { if (i !== chosen) paint(i); });
    if (chosen >= 0) paint(chosen);
  }

  // Where runs of a number begin and end, row by row, in a rectangle.
  runsOf(value, [x0, y0, x1, y1]) {
    const found = [], { labels, width } = this;
    for (let y = y0; y < y1; y++) {
      for (let at = y * width + x0, end = y * width + x1; at < end; at++) {
        if (labels[at] !== value) continue;
        const from = at;
        while (at < end && labels[at] === value) at++;
        found.push(from, at);
      }
    }
    return found;
  }

  // As the server wants them.
  told() {
    const { width, height } = this;
    const objects = this.objects.map(({ label, crowd, runs: of }) => (
      { label, crowd, rle: { size: [height, width], counts: encoded(of, width, height) } }
    ));
    return { height, width, objects };
  }
}

// An object of COCO's run lengths, which go down the columns.
export function object(label, rle, crowd = false) {
  const [height, width] = rle.size;
  const mask = new Uint8Array(height * width);
  let x0 = width, y0 = height, x1 = 0, y1 = 0, at = 0, inside = false;
  for (const count of runs(rle.counts)) {
    if (inside) {
      for (let i = at; i < at + count; i++) {
        const x = (i / height) | 0, y = i % height;
        mask[y * width + x] = 1;
        if (x < x0) x0 = x;
        if (x >= x1) x1 = x + 1;
        if (y < y0) y0 = y;
        if (y >= y1) y1 = y + 1;
      }
    }
    at += count;
    inside = !inside;
  }
  const box = [x0, y0, x1, y1];
  const found = Objects.prototype.runsOf.call({ labels: mask, width }, 1, box);
  return { label, crowd, runs: found, box: found.length ? box : null };
}
