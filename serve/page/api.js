/** The server's API, one function a route. */

/** What the server refused, in its own sentence. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

async function call(method, path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: JSON.stringify(body) });
  } catch {
    throw new ApiError("The server does not answer.");
  }
  const data = await answer.json().catch(() => null);
  if (answer.ok && data) return data;
  if (answer.status === 401) throw new ApiError("Open the link with the token that hb-serve printed.", 401);
  throw new ApiError(data?.error?.message ?? `The server answered ${answer.status}.`, answer.status);
}

const of = (id) => `/v1/videos/${encodeURIComponent(id)}`;

export const create = (settings) => call("POST", "/v1/videos", settings);
export const promise = (settings) => call("POST", "/v1/promise", settings);
export const remix = (id, prompt) => call("POST", `${of(id)}/remix`, { prompt });
export const cancel = (id) => call("POST", `${of(id)}/cancel`);
export const move = (id, position) => call("POST", `${of(id)}/move`, { position });
export const pin = (id, pinned) => call("POST", `${of(id)}/pin`, { pinned });
export const remove = (id) => call("DELETE", of(id));
export const models = async () => (await call("GET", "/v1/models")).data;
export const devices = () => call("GET", "/v1/devices");
export const unfinished = async () => (await call("GET", "/v1/unfinished")).data;
export const resume = (id) => call("POST", `/v1/unfinished/${encodeURIComponent(id)}/resume`);

/** Return a page of videos, the newest first. */
export function list(after, limit = 60) {
  const query = new URLSearchParams({ limit, order: "desc", ...(after ? { after } : {}) });
  return call("GET", `/v1/videos?${query}`);
}

/** Return the address of a finished video's file or picture. */
export const content = (id, query) => `${of(id)}/content?${new URLSearchParams(query)}`;
