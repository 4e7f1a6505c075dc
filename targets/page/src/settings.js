// What is asked of the model beside the conversation. Kept in the browser; the key only as long as the tab is open.

import {$} from "./dom.js";

const FIELDS = ["system", "think", "budget", "max-tokens", "seed", "temperature", "top-p", "top-k", "min-p", "presence", "frequency", "schema", "tools", "theme"];

export function load() {
  let kept = {};
  try { kept = JSON.parse(localStorage.getItem("settings") ?? "{}"); } catch { /* somebody else's */ }
  for (const field of FIELDS) $(field).value = kept[field] ?? "";
  $("key").value = sessionStorage.getItem("key") ?? "";
  for (const field of FIELDS) $(field).addEventListener("input", changed);
  $("defaults").addEventListener("click", () => {
    for (const field of FIELDS) $(field).value = "";
    changed();
  });
  changed();
}

function changed() {
  const kept = Object.fromEntries(FIELDS.map(field => [field, $(field).value]).filter(([, value]) => value !== ""));
  localStorage.setItem("settings", JSON.stringify(kept));
  document.documentElement.dataset.theme = $("theme").value;
  for (const field of Object.keys(FORMS)) read(field);
}

const FORMS = {
  schema: [value => typeof value === "object" && value && !Array.isArray(value), "a JSON schema is an object"],
  tools: [Array.isArray, 'tools are a list: [{"type": "function", ...}]'],
};

/** The JSON of a field, or what is wrong with it, which stands below the field. */
function read(field) {
  const [is, otherwise] = FORMS[field], text = $(field).value;
  let wrong = "", value;
  if (text.trim()) {
    try {
      value = JSON.parse(text);
      if (!is(value)) wrong = otherwise;
    } catch (error) { wrong = "this is not JSON: " + error.message; }
  }
  $(field + "-wrong").textContent = wrong;
  $(field + "-wrong").hidden = !wrong;
  $(field).setAttribute("aria-invalid", String(!!wrong));
  return {value, wrong};
}

/** Puts the settings into a request; throws what is wrong with them. */
export function apply(asked) {
  const [schema, tools] = ["schema", "tools"].map(field => {
    const {value, wrong} = read(field);
    if (wrong) throw new Error(`Settings, ${field}: ${wrong}`);
    return value;
  });
  const number = (field, key) => { if ($(field).value !== "") asked[key] = Number($(field).value); };
  number("temperature", "temperature");
  number("top-p", "top_p");
  number("top-k", "top_k");
  number("min-p", "min_p");
  number("presence", "presence_penalty");
  number("frequency", "frequency_penalty");
  number("seed", "seed");
  number("max-tokens", "max_tokens");
  number("budget", "thinking_budget");
  if ($("think").value) asked.chat_template_kwargs = {enable_thinking: $("think").value === "on"};
  if (schema) asked.response_format = {type: "json_schema", json_schema: {name: "answer", schema}};
  if (tools?.length) asked.tools = tools;
  const system = $("system").value;
  if (system.trim()) asked.messages.unshift({role: "system", content: system});
}
