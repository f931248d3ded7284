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
