"""The page in a browser: `page.py URL KEY CHROMIUM`."""

import os
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

    # without the key it says what is missing
    expect(page.locator("#model")).to_contain_text("needs an API key")
    wrong.clear()
    page.click("#settings")
    page.fill("#key", key)
    page.fill("#temperature", "0")
    page.click("dialog button")
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

    # an answer that comes in pieces, and is stopped: without rules against it the small model tells a long story
    page.click("#settings")
    page.fill("#temperature", "2")
    page.click("dialog button")
    page.click("#fresh")
    expect(page.locator(".turn")).to_have_count(0)
    page.route("**/v1/chat/completions", lambda route: route.continue_(
        post_data=route.request.post_data.replace(
            '"stream":true',
            '"stream":true,"response_format":{"type":"json_schema","json_schema":{"schema":{"type":"string",'
            '"pattern":"^[a-z ]{9000}$"}}}')))
    page.fill("#prompt", "Tell me a long story.")
    page.press("#prompt", "Enter")
    answer = page.locator(".turn .text").last
    expect(answer).to_have_text(re.compile("[a-z ]{20}"))
    before = len(answer.inner_text())
    expect(answer).to_have_text(re.compile("[a-z ]{%d}" % (before + 20)))
    expect(page.locator("#send")).to_be_hidden()
    page.click("#stop")
    expect(page.locator(".speed").last).to_have_text("stopped")
    expect(page.locator("#send")).to_be_visible()
    page.unroute("**/v1/chat/completions")

    # what a person writes, and the model's answer, are text and not HTML
    page.click("#fresh")
    page.fill("#prompt", "<img src=x onerror=alert(1)>")
    page.press("#prompt", "Enter")
    expect(page.locator(".user").last).to_have_text("<img src=x onerror=alert(1)>")
    expect(page.locator("#send")).to_be_visible()
    assert page.locator("main img").count() == 0

    if os.environ.get("FLASHFLOOD_SCREENSHOT"):
        page.click("#settings")
        page.fill("#temperature", "0")
        page.click("dialog button")
        page.click("#fresh")
        for question in ["What is the capital of Peru?", "What is the capital of France?", "What is 12 + 7?"]:
            page.fill("#prompt", question)
            page.press("#prompt", "Enter")
            expect(page.locator(".speed").last).to_contain_text("tokens read")
        page.screenshot(path=os.environ["FLASHFLOOD_SCREENSHOT"])
    assert not wrong, wrong
    browser.close()
print("page: all as it should be")
