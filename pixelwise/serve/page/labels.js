// Labels to colours: a table of 32-bit colours; and how much of an image has which label.

export function table(colors, shown, alpha) {
  const entries = new Uint32Array(65536);
  const bytes = new Uint8Array(entries.buffer);
  for (let label = 0; label < colors.length; label++) {
    if (!shown[label]) continue;
    bytes.set([...colors[label], alpha], 4 * label);
  }
  return entries;
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

// Labels of one table as those of another, by the names of the classes; `none` where there is no such class.
export function translated(labels, names, others, none) {
  const to = new Uint16Array(65536).fill(none);
  names.forEach((name, label) => { const at = others.indexOf(name); if (at >= 0) to[label] = at; });
  const found = none > 255 || others.length > 255 ? new Uint16Array(labels.length) : new Uint8Array(labels.length);
  for (let i = 0; i < labels.length; i++) found[i] = to[labels[i]];
  return found;
}
