// A polygon that is drawn corner by corner.

import { picture } from "./state.js";

const NEAR = 8;  // pixels of the screen
let corners = [];

function show() {
  picture.corners = corners;
  picture.soon();
}

export const isOpen = () => corners.length > 0;

// One more corner; whether it closes the polygon because it is the first one again.
export function add(at) {
  const reach = (NEAR * (devicePixelRatio || 1)) / picture.zoom;
  const distance = (corner) => Math.hypot(corner.x - at.x, corner.y - at.y);
  if (corners.length > 2 && distance(corners[0]) < reach) return true;
  if (corners.length && distance(corners[corners.length - 1]) < reach / 4) return false;  // a double click
  corners = [...corners, at];
  show();
  return false;
}

export function removeLast() {
  corners = corners.slice(0, -1);
  show();
}

// The corners, which are forgotten; null if there are too few.
export function taken() {
  const found = corners.length > 2 ? corners : null;
  corners = [];
  show();
  return found;
}
