// The machine room: what the engine does, live, from one stream of events. Nothing is asked for, and nothing is told,
// while nobody looks.

import {$, bytes, count, h, time} from "./dom.js";
import * as server from "./server.js";

/** How long a use stays bright, milliseconds. */
const FADE = 4000;

/** How much time the lines show, seconds. */
const SPAN = 60;

const LEFT = 0, USED = 2, READ = 3;

const COLOURS = {
  disk: "light-dark(#d96c1b, #f09a53)",
  device: "light-dark(#2f7fd6, #6db4f8)",
  host: "light-dark(#7a58c2, #b39bea)",
  between: "light-dark(#6d7880, #8c98a3)",
};

const MEMORY = [
  ["resident", "weights of every token", "light-dark(#2f7fd6, #6db4f8)"],
  ["experts", "slots for experts", "light-dark(#d96c1b, #f09a53)"],
  ["kv", "KV cache", "light-dark(#7a58c2, #b39bea)"],
  ["state", "recurrent state", "light-dark(#1a8f7a, #58cfb9)"],
  ["activations", "activations", "light-dark(#6d7880, #8c98a3)"],
];

let abort = null, again = 0, parts = null, machine = null, grid = null, frame = 0, lastStats = null, lastAt = 0, best = 0;
const rates = [], reads = [];
let smooth = null;

/** Begins or ends to look. */
export function visible(is) {
  clearTimeout(again);
  if (!is || document.hidden) {
    abort?.abort();
    abort = null;
    cancelAnimationFrame(frame);
    frame = 0;
    return;
  }
  if (!abort) watch();
}
document.addEventListener("visibilitychange", () => visible(!$("machine").hidden));
server.onState(now => { if (now === "ready" && !$("machine").hidden && !abort) visible(true); });

function say(text) {
  parts = null;
  $("machine").replaceChildren(h("p", {class: "quiet", role: "status"}, text));
}

async function watch() {
  const mine = abort = new AbortController();
  if (!parts) say("Connecting to the machine room …");
  try {
    const stream = server.events("machine", {signal: mine.signal});
    for await (const event of stream) {
      if (event.machine) begin(event.machine);
      else if (parts) update(event);
    }
    throw new TypeError("the stream ended");
  } catch (error) {
    if (mine.signal.aborted) return;
    if (abort === mine) abort = null;
    if (error instanceof server.Refused) say(error.status === 401 ? "The machine room needs the API key: see Settings." : error.message);
    else if (parts) parts.picture.textContent = "no connection; this is what was seen last";
    else say("The server cannot be reached.");
    if (!$("machine").hidden) again = setTimeout(() => visible(true), 2000);
  }
}

const key = (colour, text) => h("li", {}, swatch(colour), text);
function swatch(colour) {
  const made = h("i");
  made.style.background = colour;
  return made;
}

function card(title, kind, ...children) { return h("section", {class: "card " + kind}, h("h2", {}, title), ...children); }

/** The board, for the machine that is described. */
function begin(described) {
  machine = described;
  [lastStats, lastAt, smooth, best] = [null, 0, null, 0];
  rates.length = reads.length = 0;
  const large = () => h("p", {class: "large"}, "–");
  const line = label => h("canvas", {class: "line", role: "img", "aria-label": label});
  const [layers, experts] = [machine.layers.length, Math.max(0, ...machine.layers)];
  parts = {
    picture: h("p", {class: "facts"}), rate: large(), rateLine: line("Tokens a second over the last minute"), rateNote: h("p", {class: "quiet"}, ""),
    hits: large(), hitsNote: h("p", {class: "quiet"}), hitsBar: h("div", {class: "stack"}),
    disk: large(), diskLine: line("Bytes a second from the disk over the last minute"), diskNote: h("p", {class: "quiet"}),
    machine: h("p", {class: "facts"}), device: h("p", {class: "large"}, "–"),
    token: h("div", {class: "stack", role: "img"}), tokenKey: h("ul", {class: "legend"}), tokenNote: h("p", {class: "quiet"}),
    memory: h("div", {class: "stack", role: "img"}), memoryKey: h("ul", {class: "legend"}), memoryNote: h("p", {class: "quiet"}),
    canvas: h("canvas", {role: "img", "aria-label": "Experts in memory"}),
  };
  $("machine").replaceChildren(h("h1", {class: "unseen"}, "Machine room"), h("div", {class: "board"},
    layers > 0 && h("section", {class: "card all"},
      h("div", {class: "picture-top"}, h("h2", {}, `Experts: ${count(layers)} layers of ${count(experts)}`),
        h("ul", {class: "legend"}, key("var(--off)", "on the disk"), key("var(--on)", "in memory"), key("var(--used)", "just used"), key("var(--read)", "just read"))),
      h("div", {class: "picture"},
        h("div", {class: "rows", "aria-hidden": "true"}, h("span", {}, "1"), h("span", {}, String(layers))), parts.canvas,
        h("div", {class: "columns", "aria-hidden": "true"}, h("span", {}, "expert 1"), h("span", {}, String(experts)))),
      parts.picture),
    card("Tokens a second", "", parts.rate, parts.rateLine, parts.rateNote),
    card("Experts found in memory", "", parts.hits, parts.hitsBar, parts.hitsNote),
    card("From the disk", "", parts.disk, parts.diskLine, parts.diskNote),
    card("The machine", "", parts.device, parts.machine),
    card("Time of a token", "half", parts.token, parts.tokenKey, parts.tokenNote),
    card("Memory, against the plan", "half", parts.memory, parts.memoryKey, parts.memoryNote)));
  parts.device.replaceChildren(h("small", {}, machine.device));
  if (!layers) parts.hitsNote.textContent = "This model has no experts that stream.";
  grid = layers ? {layers, experts, state: new Uint8Array(layers * experts), stamp: new Float64Array(layers * experts).fill(-1e9), image: null, until: 0} : null;
  if (grid) {
    // layers may have fewer experts than the widest: what is not there stays clear
    for (let layer = 0; layer < layers; layer++) for (let e = machine.layers[layer]; e < experts; e++) grid.state[layer * experts + e] = 255;
    // cells as square as the room allows, and never too tall
    parts.canvas.style.height = Math.max(90, Math.min(460, Math.round(layers * Math.max(4, Math.min(22, 1300 / experts))))) + "px";
  }
  memory(null);
}

function update(event) {
  const now = performance.now();
  if (grid && event.experts) {
    for (let i = 0; i < event.experts.length; i += 3) {
      const at = event.experts[i] * grid.experts + event.experts[i + 1], what = event.experts[i + 2];
      grid.state[at] = what === LEFT ? 0 : what === USED || what === READ ? what : grid.state[at] || 1;
      if (what === USED || what === READ) grid.stamp[at] = now;
    }
    if (event.experts.length) grid.until = now + FADE;
    if (!frame) frame = requestAnimationFrame(paint);
  }
  numbers(event);
}

let painted = 0;
/** The picture: one dot of an image for each expert, drawn large. */
function paint(now) {
  frame = 0;
  if (!parts || !grid) return;
  if (now - painted < 66) { frame = requestAnimationFrame(paint); return; }
  painted = now;
  const {layers, experts, state, stamp} = grid, canvas = parts.canvas;
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" || (getComputedStyle(document.documentElement).colorScheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  const off = dark ? [32, 40, 48] : [231, 235, 238], on = dark ? [52, 88, 122] : [158, 194, 228];
  const used = dark ? [125, 214, 255] : [8, 84, 168], read = dark ? [255, 158, 74] : [222, 98, 16];
  const style = canvas.closest(".card").style;
  for (const [name, colour] of Object.entries({off, on, used, read})) style.setProperty("--" + name, `rgb(${colour})`);
  const box = canvas.getBoundingClientRect(), scale = devicePixelRatio || 1;
  const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const gap = width / experts >= 5 * scale && height / layers >= 5 * scale ? scale : 0;
  context.clearRect(0, 0, width, height);
  if (gap) {
    for (let at = 0; at < state.length; at++) {
      if (state[at] === 255) continue;
      const colour = shade(state[at], now - stamp[at], off, on, used, read);
      const [row, column] = [Math.floor(at / experts), at % experts];
      const [x, y] = [Math.round(column * width / experts), Math.round(row * height / layers)];
      context.fillStyle = `rgb(${colour[0]} ${colour[1]} ${colour[2]})`;
      context.fillRect(x, y, Math.round((column + 1) * width / experts) - x - gap, Math.round((row + 1) * height / layers) - y - gap);
    }
  } else {
    grid.image ??= Object.assign(document.createElement("canvas"), {width: experts, height: layers});
    const small = grid.image.getContext("2d"), data = small.createImageData(experts, layers);
    for (let at = 0; at < state.length; at++) {
      const colour = state[at] === 255 ? [0, 0, 0] : shade(state[at], now - stamp[at], off, on, used, read);
      data.data.set(colour, 4 * at);
      data.data[4 * at + 3] = state[at] === 255 ? 0 : 255;
    }
    small.putImageData(data, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(grid.image, 0, 0, width, height);
  }
  if (now < grid.until + 200) frame = requestAnimationFrame(paint);
}

function shade(state, age, off, on, used, read) {
  if (state === 0) return off;
  const bright = Math.max(0, 1 - age / FADE), from = state === READ ? read : used;
  return bright ? on.map((part, i) => Math.round(part + (from[i] - part) * bright * bright)) : on;
}
addEventListener("resize", () => { if (parts && grid && !frame) frame = requestAnimationFrame(paint); drawLines(); });

function numbers(event) {
  const stats = event.stats, at = event.at;
  let inMemory = 0;
  if (grid) {
    for (const state of grid.state) if (state > 0 && state < 255) inMemory++;
    const all = machine.layers.reduce((sum, experts) => sum + experts, 0);
    const words = `${count(inMemory)} of ${count(all)} experts are in memory (${Math.round(100 * inMemory / all)} %)` + (event.looked_up ? "; all are, and the device finds them by itself: which are used is not told" : "");
    if (parts.picture.textContent !== words) { parts.picture.textContent = words; parts.canvas.setAttribute("aria-label", words); }
  }
  if (lastStats) {
    const seconds = (at - lastAt) / 1000;
    const read = stats.bytes_read - lastStats.bytes_read, busy = (stats.busy_us - lastStats.busy_us) / 1e6;
    if (read > 0 && busy > 0.02) best = Math.max(best, read / busy);
    reads.push([at, seconds > 0 ? read / seconds : 0]);
    // by the second, or the line would only show when the steps fell
    rates.push([at, event.steps.reduce((sum, step) => sum + step.tokens, 0), seconds]);
  }
  [lastStats, lastAt] = [stats, at];
  const first = at - SPAN * 1000;
  while (rates.length && rates[0][0] < first) rates.shift();
  while (reads.length && reads[0][0] < first) reads.shift();
  const recent = rates.filter(([when]) => when > at - 2000), span = recent.reduce((sum, [,, seconds]) => sum + seconds, 0);
  const rate = span ? recent.reduce((sum, [, tokens]) => sum + tokens, 0) / span : 0;
  const last = event.steps.at(-1);
  big(parts.rate, rate ? rate.toFixed(rate < 10 ? 1 : 0) : "–", "tokens/s");
  parts.rateNote.textContent = last ? (last.prompt ? "reading a prompt" : "writing") : rate ? parts.rateNote.textContent : "idle";
  if (machine.layers.length) {
    const asked = stats.hits + stats.misses;
    big(parts.hits, asked ? (100 * stats.hits / asked).toFixed(1) : "–", "% found");
    parts.hitsNote.textContent = `${count(stats.hits)} hits, ${count(stats.misses)} misses`;
    bars(parts.hitsBar, [["var(--good)", stats.hits, "hits"], [COLOURS.disk, stats.misses, "misses"]]);
  }
  const recentReads = reads.filter(([when]) => when > at - 2000), readRate = recentReads.length ? recentReads.reduce((sum, [, value]) => sum + value, 0) / recentReads.length : 0;
  big(parts.disk, readRate >= 1e6 ? (readRate / 1e9).toFixed(2) : "–", "GB/s");
  parts.diskNote.textContent = `${bytes(stats.bytes_read)} in all` + (best ? ` · ${(best / 1e9).toFixed(2)} GB/s at most while it read` : "");
  if (event.steps.length) token(event.steps);
  memory(event);
  const {conditions} = event;
  const facts = [machine.model, `flashflood ${machine.version}`, `temperature: ${conditions.thermal}`, conditions.low_power ? "low power mode" : "", conditions.memory_pressure === "normal" ? "" : `memory pressure: ${conditions.memory_pressure}`, event.waiting ? `${count(event.waiting)} wait` : ""];
  const text = facts.filter(Boolean).join("\n");
  if (parts.machine.dataset.text !== text) {
    parts.machine.dataset.text = text;
    parts.machine.replaceChildren(...facts.filter(Boolean).map(fact => h("span", {}, fact)));
  }
  drawLines();
}

function big(place, text, unit) {
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.replaceChildren(text + " ", h("small", {}, unit));
}

/** Parts of a bar: [colour, amount, name]. */
function bars(place, wanted, whole) {
  const sum = whole ?? wanted.reduce((sum, [, amount]) => sum + amount, 0);
  while (place.children.length < wanted.length) place.append(h("i"));
  wanted.forEach(([colour, amount, name], index) => {
    const part = place.children[index];
    part.style.background = colour;
    part.style.width = (sum ? 100 * amount / sum : 0) + "%";
    part.title = name;
  });
}

/** The bar of a token's time: of the steps that were told, the newest the most. */
function token(steps) {
  for (const step of steps) {
    const each = Object.keys(COLOURS).map(part => step[part + "_us"] / step.tokens);
    smooth = !smooth || smooth.prompt !== step.prompt ? {prompt: step.prompt, each} : {prompt: step.prompt, each: smooth.each.map((part, i) => part + (each[i] - part) * 0.2)};
  }
  const names = ["waiting for the disk", `waiting for the device`, "on the host", "between tokens"];
  const all = smooth.each.reduce((sum, part) => sum + part, 0);
  const keys = Object.values(COLOURS);
  bars(parts.token, smooth.each.map((part, i) => [keys[i], part, names[i]]));
  const words = names.map((name, i) => `${name} ${Math.round(100 * smooth.each[i] / all)} %`);
  parts.token.setAttribute("aria-label", words.join(", "));
  parts.tokenKey.replaceChildren(...words.map((text, i) => key(keys[i], text)));
  parts.tokenNote.textContent = `${all >= 1e6 ? time(all / 1e6) : (all / 1000).toFixed(all < 1e4 ? 2 : 1) + " ms"} a token ${smooth.prompt ? "of the prompt" : "written"}`;
}

function memory(event) {
  const plan = machine.plan, wanted = MEMORY.map(([part, name, colour]) => [colour, plan[part], `${name}: ${bytes(plan[part])}`]);
  const total = wanted.reduce((sum, [, amount]) => sum + amount, 0), used = event?.memory_bytes ?? 0;
  bars(parts.memory, wanted, Math.max(total, used));
  if (!parts.memoryKey.children.length) parts.memoryKey.replaceChildren(...wanted.map(([colour,, text]) => key(colour, text)));
  const words = `${bytes(total)} planned of ${bytes(plan.available)} that were free` + (used ? ` · the program has ${bytes(used)} now` : "");
  parts.memoryNote.textContent = words;
  parts.memory.setAttribute("aria-label", words);
}

function drawLines() {
  if (!parts || !lastAt) return;
  // tokens in bins of a second
  const bins = new Map();
  for (const [at, tokens] of rates) bins.set(Math.floor(at / 1000), (bins.get(Math.floor(at / 1000)) ?? 0) + tokens);
  bins.delete(Math.floor(lastAt / 1000));
  line(parts.rateLine, [...bins].map(([second, tokens]) => [second * 1000 + 500, tokens]), 0, COLOURS.device);
  const binned = new Map();
  for (const [at, value] of reads) {
    const second = Math.floor(at / 1000), bin = binned.get(second) ?? [0, 0];
    binned.set(second, [bin[0] + value, bin[1] + 1]);
  }
  line(parts.diskLine, [...binned].map(([second, [sum, n]]) => [second * 1000 + 500, sum / n]), best, COLOURS.disk);
}

/** A line of [time, value]; `ceiling` is a dashed line. */
function line(canvas, points, ceiling, colour) {
  const box = canvas.getBoundingClientRect(), scale = devicePixelRatio || 1;
  const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
  if (!width) return;
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  canvas.style.color = colour;
  const ink = getComputedStyle(canvas).color;
  const most = Math.max(ceiling, ...points.map(([, value]) => value), 1e-9) * 1.1;
  const x = at => width * (1 - (lastAt - at) / (SPAN * 1000)), y = value => height - 1 - (height - 3) * value / most;
  if (ceiling) {
    context.strokeStyle = ink;
    context.setLineDash([3 * scale, 4 * scale]);
    context.globalAlpha = 0.6;
    context.beginPath();
    context.moveTo(0, y(ceiling));
    context.lineTo(width, y(ceiling));
    context.stroke();
    context.setLineDash([]);
    context.globalAlpha = 1;
  }
  if (points.length < 2) return;
  context.beginPath();
  points.forEach(([at, value], i) => i ? context.lineTo(x(at), y(value)) : context.moveTo(x(at), y(value)));
  context.strokeStyle = ink;
  context.lineWidth = 1.6 * scale;
  context.lineJoin = "round";
  context.stroke();
  context.lineTo(x(points.at(-1)[0]), height);
  context.lineTo(x(points[0][0]), height);
  context.globalAlpha = 0.15;
  context.fillStyle = ink;
  context.fill();
  context.globalAlpha = 1;
}
