"""The page in a browser, with the real server: `page.py URL KEY CHROMIUM`. What it does with answers of every kind is in
`page_scripted.py`."""

import re
import sys

from playwright.sync_api import expect, sync_playwright

url, key, chromium = sys.argv[1:]
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1000, "height": 700})
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.goto(url)

    def settings(**values):
        page.click("#settings")
        for field, value in values.items():
            page.fill("#" + field, value)
        page.keyboard.press("Escape")
        expect(page.locator("#dialog")).to_be_hidden()

    # without the key it says what is missing, in the machine room as well
    expect(page.locator("#model")).to_contain_text("needs an API key")
    page.click("#tab-machine")
    expect(page.locator("#machine")).to_contain_text("needs the API key")
    page.click("#tab-chat")
    wrong.clear()
    page.click("#settings")
    page.fill("#key", key)
    page.fill("#temperature", "0")
    page.keyboard.press("Escape")
    expect(page.locator("#model")).to_contain_text("small-moe")

    # types, and reads the answer and its speed
    page.fill("#prompt", "What is the capital of Peru?")
    page.press("#prompt", "Enter")
    expect(page.locator(".turn .text").last).to_have_text("Lima")
    expect(page.locator(".speed").last).to_contain_text("tokens read")
    page.fill("#prompt", "What is the capital of France?")
    page.click("#send")
    expect(page.locator(".turn .text").last).to_have_text("Paris")
    # the conversation went on from its state
    expect(page.locator(".speed").last).to_contain_text("reused")

    # an answer that follows a schema
    settings(schema='{"type": "string", "pattern": "^[ab]{3}$"}')
    page.fill("#prompt", "Say something.")
    page.press("#prompt", "Enter")
    expect(page.locator(".turn .text").last).to_have_text(re.compile(r'^"[ab]{3}"\s*$'))

    # one that comes in pieces, and is stopped: without rules against it the small model tells a long story
    settings(temperature="2", schema='{"type": "string", "pattern": "^[a-z ]{9000}$"}')
    page.click("#fresh")
    expect(page.locator(".turn")).to_have_count(0)
    page.fill("#prompt", "Tell me a long story.")
    page.press("#prompt", "Enter")
    answer = page.locator(".turn .text").last
    expect(answer).to_have_text(re.compile("[a-z ]{20}"))
    before = len(answer.inner_text())
    expect(answer).to_have_text(re.compile("[a-z ]{%d}" % (before + 20)))
    expect(page.locator("#send")).to_be_hidden()

    # the machine room meanwhile: experts that are used and read, tokens a second, where the time goes
    page.click("#tab-machine")
    expect(page.locator("#machine")).to_contain_text(re.compile(r"\d+ of 256 experts are in memory"))
    expect(page.locator("#machine")).to_contain_text(re.compile(r"[\d,]+ hits, [\d,]+ misses"))
    expect(page.locator("#machine")).to_contain_text(re.compile(r"ms a token written"))
    expect(page.locator("#machine")).to_contain_text(re.compile(r"\d tokens/s"))
    page.click("#tab-chat")
    page.keyboard.press("Escape")
    expect(page.locator(".turn .end").last).to_contain_text("Stopped.")
    expect(page.locator("#send")).to_be_visible()

    # a reload loses nothing; the key is the tab's
    page.reload()
    expect(page.locator("#model")).to_contain_text("small-moe")
    expect(page.locator(".turn .end").last).to_contain_text("Stopped.")
    assert not wrong, wrong
    browser.close()
print("page: all as it should be")
