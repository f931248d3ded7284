// The view of a training: curves and settings, renewed while it is under way.

import * as api from "./api.js";
import { chart } from "./curves.js";
import { $, element, state } from "./state.js";

const SECONDS = 10;
let timer = 0;

export async function showTraining() {
  clearTimeout(timer);
  const told = await api.training(state.model.name);
  const rows = told.history;
  $("run-none").hidden = rows.length > 0 || told.settings !== null;
  const names = rows.length ? Object.keys(rows[0]) : [];
  const groups = [
    ["Loss", names.filter((name) => /loss$/.test(name))],
    ["Scores", names.filter((name) => name.startsWith("val_") && !name.includes("/") && !/loss$/.test(name)).slice(0, 4)],
  ];
  $("curves").replaceChildren(...groups.map(([title, of]) => chart(rows, of, title)).filter(Boolean));
  $("settings").tBodies[0].replaceChildren(...Object.entries(told.settings ?? {}).map(([name, value]) => (
    element("tr", {}, element("td", { textContent: name }),
      element("td", { textContent: typeof value === "string" ? value : JSON.stringify(value) }))
  )));
  const under_way = told.settings?.epochs > rows.length;
  if (under_way && state.view === "run") timer = setTimeout(() => showTraining().catch(() => {}), 1000 * SECONDS);
}
