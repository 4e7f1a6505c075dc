// Elements, made without HTML: nothing here is parsed, so nothing that a model writes can become part of the page.

export const $ = id => document.getElementById(id);

/** An element; a property that is a function listens, `undefined` and `false` are left out. */
export function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(name, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter(child => child !== undefined && child !== null && child !== false));
  return made;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", "#i-" + name);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export const iconButton = (name, label, click) =>
  h("button", {type: "button", class: "icon", "aria-label": label, title: label, click}, icon(name));

let hiding;
/** A line that goes away by itself, with something that may be done. */
export function toast(text, action, act) {
  clearTimeout(hiding);
  const hide = () => { $("toast").hidden = true; };
  $("toast").replaceChildren(text);
  if (action) $("toast").append(h("button", {type: "button", class: "link", click() { hide(); act(); }}, action));
  $("toast").hidden = false;
  hiding = setTimeout(hide, 8000);
}

/** Tells those who do not see the page. */
export function tell(text) { $("told").textContent = text; }

export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // without TLS a browser has no clipboard for pages of other machines
    const area = h("textarea", {class: "unseen"});
    area.value = text;
    (button.closest("dialog") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const use = button.querySelector("use");
  use?.setAttribute("href", "#i-done");
  tell("copied");
  setTimeout(() => use?.setAttribute("href", "#i-copy"), 1500);
}

export const count = number => Math.round(number).toLocaleString("en");

export function bytes(number) {
  for (const [unit, name] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (number >= unit) return (number / unit).toFixed(number / unit < 10 ? 2 : 1) + " " + name;
  }
  return number + " B";
}

/** Seconds as people say them. */
export function time(seconds) {
  if (seconds < 9.95) return seconds.toFixed(1) + " s";
  if (seconds < 90) return Math.round(seconds) + " s";
  if (seconds < 5400) return Math.round(seconds / 60) + " min";
  return (seconds / 3600).toFixed(1) + " h";
}
