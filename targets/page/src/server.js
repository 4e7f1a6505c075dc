// The server: whether it is there, and its streams of events.

import {$, count} from "./dom.js";

export function headers() {
  const made = {"Content-Type": "application/json"};
  if ($("key").value) made.Authorization = "Bearer " + $("key").value;
  return made;
}

/** `connecting`, `ready`, `loading`, `stopping`, `key` or `lost`. */
export let state = "connecting";
export let model = null;
const listeners = [];
export const onState = listener => listeners.push(listener);

const WORDS = {
  loading: "the model is being loaded",
  stopping: "the server is stopping",
  key: "needs an API key: see Settings",
  lost: "no connection to the server",
};

function become(now) {
  const before = state;
  state = now;
  document.documentElement.dataset.server = now;
  const text = now === "ready" ? `${model.id} · ${count(model.context_length)} tokens of context` : WORDS[now] ?? now;
  if ($("model").textContent !== text) $("model").textContent = text;
  $("model").title = text;
  if (before !== now) listeners.forEach(listener => listener(now, before));
}

let looking, timer;

/** Looks whether the server is there, now and then again; never twice at once. */
export function look() {
  clearTimeout(timer);
  looking ??= find().then(become, () => become("lost")).finally(() => {
    looking = null;
    timer = setTimeout(look, document.hidden ? 30_000 : state === "ready" ? 5000 : 1500);
  });
  return looking;
}

async function find() {
  const health = await fetch("health", {signal: AbortSignal.timeout(10_000)});
  const {status} = await health.json();
  if (status !== "ok") return status;
  if (state === "ready") return "ready";
  const answer = await fetch("v1/models", {headers: headers(), signal: AbortSignal.timeout(10_000)});
  if (answer.status === 401) return "key";
  model = (await answer.json()).data?.[0] ?? null;
  return model ? "ready" : "loading";
}

/** The key is another one. */
export function forget() { if (state !== "lost") become("connecting"); return look(); }

export function lost() { become("lost"); look(); }

document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
addEventListener("online", look);

/** An answer that says why there is none. */
export class Refused extends Error {
  constructor(status, message, wait) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

/** The data of an answer's events, one after the other; ends with `true` when the stream said that it was its end. */
export async function* events(path, options) {
  const answer = await fetch(path, {...options, headers: headers()});
  if (!answer.ok) {
    let message = answer.statusText;
    try { message = (await answer.json()).error?.message ?? message; } catch { /* no JSON */ }
    throw new Refused(answer.status, message, Number(answer.headers.get("retry-after")) || 0);
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const {value, done} = await reader.read();
      if (done) return false;
      rest += value;
      const pieces = rest.split("\n\n");
      rest = pieces.pop();
      for (const piece of pieces) for (const line of piece.split("\n")) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") return true;
        yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
