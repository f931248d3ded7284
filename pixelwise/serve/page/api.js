// Speaks to the server. Every failure is an Error with the server's own sentence.

let token = sessionStorage.getItem("pixelwise-token") || "";

export async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) {
    const given = prompt("This server wants a token:");
    if (given) {
      token = given;
      sessionStorage.setItem("pixelwise-token", given);
      return ask(path, options);
    }
  }
  if (!answer.ok) {
    let said = `the server answered ${answer.status}`;
    try { said = (await answer.json()).detail || said; } catch { /* not ours */ }
    const error = new Error(said);
    error.status = answer.status;
    throw error;
  }
  return answer;
}

export const models = async () => (await (await ask("/v1/models")).json()).models;
export const training = async (model) => (await ask(`/v1/runs/${encodeURIComponent(model)}`)).json();

export const pictureOf = async (model, number) => (await ask(`/v1/runs/${encodeURIComponent(model)}/pictures/${number}`)).blob();
export const reports = async () => (await (await ask("/v1/reports")).json()).reports;
export const report = async (number) => (await ask(`/v1/reports/${number}`)).blob();
export const hasToken = () => Boolean(token);

export function predict(model, file, output, signal) {
  const path = `/v1/models/${encodeURIComponent(model)}/predict?output=${output}`;
  return ask(path, { method: "POST", body: file, signal });
}

export async function embed(model, file) {
  const answer = await ask(`/v1/models/${encodeURIComponent(model)}/images`, { method: "POST", body: file });
  return answer.json();
}

export async function segment(model, image, prompt, signal) {
  const path = `/v1/models/${encodeURIComponent(model)}/images/${image}/segment`;
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", body: JSON.stringify(prompt), headers, signal })).json();
}

// --- images to walk through -------------------------------------------------------------------------

export async function collection(score) {
  const query = score ? `?score=${encodeURIComponent(score)}` : "";
  return (await ask(`/v1/images${query}`)).json();
}

export async function samples() { return (await (await ask("/v1/samples")).json()).samples; }

export async function fileAt(path, name) {
  const blob = await (await ask(path)).blob();
  return new File([blob], name, { type: blob.type });
}

export const imageFile = (number, name) => fileAt(`/v1/images/${number}`, name.split("/").pop());

export async function raw(answer) {
  const [height, width] = answer.headers.get("X-Shape").split(",").map(Number);
  const bytes = await answer.arrayBuffer();
  const labels = answer.headers.get("X-Type") === "uint8" ? new Uint8Array(bytes) : new Uint16Array(bytes);
  return { labels, width, height };
}

export const storedLabels = async (number, of) => raw(await ask(`/v1/images/${number}/labels?of=${of}`));

export async function save(number, png) {
  return (await ask(`/v1/images/${number}/labels`, { method: "PUT", body: png })).json();
}

export const storedObjects = async (number, of) => (await ask(`/v1/images/${number}/objects?of=${of}`)).json();

const sent = (method, content) => ({ method, body: JSON.stringify(content), headers: { "Content-Type": "application/json" } });

export async function saveObjects(number, told) {
  return (await ask(`/v1/images/${number}/objects`, sent("PUT", told))).json();
}

export async function convertedObjects(told, output, name) {
  const query = new URLSearchParams({ output, name });
  return (await ask(`/v1/objects?${query}`, sent("POST", told))).blob();
}

export const everything = async (output) => (await ask(`/v1/labels?output=${output}`)).blob();

export async function converted(png, output, name, model) {
  const query = new URLSearchParams({ output, name, ...(model ? { model } : {}) });
  return (await ask(`/v1/labels?${query}`, { method: "POST", body: png })).blob();
}
