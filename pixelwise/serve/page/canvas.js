// The picture: an image, labels in colours over it, marks over both; zoomed and moved.
//
// Each of the three is a canvas of the size of the screen. Labels are looked up for the pixels of the screen
// only, and after a stroke for the pixels that it touched, so what is drawn does not grow with the image.

export class Picture {
  constructor(stage, image, tints, marks) {
    this.canvas = image;
    this.layers = [image, tints, marks];
    [this.below, this.tints, this.above] = this.layers.map((one) => one.getContext("2d"));
    this.clear();
    new ResizeObserver(() => this.resize()).observe(stage);
  }

  clear() {
    cancelAnimationFrame(this.frame);
    Object.assign(this, {
      image: null, labels: null, entries: null, outline: false, labelWidth: 0, labelHeight: 0,
      width: 0, height: 0, marks: [], box: null, corners: [], cross: null, cursor: null, zoom: 1, x: 0, y: 0,
      all: false, dirty: null, frame: 0, fitted: true,
    });
  }

  set(image) {
    this.clear();
    this.image = image;
    this.width = image?.width ?? 0;
    this.height = image?.height ?? 0;
    this.fit();
  }

  setLabels(labels, width, height, entries, outline) {
    Object.assign(this, { labels, labelWidth: width, labelHeight: height, entries, outline });
    if (labels && !this.image && this.width !== width) {  // the browser cannot show the image itself
      this.width = width;
      this.height = height;
      this.fit();
    }
    this.draw();
  }

  // The stage has another size: what was in its middle stays there.
  resize() {
    const ratio = devicePixelRatio || 1, { width, height } = this.canvas;
    for (const one of this.layers) {
      one.width = Math.max(1, Math.round(one.clientWidth * ratio));
      one.height = Math.max(1, Math.round(one.clientHeight * ratio));
    }
    if (this.fitted) { this.fit(); return; }
    this.x += (this.canvas.width - width) / 2;
    this.y += (this.canvas.height - height) / 2;
    this.draw();
  }

  fit() {
    this.fitted = true;
    if (this.width) {
      this.zoom = Math.min(this.canvas.width / this.width, this.canvas.height / this.height);
      this.x = (this.canvas.width - this.zoom * this.width) / 2;
      this.y = (this.canvas.height - this.zoom * this.height) / 2;
    }
    this.draw();
  }

  // Everything is drawn anew in the next frame.
  draw() {
    this.all = true;
    this.soon();
  }

  // Labels of these pixels of the image have changed.
  touch(rectangle) {
    if (!rectangle) return;
    const [x0, y0, x1, y1] = rectangle, old = this.dirty;
    this.dirty = old ? [Math.min(x0, old[0]), Math.min(y0, old[1]), Math.max(x1, old[2]), Math.max(y1, old[3])] : rectangle;
    this.soon();
  }

  soon() {
    this.frame ||= requestAnimationFrame(() => this.now());
  }

  now() {
    this.frame = 0;
    const { width, height } = this.canvas;
    if (this.all) {
      this.drawImage();
      this.drawTints(0, 0, width, height);
    } else if (this.dirty) {
      const [x0, y0, x1, y1] = this.dirty;
      const sx = (this.width / this.labelWidth) * this.zoom, sy = (this.height / this.labelHeight) * this.zoom;
      this.drawTints(
        Math.max(0, Math.floor(x0 * sx + this.x) - 3), Math.max(0, Math.floor(y0 * sy + this.y) - 3),
        Math.min(width, Math.ceil(x1 * sx + this.x) + 2), Math.min(height, Math.ceil(y1 * sy + this.y) + 2),
      );
    }
    this.all = false;
    this.dirty = null;
    this.drawMarks();
  }

  drawImage() {
    const c = this.below;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.image) return;
    c.setTransform(this.zoom, 0, 0, this.zoom, this.x, this.y);
    c.imageSmoothingEnabled = this.zoom < 2;
    c.drawImage(this.image, 0, 0);
  }

  drawTints(left, top, right, bottom) {
    if (right <= left || bottom <= top) return;
    const { labels, entries, labelWidth, labelHeight } = this;
    if (!labels) { this.tints.clearRect(left, top, right - left, bottom - top); return; }
    const pixels = new ImageData(right - left, bottom - top);
    const out = new Uint32Array(pixels.data.buffer);
    // Two more columns and rows, for the outlines of what ends there.
    const columns = places(left, right + 2, this.x, this.zoom * (this.width / labelWidth), labelWidth);
    const rows = places(top, bottom + 2, this.y, this.zoom * (this.height / labelHeight), labelHeight);
    const count = right - left;
    for (let j = 0, at = 0; j < bottom - top; j++) {
      if (rows[j] < 0) { at += count; continue; }
      const row = rows[j] * labelWidth, next = (rows[j + 2] < 0 ? rows[j] : rows[j + 2]) * labelWidth;
      for (let i = 0; i < count; i++, at++) {
        const x = columns[i];
        if (x < 0) continue;
        const label = labels[row + x];
        if (!this.outline) { out[at] = entries[label]; continue; }
        const beside = labels[row + (columns[i + 2] < 0 ? x : columns[i + 2])], under = labels[next + x];
        if (beside !== label || under !== label) out[at] = line(entries, label, beside !== label ? beside : under);
      }
    }
    this.tints.putImageData(pixels, left, top);
  }

  drawMarks() {
    const c = this.above;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, this.canvas.width, this.canvas.height);
    c.setTransform(this.zoom, 0, 0, this.zoom, this.x, this.y);
    const size = 6 / this.zoom * (devicePixelRatio || 1);
    for (const mark of this.marks) {
      c.beginPath();
      c.arc(mark.x, mark.y, size, 0, 7);
      c.fillStyle = mark.inside ? "#27ae60" : "#c0392b";
      c.fill();
      c.lineWidth = size / 3;
      c.strokeStyle = "white";
      c.stroke();
    }
    if (this.box) {
      const [x0, y0, x1, y1] = this.box;
      c.lineWidth = size / 2;
      c.strokeStyle = "#2980b9";
      c.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    if (this.corners.length) this.drawCorners(c, size);
    if (this.cross) this.drawCross(c, size);
    if (this.cursor) {
      for (const [color, width] of [["black", size / 2], ["white", size / 4]]) {
        c.beginPath();
        c.arc(this.cursor.x, this.cursor.y, this.cursor.radius, 0, 7);
        c.lineWidth = width;
        c.strokeStyle = color;
        c.stroke();
      }
    }
  }

  // A polygon that is not closed yet: its lines, the last one to where the pointer is, and its corners.
  drawCorners(c, size) {
    const { corners } = this, next = this.cross ?? this.cursor;
    for (const [color, width] of [["black", size / 2], ["white", size / 4]]) {
      c.beginPath();
      for (const one of next ? [...corners, next] : corners) c.lineTo(one.x, one.y);
      c.lineWidth = width;
      c.strokeStyle = color;
      c.stroke();
    }
    corners.forEach((one, i) => {
      c.beginPath();
      c.arc(one.x, one.y, i ? size / 2 : size, 0, 7);
      c.fillStyle = i ? "white" : "#e67e22";
      c.fill();
      c.lineWidth = size / 6;
      c.strokeStyle = "black";
      c.stroke();
    });
  }

  // Where the keyboard points.
  drawCross(c, size) {
    const { x, y } = this.cross;
    for (const [color, width] of [["black", size / 2], ["white", size / 5]]) {
      c.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        c.moveTo(x + 0.6 * size * dx, y + 0.6 * size * dy);
        c.lineTo(x + 3 * size * dx, y + 3 * size * dy);
      }
      c.lineWidth = width;
      c.strokeStyle = color;
      c.stroke();
    }
  }

  // Move what the keyboard points at, at first the middle of the stage; the image follows at its edge.
  pointBy(dx, dy) {
    const { width, height } = this.canvas, ratio = devicePixelRatio || 1;
    const at = this.cross ?? { x: (width / 2 - this.x) / this.zoom, y: (height / 2 - this.y) / this.zoom };
    this.cross = { x: at.x + (dx * ratio) / this.zoom, y: at.y + (dy * ratio) / this.zoom };
    const sx = this.cross.x * this.zoom + this.x, sy = this.cross.y * this.zoom + this.y;
    if (sx < 0 || sy < 0 || sx > width || sy > height) this.move(-dx, -dy);
    this.soon();
  }

  at(event) {
    const area = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / area.width;
    return {
      x: ((event.clientX - area.left) * ratio - this.x) / this.zoom,
      y: ((event.clientY - area.top) * ratio - this.y) / this.zoom,
    };
  }

  zoomBy(factor, event) {
    const area = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / area.width;
    const px = event ? (event.clientX - area.left) * ratio : this.canvas.width / 2;
    const py = event ? (event.clientY - area.top) * ratio : this.canvas.height / 2;
    const zoom = Math.min(64, Math.max(0.005, this.zoom * factor));
    this.x = px - (px - this.x) * (zoom / this.zoom);
    this.y = py - (py - this.y) * (zoom / this.zoom);
    this.zoom = zoom;
    this.fitted = false;
    this.draw();
  }

  move(dx, dy) {
    this.x += dx * (devicePixelRatio || 1);
    this.y += dy * (devicePixelRatio || 1);
    this.fitted = false;
    this.draw();
  }
}

// The colour between two labels: of the later class, as the first is mostly the background.
function line(entries, a, b) {
  const color = entries[Math.max(a, b)] || entries[Math.min(a, b)];
  return color >>> 24 ? (color | 0xff000000) >>> 0 : 0;
}

// The pixel of the labels under the middle of each pixel of the screen; -1 beside the image.
function places(from, to, origin, zoom, size) {
  const found = new Int32Array(to - from);
  for (let i = 0; i < found.length; i++) {
    const at = Math.floor((from + i + 0.5 - origin) / zoom);
    found[i] = at < 0 || at >= size ? -1 : at;
  }
  return found;
}
