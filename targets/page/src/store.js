// Conversations in the browser: IndexedDB, or memory where a browser keeps nothing for pages.
//
// A conversation is a tree: an answer that is made anew, or a question that was edited, stands beside the one before.

let database = null;
const memory = new Map();

const wait = request => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

/** Opens the store; `false` when nothing will be kept. */
export async function open() {
  try {
    const request = indexedDB.open("flashflood", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("conversations", {keyPath: "id"});
    database = await wait(request);
    return true;
  } catch {
    return false;
  }
}

const objects = mode => database.transaction("conversations", mode).objectStore("conversations");

/** All of them, the last one first. */
export async function all() {
  const found = database ? await wait(objects("readonly").getAll()) : [...memory.values()];
  return found.sort((a, b) => b.updated - a.updated);
}

export async function put(conversation) {
  if (database) await wait(objects("readwrite").put(conversation));
  else memory.set(conversation.id, conversation);
}

export async function remove(id) {
  if (database) await wait(objects("readwrite").delete(id));
  else memory.delete(id);
}

export const newId = () => crypto.getRandomValues(new Uint32Array(4)).reduce((id, part) => id + part.toString(36), "");

export function conversation() {
  const now = Date.now();
  return {id: newId(), title: "", created: now, updated: now, nodes: {}, leaf: null};
}

/** The messages from the first to `leaf`. */
export function path(conversation, leaf = conversation.leaf) {
  const found = [];
  for (let node = conversation.nodes[leaf]; node; node = conversation.nodes[node.parent]) found.push(node);
  return found.reverse();
}

/** The messages that stand in one place, in the order they were made. */
export const siblings = (conversation, node) =>
  Object.values(conversation.nodes).filter(other => other.parent === node.parent).sort((a, b) => a.created - b.created);

/** The end of the newest way on from a message. */
export function newestLeaf(conversation, id) {
  for (;;) {
    const next = Object.values(conversation.nodes).filter(node => node.parent === id).sort((a, b) => b.created - a.created)[0];
    if (!next) return id;
    id = next.id;
  }
}

export function add(conversation, node) {
  const made = {id: newId(), parent: conversation.leaf, created: Date.now(), text: "", ...node};
  // two in one millisecond would have no order
  const last = Math.max(0, ...Object.values(conversation.nodes).map(other => other.created));
  made.created = Math.max(made.created, last + 1);
  conversation.nodes[made.id] = made;
  conversation.leaf = made.id;
  return made;
}

/** Takes a message out, and what followed it. */
export function cut(conversation, node) {
  const beside = siblings(conversation, node).filter(other => other !== node);
  const gone = [node.id];
  for (let i = 0; i < gone.length; i++) {
    for (const other of Object.values(conversation.nodes)) if (other.parent === gone[i]) gone.push(other.id);
    delete conversation.nodes[gone[i]];
  }
  conversation.leaf = beside.length ? newestLeaf(conversation, beside[beside.length - 1].id) : node.parent;
}

/** The conversations of a file that was exported; throws what is wrong with it. */
export function read(text) {
  let file;
  try { file = JSON.parse(text); } catch (error) { throw new Error("it is not JSON: " + error.message); }
  if (file?.format !== "flashflood conversations" || !Array.isArray(file.conversations)) {
    throw new Error("it is not an export of this page (\"format\": \"flashflood conversations\")");
  }
  const text_or = (value, other) => typeof value === "string" ? value : other;
  return file.conversations.map((given, index) => {
    const bad = what => { throw new Error(`conversation ${index + 1}: ${what}`); };
    if (typeof given?.nodes !== "object" || !given.nodes) bad("it has no messages");
    const made = {...conversation(), id: text_or(given.id, newId()), title: text_or(given.title, ""), leaf: given.leaf ?? null};
    for (const when of ["created", "updated"]) if (Number.isFinite(given[when])) made[when] = given[when];
    for (const [id, node] of Object.entries(given.nodes)) {
      if (!["user", "assistant", "tool"].includes(node?.role)) bad("a message has no role that is known here");
      if (node.parent != null && !given.nodes[node.parent]) bad("a message follows one that is not there");
      made.nodes[id] = {
        id, parent: node.parent ?? null, role: node.role, created: Number(node.created) || 0, text: text_or(node.text, ""),
        thoughts: text_or(node.thoughts, undefined), thoughtTime: Number(node.thoughtTime) || undefined,
        callId: text_or(node.callId, undefined), name: text_or(node.name, undefined),
        files: list(node.files).map(file => ({name: text_or(file?.name, "file"), text: text_or(file?.text, "")})),
        calls: list(node.calls).map(call => ({id: text_or(call?.id, ""), name: text_or(call?.name, ""), arguments: text_or(call?.arguments, "")})),
        stats: text_or(node.stats, undefined),
        end: node.end ? {kind: text_or(node.end.kind, "stop"), detail: text_or(node.end.detail, undefined)} : undefined,
      };
    }
    // a way back that goes round would never end
    for (const id of Object.keys(made.nodes)) {
      let steps = 0;
      for (let at = id; at; at = made.nodes[at]?.parent) if (++steps > 1e5) bad("its messages go round in a circle");
    }
    if (made.leaf !== null && !made.nodes[made.leaf]) made.leaf = null;
    return made;
  });
}

const list = value => Array.isArray(value) ? value : [];

export const written = conversations =>
  JSON.stringify({format: "flashflood conversations", version: 1, exported: new Date().toISOString(), conversations}, null, 1);
