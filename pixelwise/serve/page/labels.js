// Labels to colours: a table of 32-bit colours, and one pass over the pixels.

export function table(colors, shown, alpha) {
  const entries = new Uint32Array(65536);
  const bytes = new Uint8Array(entries.buffer);
  for (let label = 0; label < colors.length; label++) {
    if (!shown[label]) continue;
    bytes.set([...colors[label], alpha], 4 * label);
  }
  return entries;
}

export function tint(labels, width, height, entries, outlinesOnly) {
  const pixels = new ImageData(width, height);
  const out = new Uint32Array(pixels.data.buffer);
  if (!outlinesOnly) {
    for (let i = 0; i < out.length; i++) out[i] = entries[labels[i]];
    return pixels;
  }
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      const label = labels[i];
      const edge = (x + 1 < width && labels[i + 1] !== label) || (y + 1 < height && labels[i + width] !== label);
      if (edge) out[i] = entries[label] || entries[labels[x + 1 < width ? i + 1 : i]];
    }
  }
  return pixels;
}

export function shares(labels, count) {
  const found = new Float64Array(Math.max(count, 256));
  for (const label of labels) if (label < found.length) found[label]++;
  return found.map((number) => number / labels.length);
}

export function objectColor(i) {
  const hue = (i * 0.618034) % 1;
  const part = (n) => {
    const k = (n + hue * 12) % 12;
    return Math.round(255 * (0.55 - 0.45 * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}
