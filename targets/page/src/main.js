// The page: the list of conversations, dialogs, shortcuts, tabs.

import {$, h, iconButton, tell, toast} from "./dom.js";
import * as chat from "./chat.js";
import * as machine from "./machine.js";
import * as server from "./server.js";
import * as settings from "./settings.js";
import * as store from "./store.js";

let conversations = [];

// ---- the list ------------------------------------------------------------------------------------------------------

const DAY = 86_400_000;
function age(when) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (when >= midnight) return "Today";
  if (when >= midnight - DAY) return "Yesterday";
  return when >= midnight - 7 * DAY ? "This week" : "Before";
}

function drawList() {
  const shown = chat.current();
  if (Object.keys(shown.nodes).length && !conversations.includes(shown)) conversations.unshift(shown);
  conversations.sort((a, b) => b.updated - a.updated);
  const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = conversation => (conversation.title + " " + Object.values(conversation.nodes).map(node => node.text).join(" ")).toLowerCase();
  const found = words.length ? conversations.filter(conversation => { const all = text(conversation); return words.every(word => all.includes(word)); }) : conversations;
  let group = "";
  $("list").replaceChildren(...found.flatMap(conversation => {
    const title = conversation.title || "Untitled";
    const row = h("li", {class: conversation === shown ? "shown" : undefined},
      h("button", {type: "button", class: "title", title, "aria-current": conversation === shown ? "true" : undefined, click() { chat.show(conversation); drawer(false); select("chat"); }},
        chat.isRunning()?.conversation === conversation && h("span", {class: "pulse", role: "img", "aria-label": "answering"}), title),
      iconButton("edit", `Rename ${title}`, () => rename(conversation)),
      iconButton("delete", `Delete ${title}`, () => remove(conversation)));
    const now = age(conversation.updated);
    if (now === group) return [row];
    group = now;
    return [h("li", {class: "group quiet"}, now), row];
  }));
  $("nothing").hidden = found.length > 0;
  $("nothing").textContent = words.length ? "Nothing is found." : "No conversations yet.";
  document.title = (shown.title ? shown.title + " · " : "") + "flashflood";
}

let renamed;
function rename(conversation) {
  renamed = conversation;
  $("name").value = conversation.title;
  $("naming").returnValue = "";
  $("naming").showModal();
  $("name").select();
}
$("naming").addEventListener("close", () => {
  const name = $("name").value.trim();
  if ($("naming").returnValue !== "save" || !name || !renamed) return;
  renamed.title = name;
  chat.save(renamed);
});
// Enter is not the first button of the form
$("name").addEventListener("keydown", event => {
  if (event.key === "Enter") { event.preventDefault(); $("naming").close("save"); }
});

async function remove(conversation) {
  if (chat.isRunning()?.conversation === conversation) chat.stop();
  conversations = conversations.filter(other => other !== conversation);
  await store.remove(conversation.id);
  if (chat.current() === conversation) chat.fresh();
  drawList();
  toast(`“${conversation.title || "Untitled"}” is deleted.`, "Undo", async () => {
    await store.put(conversation);
    conversations.push(conversation);
    chat.show(conversation);
  });
}

$("search").addEventListener("input", drawList);
$("fresh").addEventListener("click", () => { chat.fresh(); drawer(false); select("chat"); });

$("export").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([store.written(conversations)], {type: "application/json"}));
  h("a", {href: url, download: `flashflood-conversations-${new Date().toISOString().slice(0, 10)}.json`}).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
});
$("import").addEventListener("click", () => $("import-file").click());
$("import-file").addEventListener("change", async () => {
  const [file] = $("import-file").files;
  $("import-file").value = "";
  if (!file) return;
  try {
    const read = store.read(await file.text());
    for (const conversation of read) {
      // one that is here and is not the same stays
      if (conversations.some(other => other.id === conversation.id)) conversation.id = store.newId();
      await store.put(conversation);
      conversations.push(conversation);
    }
    drawList();
    toast(`${read.length} conversation${read.length === 1 ? " is" : "s are"} imported.`);
  } catch (error) {
    toast(`${file.name} is not imported: ${error.message}`);
  }
});

// ---- tabs, drawer, dialogs -----------------------------------------------------------------------------------------

const TABS = ["chat", "machine"];
function select(name) {
  for (const tab of TABS) {
    $(tab).hidden = tab !== name;
    $("tab-" + tab).setAttribute("aria-selected", String(tab === name));
    $("tab-" + tab).tabIndex = tab === name ? 0 : -1;
  }
  machine.visible(name === "machine");
}
for (const tab of TABS) {
  $("tab-" + tab).addEventListener("click", () => select(tab));
  $("tab-" + tab).addEventListener("keydown", event => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = TABS[(TABS.indexOf(tab) + 1) % TABS.length];
    select(other);
    $("tab-" + other).focus();
  });
}

const narrow = matchMedia("(max-width: 760px)");
function drawer(open) {
  if (!narrow.matches) return;
  document.body.classList.toggle("drawer", open);
  $("shade").hidden = !open;
  $("side").inert = !open;
  $("menu").setAttribute("aria-expanded", String(open));
}
function folded(is) {
  document.body.classList.toggle("folded", is);
  localStorage.setItem("folded", is ? "1" : "");
  $("side").inert = is;
  $("menu").setAttribute("aria-expanded", String(!is));
}
const arrange = () => {
  document.body.classList.remove("drawer");
  $("shade").hidden = true;
  if (narrow.matches) drawer(false); else folded(!!localStorage.getItem("folded"));
};
narrow.addEventListener("change", arrange);
$("menu").addEventListener("click", () => narrow.matches ? drawer(true) : folded(!document.body.classList.contains("folded")));
$("fold").addEventListener("click", () => { if (narrow.matches) drawer(false); else folded(true); $("menu").focus(); });
$("shade").addEventListener("click", () => drawer(false));

$("settings").addEventListener("click", () => $("dialog").showModal());
$("shortcuts").addEventListener("click", () => $("help").showModal());
$("key").addEventListener("change", () => { sessionStorage.setItem("key", $("key").value); server.forget(); });
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", event => { if (event.target === dialog) dialog.close(); });
}

// ---- shortcuts -----------------------------------------------------------------------------------------------------

const KEYS = [
  ["Enter", "send"],
  ["Shift Enter", "a new line"],
  ["Esc", "stop the answer"],
  ["↑", "edit the last question (in an empty field)"],
  ["Alt N", "a new chat", () => $("fresh").click()],
  ["Alt S", "search conversations", () => { if (narrow.matches) drawer(true); else folded(false); $("search").focus(); }],
  ["Alt M", "to the machine room and back", () => select($("machine").hidden ? "machine" : "chat")],
  ["Alt ,", "settings", () => $("dialog").showModal()],
  ["/", "to the field (outside of one)"],
  ["?", "this list (outside of a field)"],
];
$("keys").append(...KEYS.flatMap(([keys, what]) => [h("dt", {}, ...keys.split(" ").flatMap((key, index) => [index ? " " : "", h("kbd", {}, key)])), h("dd", {}, what)]));

addEventListener("keydown", event => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (document.body.classList.contains("drawer")) drawer(false);
    else if (chat.stop()) event.preventDefault();
    return;
  }
  if (event.altKey && !event.ctrlKey && !event.metaKey) {
    // by the key, whatever sign it makes together with Alt
    const key = {KeyN: "Alt N", KeyS: "Alt S", KeyM: "Alt M", Comma: "Alt ,"}[event.code];
    const act = KEYS.find(([keys]) => keys === key)?.[2];
    if (act) { event.preventDefault(); act(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.target.closest("input, textarea, select")) return;
  if (event.key === "?") { event.preventDefault(); $("help").showModal(); }
  if (event.key === "/") { event.preventDefault(); select("chat"); $("prompt").focus(); }
});

// ---- files ---------------------------------------------------------------------------------------------------------

$("attach").addEventListener("click", () => $("picker").click());
$("picker").addEventListener("change", async () => { await chat.take([...$("picker").files]); $("picker").value = ""; });
let depth = 0;
const hasFiles = event => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", event => { if (hasFiles(event)) { depth += 1; $("drop").hidden = false; } });
addEventListener("dragleave", event => { if (hasFiles(event) && --depth <= 0) { depth = 0; $("drop").hidden = true; } });
addEventListener("dragover", event => { if (hasFiles(event)) event.preventDefault(); });
addEventListener("drop", event => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  depth = 0;
  $("drop").hidden = true;
  select("chat");
  chat.take([...event.dataTransfer.files]);
});

// ---- the beginning -------------------------------------------------------------------------------------------------

settings.load();
arrange();
server.look();
if (!await store.open()) {
  $("kept").textContent = "This browser keeps nothing for this page: conversations end with it.";
  tell($("kept").textContent);
}
conversations = await store.all();
chat.begin(conversations, drawList);
