// COCO's compressed run lengths, as masks of one byte per pixel, row by row.

export function runs(text) {
  const counts = [];
  let at = 0;
  while (at < text.length) {
    let value = 0, shift = 0, more = true, code = 0;
    while (more) {
      code = text.charCodeAt(at++) - 48;
      value |= (code & 31) << shift;
      more = (code & 32) !== 0;
      shift += 5;
    }
    if (code & 16) value |= -1 << shift;
    if (counts.length > 2) value += counts[counts.length - 2];
    counts.push(value);
  }
  return counts;
}

export function paint(labels, rle, label) {
  const [height, width] = rle.size;
  let at = 0, inside = false;
  for (const count of runs(rle.counts)) {
    if (inside) for (let i = at; i < at + count; i++) labels[(i % height) * width + ((i / height) | 0)] = label;
    at += count;
    inside = !inside;
  }
}
