// The picture: an image, a tinted layer, marks; zoomed and moved.

export class Picture {
  constructor(canvas, stage) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.image = null;
    this.layer = null;
    this.marks = [];
    this.box = null;
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    new ResizeObserver(() => this.fit()).observe(stage);
  }

  set(image) {
    this.image = image;
    this.layer = null;
    this.marks = [];
    this.fit();
  }

  setLayer(pixels) {
    if (!pixels) { this.layer = null; this.draw(); return; }
    this.layer = document.createElement("canvas");
    this.layer.width = pixels.width;
    this.layer.height = pixels.height;
    this.layer.getContext("2d").putImageData(pixels, 0, 0);
    this.draw();
  }

  fit() {
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    if (this.image) {
      this.zoom = Math.min(this.canvas.width / this.image.width, this.canvas.height / this.image.height);
      this.x = (this.canvas.width - this.zoom * this.image.width) / 2;
      this.y = (this.canvas.height - this.zoom * this.image.height) / 2;
    }
    this.draw();
  }

  draw() {
    const { context: c, canvas } = this;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.image) return;
    c.setTransform(this.zoom, 0, 0, this.zoom, this.x, this.y);
    c.imageSmoothingEnabled = this.zoom < 2;
    c.drawImage(this.image, 0, 0);
    c.imageSmoothingEnabled = false;
    if (this.layer) c.drawImage(this.layer, 0, 0, this.image.width, this.image.height);
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
    this.x = px - (px - this.x) * factor;
    this.y = py - (py - this.y) * factor;
    this.zoom *= factor;
    this.draw();
  }

  move(dx, dy) {
    this.x += dx * (devicePixelRatio || 1);
    this.y += dy * (devicePixelRatio || 1);
    this.draw();
  }
}
