// The view of a training: curves, pictures, reports and settings, renewed while it is under way.

import * as api from "./api.js";
import { chart } from "./curves.js";
import { $, download, element, guarded, state } from "./state.js";

const SECONDS = 10;
let timer = 0;

export async function showTraining() {
  clearTimeout(timer);
  const told = await api.training(state.model.name);
  const rows = told.history;
  $("run-none").hidden = rows.length > 0 || told.settings !== null;
  $("run-none").textContent = told.gone
    ? "The run directory of this model is gone. The model answers on."
    : "Nothing is known of the training of this model: it was not loaded from a run directory.";
  const names = rows.length ? Object.keys(rows[0]) : [];
  const groups = [
    ["Loss", names.filter((name) => /loss$/.test(name))],
    ["Scores", names.filter((name) => name.startsWith("val_") && !name.includes("/") && !name.includes("loss")).slice(0, 4)],
  ];
  $("curves").replaceChildren(...groups.map(([title, of]) => chart(rows, of, title)).filter(Boolean));
  $("settings").tBodies[0].replaceChildren(...Object.entries(told.settings ?? {}).map(([name, value]) => (
    element("tr", {}, element("td", { textContent: name }),
      element("td", { textContent: typeof value === "string" ? value : JSON.stringify(value) }))
  )));
  const underWay = told.under_way;
  await showPictures(told.pictures, underWay);
  await listReports();
  if (underWay && state.view === "run") timer = setTimeout(() => showTraining().catch(() => {}), 1000 * SECONDS);
}

// The latest predictions while there is more to come, then the best and the worst.
const TITLES = { latest: "Latest predictions", worst: "Worst predictions", best: "Best predictions" };
let shown = "";

async function showPictures(pictures, underWay) {
  const ended = pictures.some((one) => one.kind !== "latest") && !underWay;
  const chosen = pictures.filter((one) => (one.kind === "latest") !== ended);
  const key = JSON.stringify([state.model.name, chosen]);
  if (key === shown) return;
  shown = key;
  const model = state.model.name, found = [];
  for (const kind of Object.keys(TITLES)) {
    const mine = chosen.filter((one) => one.kind === kind);
    if (!mine.length) continue;
    const last = new Date(1000 * Math.max(...mine.map((one) => one.written))).toLocaleTimeString();
    found.push(element("h2", { textContent: kind === "latest" ? `${TITLES[kind]}, ${last}` : TITLES[kind] }));
    for (const one of mine) {
      const src = URL.createObjectURL(await api.pictureOf(model, one.number));
      const image = element("img", { src, alt: `${TITLES[kind]}: image, truth and prediction` });
      image.addEventListener("load", () => URL.revokeObjectURL(src), { once: true });
      found.push(image);
    }
  }
  if (key === shown) $("run-pictures").replaceChildren(...found);
}

async function listReports() {
  const reports = await api.reports();
  $("run-reports").hidden = !reports.length;
  $("reports").replaceChildren(...reports.map(({ number, title }) => {
    const link = element("a", { href: `/v1/reports/${number}`, textContent: title });
    // A link cannot carry a token: then the report is downloaded.
    link.addEventListener("click", (event) => {
      if (!api.hasToken()) return;
      event.preventDefault();
      guarded(async () => download(await api.report(number), `${title}.html`));
    });
    return element("li", {}, link);
  }));
}
