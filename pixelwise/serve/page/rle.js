// COCO's compressed run lengths, from and to masks of one byte per pixel, row by row.

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

// The string for runs that begin and end row by row; see `Objects`.
export function encoded(rows, width, height) {
  const mask = new Uint8Array(width * height);  // column by column
  for (let k = 0; k < rows.length; k += 2) {
    const y = Math.floor(rows[k] / width), x0 = rows[k] - y * width, x1 = rows[k + 1] - y * width;
    for (let x = x0; x < x1; x++) mask[x * height + y] = 1;
  }
  const counts = [];
  for (let at = 0, value = 0; at < mask.length; value = 1 - value) {
    const end = mask.indexOf(1 - value, at), next = end < 0 ? mask.length : end;
    counts.push(next - at);
    at = next;
  }
  let text = "";
  counts.forEach((count, i) => {
    let left = i > 2 ? count - counts[i - 2] : count, more = true;
    while (more) {
      let code = left & 31;
      left >>= 5;
      more = code & 16 ? left !== -1 : left !== 0;
      if (more) code |= 32;
      text += String.fromCharCode(code + 48);
    }
  });
  return text;
}
