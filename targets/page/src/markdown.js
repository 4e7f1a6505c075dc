// Markdown as it comes: blocks that are closed are rendered once and left alone, so that a selection in them stays and a
// long answer costs no more than a short one; the last block is rendered anew.
//
// What the model writes is not to be trusted. HTML in it is text, but for a few tags without attributes; what the renderer
// makes passes DOMPurify; pictures are links; and the page's policy lets no script run and nothing be loaded.

import DOMPurify from "dompurify";
import hljs from "highlight.js/lib/core";
import bash from "highlight.js/lib/languages/bash";
import cpp from "highlight.js/lib/languages/cpp";
import csharp from "highlight.js/lib/languages/csharp";
import css from "highlight.js/lib/languages/css";
import diff from "highlight.js/lib/languages/diff";
import go from "highlight.js/lib/languages/go";
import ini from "highlight.js/lib/languages/ini";
import java from "highlight.js/lib/languages/java";
import javascript from "highlight.js/lib/languages/javascript";
import json from "highlight.js/lib/languages/json";
import kotlin from "highlight.js/lib/languages/kotlin";
import python from "highlight.js/lib/languages/python";
import rust from "highlight.js/lib/languages/rust";
import sql from "highlight.js/lib/languages/sql";
import swift from "highlight.js/lib/languages/swift";
import typescript from "highlight.js/lib/languages/typescript";
import xml from "highlight.js/lib/languages/xml";
import yaml from "highlight.js/lib/languages/yaml";
import {Marked} from "marked";
// the entry without chemistry
import temml from "temml/temml.js";
import {copy, h, iconButton} from "./dom.js";

const languages = {bash, cpp, csharp, css, diff, go, ini, java, javascript, json, kotlin, python, rust, sql, swift, typescript, xml, yaml};
for (const [name, language] of Object.entries(languages)) hljs.registerLanguage(name, language);
// grammars that are near enough
hljs.registerAliases(["c", "h", "wgsl", "glsl", "cuda"], {languageName: "cpp"});
hljs.registerAliases(["console"], {languageName: "bash"});

/** Longest code that is coloured, characters. */
const LONGEST_CODE = 100_000;

const escape = text => text.replace(/[&<>"]/g, sign => ({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"})[sign]);

const math = (display, rules) => ({
  name: display ? "mathBlock" : "math",
  level: display ? "block" : "inline",
  start: text => text.match(display ? /(?:^|\n) {0,3}(?:\$\$|\\\[)/ : /\$|\\\(|\\\[/)?.index,
  tokenizer(text) {
    for (const rule of rules) {
      const found = rule.exec(text);
      if (found) return {type: display ? "mathBlock" : "math", raw: found[0], text: found[1].trim(), display: display || found[0].startsWith("$$") || found[0].startsWith("\\[")};
    }
  },
  renderer: token => `<code class="${token.display ? "math display" : "math"}">${escape(token.text)}</code>`,
});

const marked = new Marked({gfm: true, breaks: false});
marked.use({
  extensions: [
    math(true, [/^ {0,3}\$\$\s*((?:(?!\$\$)[^])+?)\s*\$\$[ \t]*(?:\n|$)/, /^ {0,3}\\\[((?:(?!\\\])[^])+?)\\\][ \t]*(?:\n|$)/]),
    // a price is no formula: nothing blank within the signs, no digit behind them
    math(false, [/^\$\$((?:(?!\$\$)[^\n])+?)\$\$/, /^\$((?!\s)(?:\\[^\n]|[^$\\\n])+?)(?<!\s)\$(?!\d)/, /^\\\(((?:(?!\\\))[^])+?)\\\)/, /^\\\[((?:(?!\\\])[^])+?)\\\]/]),
  ],
  renderer: {
    html: ({text}) => /^<\/?(?:b|br|del|em|hr|i|kbd|mark|s|strong|sub|sup|u)\s*\/?>\s*$/i.test(text) ? text : escape(text),
    checkbox: ({checked}) => checked ? "☑ " : "☐ ",
    image({href, text}) { return `<a href="${escape(href)}">${escape(text || href)}</a>`; },
  },
});

const ALLOWED = {
  ALLOWED_TAGS: ["a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "kbd", "li", "mark",
    "ol", "p", "pre", "s", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "u", "ul"],
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  // they are no addresses
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  RETURN_DOM_FRAGMENT: true,
};

/** What DOMPurify leaves, with links that lead away, formulas, colours and buttons. */
function finished(html) {
  const fragment = DOMPurify.sanitize(html, ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const code of fragment.querySelectorAll("code.math")) {
    const place = h(code.classList.contains("display") ? "div" : "span", {class: code.className});
    try {
      temml.render(code.textContent, place, {displayMode: code.classList.contains("display"), throwOnError: true, maxSize: [50, 50], maxExpand: 500});
    } catch {
      // what is no formula, or not yet, stands as it was written
      code.className = "";
      continue;
    }
    code.replaceWith(place);
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", {class: "table", tabindex: "0", role: "region", "aria-label": "Table"});
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of fragment.querySelectorAll("pre")) {
    const code = pre.querySelector("code");
    const name = /language-(\S+)/.exec(code?.className ?? "")?.[1] ?? "";
    pre.replaceWith(codeBlock(name, code?.textContent ?? pre.textContent, true).frame);
  }
  return fragment;
}

/** Code in a frame with its language and a button; `colours` once it is whole. */
function codeBlock(name, text, colours) {
  const code = h("code");
  const frame = h("div", {class: "codeblock"},
    h("div", {class: "code-top"}, h("span", {}, name || "code"), iconButton("copy", "Copy the code", event => copy(code.textContent, event.currentTarget))),
    h("pre", {tabindex: "0"}, code));
  if (colours && name && hljs.getLanguage(name) && text.length <= LONGEST_CODE) {
    // made of escaped text and spans with a class, and through DOMPurify all the same
    code.append(DOMPurify.sanitize(hljs.highlight(text, {language: name, ignoreIllegals: true}).value, {ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true}));
  } else code.append(text);
  return {frame, code};
}

/** The language of a fence that is still open at the end of a block of code. */
function openFence(token) {
  const begun = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n]*\n/.exec(token.raw);
  if (!begun) return null;
  const last = token.raw.trimEnd().split("\n").pop().trim();
  const closed = token.raw.length > begun[0].length && last.startsWith(begun[1]) && !last.replaceAll(begun[1][0], "");
  return closed ? null : begun[2];
}

/** An answer that grows. */
export class Blocks {
  #target;
  #done = 0;
  #tail = [];
  #code = null;

  constructor(target) { this.#target = target; }

  /** Shows all of `given`, which begins with what was shown before; `whole` when no more comes. */
  show(given, whole) {
    const text = given.replace(/\r\n?/g, "\n");
    // definitions of links may stand behind what they define
    if (whole && this.#done && /^ {0,3}\[[^\]\n]+\]:\s*\S/m.test(text)) {
      this.#target.replaceChildren();
      [this.#done, this.#tail, this.#code] = [0, [], null];
    }
    const tokens = marked.lexer(text.slice(this.#done));
    let closed = 0;
    if (whole) closed = tokens.length;
    else {
      // closed is what stands before a block that has a whole line, so that it is known what that is
      const blocks = tokens.flatMap((token, index) => token.type === "space" ? [] : [index]);
      const last = blocks.length - 1;
      if (last > 0) closed = blocks[last - (tokens[blocks[last]].raw.includes("\n") ? 0 : 1)];
    }
    const [before, after] = [tokens.slice(0, closed), tokens.slice(closed)];
    before.links = after.links = tokens.links;
    if (before.length) {
      this.#clear();
      this.#target.append(finished(marked.parser(before)));
      this.#done += before.reduce((sum, token) => sum + token.raw.length, 0);
    }
    const open = after.find(token => token.type !== "space");
    const fence = open?.type === "code" && after.filter(token => token.type !== "space").length === 1 ? openFence(open) : null;
    if (fence !== null) this.#grow(fence, open.text);
    else if (open || !before.length) {
      this.#clear();
      if (!open) return;
      const made = finished(marked.parser(after));
      this.#tail = [...made.childNodes];
      this.#target.append(made);
    }
  }

  #clear() {
    this.#tail.forEach(node => node.remove());
    this.#tail = [];
    this.#code = null;
  }

  /** Code whose end has not come: only what is new is put in. */
  #grow(name, text) {
    if (this.#code && text.startsWith(this.#code.text)) {
      this.#code.node.appendData(text.slice(this.#code.text.length));
    } else {
      this.#clear();
      const {frame, code} = codeBlock(name, "", false);
      const node = document.createTextNode(text);
      code.replaceChildren(node);
      this.#target.append(frame);
      this.#tail = [frame];
      this.#code = {node};
    }
    this.#code.text = text;
  }
}
