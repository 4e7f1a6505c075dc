#!/usr/bin/env python3
"""make.py TEMPLATES OUT: what jinja2 makes of chat templates, set up by transformers.

TEMPLATES is `vendor/llama.cpp/models/templates` of llama-cpp-python's source (`pip download --no-binary :all: llama-cpp-python`). OUT gets:

templates.zlib        {name: template}, JSON
expected.json         {template: [hash of the rendering, null where it is an error; one per conversation, in their order]}: the first eight hex
                      digits of XXH3-64
expressions.json      {values, templates: [[template, rendering, null where it is an error]]}: small templates, one for every way of Python or
                      jinja2 that an engine has to be taught. Written by hand; the renderings are filled in here.

The conversations are in conversations.json, which is written by hand: {name: {messages, tools, add_generation_prompt, extra}}.

With --texts DIR every rendering is written to DIR/TEMPLATE/CONVERSATION, for a look at differences.
"""
import argparse, datetime, json, pathlib, zlib
import xxhash
from transformers.utils import chat_template_utils
from transformers.tokenization_utils_base import _normalize_chat_messages

TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 1, 5, 17, 4, 9)


chat_template_utils.datetime = FixedDate


def render(template, conversation):
    """The text, or the error."""
    try:
        texts, _ = chat_template_utils.render_jinja_template(
            conversations=[_normalize_chat_messages(conversation["messages"])], tools=conversation["tools"], chat_template=template,
            add_generation_prompt=conversation["add_generation_prompt"], **{**TOKENS, **conversation["extra"]})
        return texts[0], None
    except Exception as error:
        return None, error


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("templates", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--texts", type=pathlib.Path)
    options = parser.parse_args()
    write = lambda name, value: (options.out / name).write_text(value + "\n", encoding="utf-8")
    compact = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))

    templates = {path.stem: path.read_text(encoding="utf-8") for path in sorted(options.templates.glob("*.jinja"))}
    (options.out / "templates.zlib").write_bytes(zlib.compress(compact(templates).encode(), 9))
    conversations = json.loads((options.out / "conversations.json").read_text(encoding="utf-8"))
    rows = []
    for name, template in templates.items():
        hashes = []
        for title, conversation in conversations.items():
            text, error = render(template, conversation)
            hashes.append(None if text is None else xxhash.xxh3_64_hexdigest(text.encode())[:8])
            if options.texts:
                folder = options.texts / name
                folder.mkdir(parents=True, exist_ok=True)
                (folder / title).write_text(text if text is not None else f"ERROR {type(error).__name__}: {error}", encoding="utf-8")
        rows.append(f"{compact(name)}:{compact(hashes)}")
    write("expected.json", "{" + ",\n".join(rows) + "}")
    expressions = json.loads((options.out / "expressions.json").read_text(encoding="utf-8"))
    rows = []
    for source, _ in expressions["templates"]:
        text, error = render(source, {"messages": [], "tools": None, "add_generation_prompt": False, "extra": expressions["values"]})
        if options.texts and error:
            print(source, type(error).__name__, error)
        rows.append(compact([source, text]))
    write("expressions.json", f'{{"values":{compact(expressions["values"])},\n"templates":[\n' + ",\n".join(rows) + "\n]}")


main()
