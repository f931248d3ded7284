// Labels as a PNG whose indices or grey values they are. A canvas could only write colours.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (let i = 0; i < bytes.length; i++) value = TABLE[(value ^ bytes[i]) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.length), view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

// `values` row by row; `colors` by value, for a palette where one byte is enough.
export async function labelPng(values, width, height, colors) {
  const size = values.BYTES_PER_ELEMENT;
  const head = new Uint8Array(13), view = new DataView(head.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  head.set([8 * size, size === 1 ? 3 : 0, 0, 0, 0], 8);
  const rows = new Uint8Array(height * (1 + width * size));
  for (let y = 0, at = 0; y < height; y++) {
    at++;  // no filter
    const row = values.subarray(y * width, (y + 1) * width);
    if (size === 1) rows.set(row, at);
    else row.forEach((value, x) => { rows[at + 2 * x] = value >> 8; rows[at + 2 * x + 1] = value & 255; });
    at += width * size;
  }
  const squeezed = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
  const parts = [Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10), chunk("IHDR", head)];
  if (size === 1) {
    const palette = new Uint8Array(768).fill(224);
    colors.forEach((color, value) => { if (value < 256) palette.set(color, 3 * value); });
    parts.push(chunk("PLTE", palette));
  }
  parts.push(chunk("IDAT", new Uint8Array(await new Response(squeezed).arrayBuffer())), chunk("IEND", new Uint8Array(0)));
  return new Blob(parts, { type: "image/png" });
}
