// The conversation that is shown: its messages, and what can be done with each.

import {$, copy, count, h, icon, iconButton, tell, time, toast} from "./dom.js";
import {answer} from "./answering.js";
import {Blocks} from "./markdown.js";
import * as server from "./server.js";
import * as store from "./store.js";

/** Longest text file that is taken, bytes. */
const LONGEST_FILE = 2_000_000;

/** An answer on its way is kept so often, so that a page that is closed loses little. */
const KEEP_EVERY = 2000;

/** The picture is made anew at most so often, milliseconds; more seldom where it would take more than a sixth of the time. */
const FRAME = 66;

let shown = store.conversation();
let running = null;
let files = [];
let onChange = () => {};

export const current = () => shown;
export const isRunning = () => running;

// ---- the messages --------------------------------------------------------------------------------------------------

const scroller = $("scroll"), turns = $("turns"), prompt = $("prompt");
let follows = true;
scroller.addEventListener("scroll", () => {
  follows = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
  $("down").hidden = follows;
}, {passive: true});
const toEnd = () => { scroller.scrollTop = scroller.scrollHeight; };
$("down").addEventListener("click", toEnd);

const ENDS = {
  length: "The answer reached its limit of tokens.",
  stopped: "Stopped.",
  cut: "The stream ended early: this answer is not whole.",
  lost: "The server cannot be reached. What you wrote is kept.",
};

/** Answers that are whole, with their text: a long one is not rendered again because another one follows. */
const whole = new WeakMap();

/** A message on the page. */
function article(node) {
  const before = whole.get(node);
  if (before && before.text === node.text && running?.node !== node) {
    before.view.update(true);
    actions(before.made, node);
    return before.made;
  }
  const kind = node.role === "user" ? "user" : node.role === "tool" ? "tool" : "assistant";
  const label = {user: "You", tool: "Result of a tool", assistant: "Answer"}[kind];
  const made = h("article", {class: "turn " + kind, "aria-label": label, "data-id": node.id});
  if (kind === "assistant") {
    const shows = view(made, node);
    shows.update(true);
    whole.set(node, {made, view: shows, text: node.text});
  } else {
    const bubble = h("div", {class: "bubble"});
    for (const file of node.files ?? []) bubble.append(h("details", {class: "filed"}, h("summary", {}, icon("file"), `${file.name} · ${count(file.text.length)} characters`), h("pre", {tabindex: "0"}, file.text)));
    if (kind === "tool") bubble.append(h("p", {class: "quiet"}, "Result of " + (node.name ?? "the call")));
    if (node.text) bubble.append(h("div", {class: "plain"}, node.text));
    made.append(bubble);
  }
  made.append(h("div", {class: "actions"}));
  if (running?.node !== node) actions(made, node);
  return made;
}

/** What may be done with a message. */
function actions(made, node) {
  const bar = made.querySelector(".actions");
  const beside = store.siblings(shown, node), at = beside.indexOf(node);
  const other = step => () => {
    shown.leaf = store.newestLeaf(shown, beside[at + step].id);
    save();
    draw();
  };
  const buttons = [];
  if (beside.length > 1) {
    const [back, on] = [iconButton("left", "The version before", other(-1)), iconButton("right", "The next version", other(1))];
    [back.disabled, on.disabled] = [at === 0, at === beside.length - 1];
    buttons.push(back, h("span", {class: "versions"}, `${at + 1}/${beside.length}`), on);
  }
  buttons.push(iconButton("copy", "Copy", event => copy(node.text, event.currentTarget)));
  if (node.role === "user") buttons.push(iconButton("edit", "Edit and send again", () => edit(made, node)));
  if (node.role === "assistant") {
    buttons.push(iconButton("again", "Answer again", () => again(node)));
    if (shown.leaf === node.id && node.text && !node.calls?.length) buttons.push(iconButton("on", "Go on with this answer", () => run(node, true)));
  }
  buttons.push(iconButton("delete", "Delete, with what follows", () => remove(node)));
  bar.replaceChildren(...buttons, h("span", {class: "speed quiet"}, node.stats ?? ""));
}

/** The parts of an answer on the page, and what brings them up to date. */
function view(made, node) {
  const parts = {thoughts: null, text: h("div", {class: "text"}), calls: h("div", {class: "calls"}), end: h("div", {class: "end"})};
  made.append(parts.text, parts.calls, parts.end);
  const blocks = new Blocks(parts.text);
  return {
    update(whole) {
      if (node.thoughts) {
        if (!parts.thoughts) {
          const text = document.createTextNode("");
          parts.thoughts = h("details", {class: "thoughts"}, h("summary", {}), h("div", {class: "plain"}, text));
          parts.thought = text;
          parts.text.before(parts.thoughts);
        }
        // only what is new: a selection stays
        if (parts.thought.length < node.thoughts.length) parts.thought.appendData(node.thoughts.slice(parts.thought.length));
        const still = !whole && !node.text && !node.calls?.length;
        const words = `${still ? "Thinking" : "Thought"}${node.thoughtTime ? ` for ${time(node.thoughtTime)}` : ""}`;
        const summary = parts.thoughts.querySelector("summary");
        if (summary.textContent !== words) summary.textContent = words;
        parts.thoughts.classList.toggle("still", still);
      }
      blocks.show(node.text, whole);
      if (node.calls?.length) calls(parts.calls, node, whole);
      parts.end.replaceChildren();
      if (whole && node.end) ending(parts.end, node);
    },
  };
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

/** The calls of tools, and a place for the result of each that has none. */
function calls(place, node, whole) {
  const drafts = [...place.querySelectorAll("textarea")].map(area => area.value);
  place.replaceChildren(...node.calls.map(call => h("div", {class: "call"},
    h("p", {class: "call-name"}, "Calls ", h("code", {}, call.name)),
    h("pre", {tabindex: "0"}, whole ? pretty(call.arguments) : call.arguments))));
  if (!whole || shown.leaf !== node.id || node.end?.kind === "cut") return;
  const areas = node.calls.map((call, index) => {
    const area = h("textarea", {rows: "2", "aria-label": "Result of " + call.name, placeholder: "What the tool answers"});
    area.value = drafts[index] ?? "";
    place.children[index].append(area);
    return area;
  });
  place.append(h("button", {type: "button", click() {
    if (running) return;
    node.calls.forEach((call, index) => store.add(shown, {role: "tool", callId: call.id, name: call.name, text: areas[index].value}));
    draw();
    respond();
  }}, node.calls.length > 1 ? "Send the results" : "Send the result"));
}

/** How an answer ended, where that is worth a word. */
function ending(place, node) {
  const {kind, detail} = node.end;
  const words = detail ?? ENDS[kind] ?? (kind === "stop" && !node.text && !node.calls?.length ? "The model said nothing." : "");
  if (!words) return;
  const failed = ["cut", "lost", "refused"].includes(kind);
  place.append(h("span", {class: failed ? "error" : "quiet"}, words));
  if (shown.leaf !== node.id) return;
  if (node.text && !node.calls?.length) place.append(h("button", {type: "button", click: () => run(node, true)}, "Go on"));
  if (failed) place.append(h("button", {type: "button", click: () => retry(node)}, "Try again"));
}

/** Shows the conversation anew. */
export function draw() {
  const path = store.path(shown);
  turns.replaceChildren(...path.map(article));
  $("welcome").hidden = path.length > 0;
  if (running?.conversation === shown && path.includes(running.node)) {
    const made = turns.querySelector(`[data-id="${running.node.id}"]`);
    made.append(running.status);
    running.view = {made, ...rebuilt(made, running.node)};
  }
  $("down").hidden = true;
  follows = true;
  toEnd();
}

/** A view of an answer that is on its way, in place of the one that says it is whole. */
function rebuilt(made, node) {
  made.querySelectorAll(".thoughts, .text, .calls, .end").forEach(part => part.remove());
  const fresh = view(made, node);
  made.append(made.querySelector(".actions"), made.querySelector(".status"));
  fresh.update(false);
  return fresh;
}

// ---- what is asked -------------------------------------------------------------------------------------------------

export async function save(conversation = shown) {
  conversation.updated = Date.now();
  try {
    await store.put(conversation);
  } catch (error) {
    toast("This browser could not keep the conversation: " + error.message);
  }
  onChange();
}

/** A question, and its answer. */
function ask(text, given) {
  store.add(shown, {role: "user", text, files: given.length ? given : undefined});
  shown.title ||= (text || given[0].name).replace(/\s+/g, " ").trim().slice(0, 80);
  draw();
  respond();
}

function respond() { return run(store.add(shown, {role: "assistant"}), false); }

function again(node) {
  if (running) return;
  shown.leaf = node.parent;
  respond();
}

/** Once more in the same place: there was no answer, or not all of one. */
function retry(node) {
  if (running) return;
  if (node.text || node.thoughts) return again(node);
  run(node, false);
}

/** Fills a message with an answer, and shows it as it comes. */
async function run(node, goesOn) {
  if (running) return;
  const conversation = shown, controller = new AbortController();
  const bar = h("div", {class: "bar", role: "progressbar", "aria-label": "Reading the prompt", "aria-valuemin": "0", "aria-valuemax": "100"}, h("div"));
  const words = h("span", {class: "words"});
  const mine = running = {conversation, node, controller, status: h("div", {class: "status quiet"}, bar, words), view: null};
  bar.hidden = true;
  busy(true);
  save(conversation);
  draw();
  tell("the model answers");
  let pending = 0, next = 0, rate = "", rated = 0, kept = performance.now();
  const update = () => {
    pending = 0;
    // the answer is whole by now
    if (running !== mine) return;
    const since = performance.now();
    bar.hidden = true;
    // a number that changes with each token is for nobody, and a new picture for each would cost
    if (since - rated > 500) {
      rated = since;
      words.textContent = rate;
    }
    if (shown === conversation) {
      mine.view?.update(false);
      if (follows) toEnd();
    }
    // a message comes behind what the browser does for the picture
    const {port1, port2} = new MessageChannel();
    port1.onmessage = () => {
      const now = performance.now();
      next = Math.max(since + FRAME, now + 5 * (now - since));
      port1.close();
    };
    port2.postMessage(0);
    const now = performance.now();
    next = now + FRAME;
    if (now - kept > KEEP_EVERY) {
      kept = now;
      store.put(conversation).catch(() => {});
    }
  };
  await answer(conversation, node, goesOn, controller.signal, {
    progress({share, words: text}) {
      bar.hidden = share === undefined;
      if (share !== undefined) {
        bar.firstChild.style.width = 100 * share + "%";
        bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
        bar.setAttribute("aria-valuetext", text);
      }
      words.textContent = text;
    },
    piece(_, speed) {
      rate = speed;
      pending ||= setTimeout(() => requestAnimationFrame(update), Math.max(0, next - performance.now()));
    },
  });
  running = null;
  mine.status.remove();
  busy(false);
  if (shown === conversation) {
    const stays = follows, made = turns.querySelector(`[data-id="${node.id}"]`);
    // the blocks that are there stay: a selection in them does
    const scroll = scroller.scrollTop;
    mine.view?.update(true);
    if (made) {
      actions(made, node);
      whole.set(node, {made, view: mine.view, text: node.text});
    }
    scroller.scrollTop = scroll;
    if (stays) toEnd();
  }
  tell(node.end.kind === "stop" ? "the answer is there" : node.end.detail ?? ENDS[node.end.kind] ?? "");
  save(conversation);
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
}

export function stop() {
  if (!running) return false;
  running.controller.abort();
  return true;
}

function remove(node) {
  if (running?.conversation === shown) return;
  const before = {nodes: {...shown.nodes}, leaf: shown.leaf}, conversation = shown;
  store.cut(shown, node);
  save();
  draw();
  toast("The message is deleted.", "Undo", () => {
    Object.assign(conversation, before);
    save(conversation);
    if (shown === conversation) draw();
  });
}

/** A question becomes a field; what is sent stands beside the one before. */
function edit(made, node) {
  if (running) return;
  const area = h("textarea", {"aria-label": "Edit your message", rows: String(Math.min(12, node.text.split("\n").length + 1))});
  area.value = node.text;
  const done = () => { made.replaceWith(article(node)); };
  const send = () => {
    if (running || !area.value.trim() && !node.files?.length) return;
    shown.leaf = node.parent;
    ask(area.value, node.files ?? []);
  };
  area.addEventListener("keydown", event => {
    if (event.key === "Escape") { event.stopPropagation(); done(); }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); }
  });
  made.replaceChildren(h("div", {class: "editing"}, area, h("div", {class: "buttons end"},
    h("button", {type: "button", click: done}, "Cancel"), h("button", {type: "button", class: "main", click: send}, "Send"))));
  area.focus();
}

// ---- the field below -----------------------------------------------------------------------------------------------

const draftOf = conversation => "draft:" + (Object.keys(conversation.nodes).length ? conversation.id : "new");

function keepDraft() {
  if (prompt.value) localStorage.setItem(draftOf(shown), prompt.value);
  else localStorage.removeItem(draftOf(shown));
}

function grow() {
  prompt.style.height = "auto";
  prompt.style.height = prompt.scrollHeight + 2 + "px";
}

function setPrompt(text) {
  prompt.value = text;
  grow();
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

$("form").addEventListener("submit", event => {
  event.preventDefault();
  const text = prompt.value;
  if (running || !text.trim() && !files.length) return;
  notice("");
  const given = files;
  files = [];
  drawFiles();
  localStorage.removeItem(draftOf(shown));
  setPrompt("");
  ask(text.trim(), given);
  prompt.focus();
});

prompt.addEventListener("input", () => { grow(); keepDraft(); });
prompt.addEventListener("keydown", event => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (running) notice("An answer is on its way. What you write here stays until it is done.");
    else $("form").requestSubmit();
  }
  if (event.key === "ArrowUp" && !prompt.value && !running) {
    const last = [...turns.querySelectorAll(".turn.user")].pop();
    if (last) {
      event.preventDefault();
      edit(last, shown.nodes[last.dataset.id]);
    }
  }
});
$("stop").addEventListener("click", stop);

function drawFiles() {
  $("files").hidden = !files.length;
  $("files").replaceChildren(...files.map((file, index) => h("li", {}, icon("file"), `${file.name} · ${count(file.text.length)} characters`,
    iconButton("close", "Leave out " + file.name, () => { files.splice(index, 1); drawFiles(); }))));
}

/** Takes text files; what is none is told. */
export async function take(given) {
  const refused = [];
  for (const file of given) {
    if (file.size > LONGEST_FILE) { refused.push(`${file.name} has more than 2 MB`); continue; }
    try {
      const text = new TextDecoder("utf-8", {fatal: true}).decode(await file.arrayBuffer());
      if (text.includes("\0")) throw new TypeError();
      files.push({name: file.name, text});
    } catch { refused.push(`${file.name} is not text`); }
  }
  notice(refused.join("; "));
  drawFiles();
  prompt.focus();
}

// ---- from conversation to conversation -----------------------------------------------------------------------------

export function show(conversation) {
  shown = conversation;
  localStorage.setItem("shown", conversation.id);
  setPrompt(localStorage.getItem(draftOf(shown)) ?? "");
  notice("");
  draw();
  onChange();
}

export function fresh() {
  show(store.conversation());
  prompt.focus();
}

/** Begins with the conversation that was shown last; `changed` hears of whatever the list shows. */
export function begin(conversations, changed) {
  onChange = changed;
  // what was on its way when the page was closed did not come to its end
  for (const conversation of conversations) {
    for (const node of Object.values(conversation.nodes)) if (node.role === "assistant" && !node.end) node.end = {kind: "cut"};
  }
  const last = conversations.find(conversation => conversation.id === localStorage.getItem("shown"));
  show(last ?? store.conversation());
  server.onState((now, before) => { if (now === "ready" && before === "lost") tell("the server is there again"); });
  for (const idea of ["What is the capital of Peru?", "Tell me a story about a parrot.", "Explain how experts are streamed from a disk."]) {
    $("ideas").append(h("button", {type: "button", click() { setPrompt(idea); keepDraft(); prompt.focus(); }}, idea));
  }
}
