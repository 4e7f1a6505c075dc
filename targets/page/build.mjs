// Makes bundle/ of src: one page with everything in it, and the policy that it is sent with. `build.sh` calls this.

import {build} from "esbuild";
import {createHash} from "node:crypto";
import {mkdirSync, readFileSync, readdirSync, writeFileSync} from "node:fs";

const into = process.argv[2];
const read = path => readFileSync(new URL(path, import.meta.url), "utf8");
const sha256 = text => createHash("sha256").update(text);

const bundle = await build({
  entryPoints: ["src/main.js"], bundle: true, minify: true, format: "esm", target: ["es2022"], write: false, legalComments: "none",
  // `</script` within a string would end the element
  supported: {"inline-script": false},
});
const script = bundle.outputFiles[0].text.trim();
const sheet = await build({entryPoints: ["src/style.css"], minify: true, write: false, target: ["chrome123", "firefox128", "safari18"]});
const style = sheet.outputFiles[0].text.trim();

// the sources, so that a test can tell whether the bundle is of them: names and texts in the order of the names
const hash = createHash("sha256");
for (const name of ["build.mjs", "package-lock.json", ...readdirSync(new URL("src", import.meta.url)).sort().map(name => "src/" + name)]) hash.update(name + "\n" + read(name));

// the licence of each library that is in the bundle; DOMPurify's second one is this project's as well
const licence = name => {
  const {version, license} = JSON.parse(read(`node_modules/${name}/package.json`));
  const text = name === "dompurify" ? "Copyright Cure53 and contributors. Licensed under the Apache License, Version 2.0: http://www.apache.org/licenses/LICENSE-2.0"
    : read(`node_modules/${name}/LICENSE`).trim();
  return `${name} ${version} (${license})\n\n${text}\n`;
};
const licences = Object.keys(JSON.parse(read("package.json")).dependencies).sort().map(licence).join("\n");

const place = (page, mark, text) => page.split(mark).join(text);
let page = read("src/index.html").replace(/^\s+/gm, "");
page = place(page, "/*STYLE*/", style);
page = place(page, "<script>/*SCRIPT*/</script>", `<script type="module">${script}</script>`);
page += `<!--\nmade by targets/page/build.sh of sources ${hash.digest("hex")}\n\n${licences.replaceAll("--", "- -")}-->\n`;

const source = text => `'sha256-${sha256(text).digest("base64")}'`;
// nothing is loaded, nobody else is called, and only these two run: what a model writes cannot
const policy = [
  "default-src 'none'", `script-src ${source(script)}`, `style-src ${source(style)}`, "connect-src 'self'", "img-src data:", "base-uri 'none'",
  "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'", "trusted-types dompurify",
].join("; ");

mkdirSync(into, {recursive: true});
writeFileSync(into + "/index.html", page);
writeFileSync(into + "/policy.txt", policy);
