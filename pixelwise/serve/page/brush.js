// Labels that are drawn on: strokes, fills, masks; every step can be undone and done again.
//
// A step keeps the tiles that it touches as they were before. Undoing swaps them with what is there now, which
// makes the same step one to redo.

const TILE = 256;
const MOST = 256 * 2 ** 20;  // bytes of all steps together

export class Drawing {
  constructor(labels, width, height) {
    Object.assign(this, { labels, width, height, past: [], future: [], step: null, bytes: 0, changed: false });
    this.across = Math.ceil(width / TILE);
  }

  // The number to paint with for a class.
  value(label) { return label; }

  // --- steps ---------------------------------------------------------------------------------------

  begin() {
    this.step ??= new Map();
  }

  end() {
    const step = this.step;
    this.step = null;
    if (!step?.size) return;
    this.bytes -= total(this.future);
    this.future = [];
    this.past.push(step);
    this.bytes += total([step]);
    while (this.bytes > MOST && this.past.length > 1) this.bytes -= total([this.past.shift()]);
    this.changed = true;
  }

  undo() { return this.swap(this.past, this.future); }

  redo() { return this.swap(this.future, this.past); }

  swap(from, to) {
    const step = from.pop();
    if (!step) return null;
    let rectangle = null;
    for (const [tile, before] of step) {
      const area = this.area(tile);
      step.set(tile, this.copied(area));
      this.put(area, before);
      rectangle = joined(rectangle, area);
    }
    to.push(step);
    this.changed = true;
    return rectangle;
  }

  area(tile) {
    const x = (tile % this.across) * TILE, y = Math.floor(tile / this.across) * TILE;
    return [x, y, Math.min(this.width, x + TILE), Math.min(this.height, y + TILE)];
  }

  copied([x0, y0, x1, y1]) {
    const kept = new this.labels.constructor((x1 - x0) * (y1 - y0));
    for (let y = y0, at = 0; y < y1; y++, at += x1 - x0) {
      kept.set(this.labels.subarray(y * this.width + x0, y * this.width + x1), at);
    }
    return kept;
  }

  put([x0, y0, x1, y1], kept) {
    for (let y = y0, at = 0; y < y1; y++, at += x1 - x0) {
      this.labels.set(kept.subarray(at, at + x1 - x0), y * this.width + x0);
    }
  }

  // Keep what these pixels are now, if the step has not done so.
  keep(x0, y0, x1, y1) {
    for (let ty = Math.floor(y0 / TILE); ty * TILE < y1; ty++) {
      for (let tx = Math.floor(x0 / TILE); tx * TILE < x1; tx++) {
        const tile = ty * this.across + tx;
        if (!this.step.has(tile)) this.step.set(tile, this.copied(this.area(tile)));
      }
    }
  }

  // --- tools; each gives the rectangle that it changed -----------------------------------------------

  // A disc that moves from one place to another.
  stroke(from, to, radius, label) {
    const { width, height, labels } = this;
    const clamped = (value, most) => Math.max(0, Math.min(most, value));
    const x0 = clamped(Math.floor(Math.min(from.x, to.x) - radius), width);
    const x1 = clamped(Math.ceil(Math.max(from.x, to.x) + radius), width);
    const y0 = clamped(Math.floor(Math.min(from.y, to.y) - radius), height);
    const y1 = clamped(Math.ceil(Math.max(from.y, to.y) + radius), height);
    if (x0 >= x1 || y0 >= y1) return null;
    this.keep(x0, y0, x1, y1);
    const dx = to.x - from.x, dy = to.y - from.y, length = Math.hypot(dx, dy);
    const nx = length ? -dy / length : 0, ny = length ? dx / length : 0;
    for (let y = y0; y < y1; y++) {
      const middle = y + 0.5;
      let low = Infinity, high = -Infinity;
      for (const end of [from, to]) {
        const square = radius * radius - (middle - end.y) ** 2;
        if (square < 0) continue;
        const half = Math.sqrt(square);
        low = Math.min(low, end.x - half);
        high = Math.max(high, end.x + half);
      }
      if (dy) {  // where the row meets the straight sides
        for (const side of [-radius, radius]) {
          const t = (middle - from.y - side * ny) / dy;
          if (t < 0 || t > 1) continue;
          const x = from.x + t * dx + side * nx;
          low = Math.min(low, x);
          high = Math.max(high, x);
        }
      }
      const a = Math.max(x0, Math.ceil(low - 0.5)), b = Math.min(x1 - 1, Math.floor(high - 0.5));
      if (a <= b) labels.fill(label, y * width + a, y * width + b + 1);
    }
    return [x0, y0, x1, y1];
  }

  // The region of one label that holds a pixel gets another.
  fill(x, y, label) {
    const { width, height, labels } = this;
    const old = labels[y * width + x];
    if (old === label) return null;
    let rectangle = [x, y, x + 1, y + 1];
    const waiting = [x, y];
    while (waiting.length) {
      const row = waiting.pop(), start = waiting.pop(), at = row * width;
      if (labels[at + start] !== old) continue;
      let a = start, b = start + 1;
      while (a > 0 && labels[at + a - 1] === old) a--;
      while (b < width && labels[at + b] === old) b++;
      this.keep(a, row, b, row + 1);
      labels.fill(label, at + a, at + b);
      rectangle = joined(rectangle, [a, row, b, row + 1]);
      for (const beside of [row - 1, row + 1]) {
        if (beside < 0 || beside >= height) continue;
        for (let i = a, inside = false; i < b; i++) {
          const same = labels[beside * width + i] === old;
          if (same && !inside) waiting.push(i, beside);
          inside = same;
        }
      }
    }
    return rectangle;
  }

  // The pixels whose middles lie in a polygon get a label; where it crosses itself, even-odd.
  polygon(corners, label) {
    const { width, height, labels } = this;
    const ys = corners.map((one) => one.y);
    const first = Math.max(0, Math.ceil(Math.min(...ys) - 0.5)), last = Math.min(height - 1, Math.floor(Math.max(...ys)));
    let rectangle = null;
    for (let y = first; y <= last; y++) {
      const middle = y + 0.5, crossed = [];
      corners.forEach((a, i) => {
        const b = corners[(i + 1) % corners.length];
        if ((a.y <= middle) !== (b.y <= middle)) crossed.push(a.x + ((middle - a.y) / (b.y - a.y)) * (b.x - a.x));
      });
      crossed.sort((a, b) => a - b);
      for (let i = 0; i + 1 < crossed.length; i += 2) {
        const from = Math.max(0, Math.ceil(crossed[i] - 0.5)), to = Math.min(width, Math.ceil(crossed[i + 1] - 0.5));
        if (from >= to) continue;
        this.keep(from, y, to, y + 1);
        labels.fill(label, y * width + from, y * width + to);
        rectangle = joined(rectangle, [from, y, to, y + 1]);
      }
    }
    return rectangle;
  }

  // The pixels of a mask get a label.
  mask(mask, label) {
    const { width, height, labels } = this;
    let rectangle = null;
    for (let y = 0; y < height; y++) {
      let first = -1, last = -1;
      for (let x = 0, at = y * width; x < width; x++, at++) {
        if (!mask[at]) continue;
        if (first < 0) { first = x; }
        last = x;
      }
      if (first < 0) continue;
      this.keep(first, y, last + 1, y + 1);
      for (let x = first, at = y * width + first; x <= last; x++, at++) if (mask[at]) labels[at] = label;
      rectangle = joined(rectangle, [first, y, last + 1, y + 1]);
    }
    return rectangle;
  }
}

export function joined(a, b) {
  return a ? [Math.min(a[0], b[0]), Math.min(a[1], b[1]), Math.max(a[2], b[2]), Math.max(a[3], b[3])] : b;
}

function total(steps) {
  let bytes = 0;
  for (const step of steps) for (const tile of step.values()) bytes += tile.byteLength;
  return bytes;
}
