// One answer on its way: what is sent, what comes, and what is said of it at the end.

import {count, time} from "./dom.js";
import * as server from "./server.js";
import * as settings from "./settings.js";
import * as store from "./store.js";

/** A fence that is longer than any in the text. */
const fence = text => "`".repeat(Math.max(3, ...[...text.matchAll(/`+/g)].map(found => found[0].length + 1)));

function content(node) {
  const files = (node.files ?? []).map(({name, text}) => `File \`${name}\`:\n${fence(text)}\n${text}${text.endsWith("\n") ? "" : "\n"}${fence(text)}`);
  return [...files, node.text].filter(Boolean).join("\n\n");
}

/** The messages up to `leaf` as the server takes them; an answer that has nothing is left out. */
function messages(conversation, leaf) {
  return store.path(conversation, leaf).flatMap(node => {
    if (node.role === "user") return [{role: "user", content: content(node)}];
    if (node.role === "tool") return [{role: "tool", tool_call_id: node.callId, name: node.name, content: node.text}];
    const said = {role: "assistant", content: node.text};
    if (node.thoughts) said.reasoning_content = node.thoughts;
    if (node.calls?.length) said.tool_calls = node.calls.map(call => ({id: call.id, type: "function", function: {name: call.name, arguments: call.arguments}}));
    return node.text || node.calls?.length || node.thoughts ? [said] : [];
  });
}

/** What the answer costs and how fast it was. */
function speeds(usage, timings) {
  const reused = usage.prompt_tokens_details?.cached_tokens ?? 0;
  const read = `${count(usage.prompt_tokens)} tokens read${reused ? ` (${count(reused)} reused)` : ""}` + (timings.prompt_per_second > 0 && timings.prompt_n > 0 ? ` at ${timings.prompt_per_second.toFixed(1)} tokens/s` : "");
  const wrote = `${count(usage.completion_tokens)} written` + (usage.completion_tokens > 1 ? ` at ${timings.predicted_per_second.toFixed(1)} tokens/s` : "");
  return read + " · " + wrote;
}

/** How far the prompt is: a share, and words with the time left. */
function progress({total, cache, processed, time_ms}) {
  const done = processed - cache, rate = done / (time_ms / 1000);
  let words = `reading the prompt: ${count(processed)} of ${count(total)} tokens`;
  if (cache) words += ` (${count(cache)} reused)`;
  if (done > 0 && time_ms > 300 && processed < total) words += ` · ${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s · ${time((total - processed) / rate)} left`;
  return {share: total ? processed / total : 1, words};
}

/**
 * Fills `node` with the answer to what stands before it, or goes on with what it has. `on` hears of changes: `progress`,
 * `piece`. The node's `end` says how it ended; this never throws.
 */
export async function answer(conversation, node, goesOn, signal, on) {
  delete node.end;
  delete node.stats;
  const asked = {messages: messages(conversation, goesOn ? node.id : node.parent), stream: true, stream_options: {include_usage: true}, return_progress: true};
  let usage, timings, finish = null, thinkingSince = 0, tokens = 0, since = 0;
  const before = node.thoughtTime ?? 0, callsBefore = node.calls?.length ?? 0;
  try {
    settings.apply(asked);
    if (goesOn) asked.continue_final_message = true;
    on.progress({words: "waiting for the model"});
    const stream = server.events("v1/chat/completions", {method: "POST", body: JSON.stringify(asked), signal});
    let ended = false;
    for (;;) {
      const {value: event, done} = await stream.next();
      if (done) { ended = event; break; }
      if (event.error) throw new server.Refused(500, event.error.message, 0);
      if (event.prompt_progress) on.progress(progress(event.prompt_progress));
      const choice = event.choices?.[0], delta = choice?.delta ?? {};
      const thought = delta.reasoning_content ?? delta.reasoning;
      if (thought) {
        thinkingSince ||= performance.now();
        node.thoughts = (node.thoughts ?? "") + thought;
        node.thoughtTime = before + (performance.now() - thinkingSince) / 1000;
      }
      if (delta.content) node.text += delta.content;
      for (const call of delta.tool_calls ?? []) {
        node.calls ??= [];
        const made = node.calls[callsBefore + call.index] ??= {id: "", name: "", arguments: ""};
        if (call.id) made.id = call.id;
        made.name += call.function?.name ?? "";
        made.arguments += call.function?.arguments ?? "";
      }
      if (thought || delta.content || delta.tool_calls) {
        since ||= performance.now();
        tokens += 1;
        const seconds = (performance.now() - since) / 1000;
        on.piece(!!thought, seconds > 0.5 ? (tokens / seconds).toFixed(1) + " tokens/s" : "");
      }
      if (choice?.finish_reason) finish = choice.finish_reason;
      if (event.usage) [usage, timings] = [event.usage, event.timings ?? timings];
      if (event.timings) timings = event.timings;
    }
    node.end = ended || finish ? {kind: finish ?? "stop"} : {kind: "cut"};
  } catch (error) {
    if (error.name === "AbortError") node.end = {kind: "stopped"};
    else if (error instanceof server.Refused) {
      node.end = {kind: "refused", detail: error.message, status: error.status};
      if (error.status === 401) server.forget();
    } else if (error instanceof TypeError) {
      node.end = node.text || node.thoughts ? {kind: "cut"} : {kind: "lost"};
      server.lost();
    } else node.end = {kind: "refused", detail: error.message};
  }
  if (usage && timings) node.stats = speeds(usage, timings);
}
