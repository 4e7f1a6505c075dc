"""A stand-in of the server for the page: it answers what a test wants to see, at the pace that the test wants.

The page itself and its headers come from the real server, so that its policy holds here as well.
"""

import json
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MARKDOWN = """# Heading

Some **bold** text, `code`, a [link](https://example.org/page), and ~~none~~.

| planet | moons |
| --- | ---: |
| Earth | 1 |
| Mars | 2 |

- [x] done
- [ ] open

```python
def add(a, b):
    return a + b  # a comment
```

The roots are $x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}$, and

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$

It costs $5 and $10. A vector<int> is not a tag.

1. one
2. two
"""

# what the pictures in the documents show
SHOWN = """A router picks **8 of 256** experts for each token, so of all the weights only a few are needed at once:

| part | weights | where they are |
| --- | ---: | --- |
| attention, norms, router | 2 GB | always in memory |
| experts in use | 6 GB | in slots, under a budget |
| all other experts | 12 GB | on the disk |

If a fraction $h$ is found in memory, reading takes

$$t = \\frac{(1 - h) \\cdot k \\cdot L \\cdot b}{\\text{bandwidth}}$$

```python
def seconds(hits, experts=8, layers=40, size=1.77e6, disk=6e9):
    return (1 - hits) * experts * layers * size / disk

print(f"{seconds(0.7) * 1000:.0f} ms")  # 28 ms
```

The rest is **computed while it is read**, so most of that time is hidden.
"""

HOSTILE = """Before <script>window.hacked = 1</script> <img src="https://example.org/x.png" onerror="window.hacked = 2">
<iframe src="https://example.org"></iframe> <svg onload="window.hacked = 3"></svg>

[a](javascript:window.hacked=4) ![picture](https://example.org/p.png) <a href="javascript:window.hacked=5">b</a>

<style>body { display: none }</style> <form action="https://example.org"><input></form> <b onclick="window.hacked=6">c</b>

$\\href{javascript:window.hacked=7}{d}$ $\\style{color:red}{e}$

```html"><script>window.hacked=8</script>
text
```

After.
"""


class StandIn(ThreadingHTTPServer):
    """Serves until `close`; `alive = False` hangs up on everybody."""

    daemon_threads = True
    # the same port may be taken again at once
    allow_reuse_address = True

    def __init__(self, real):
        super().__init__(("127.0.0.1", 0), Handler)
        self.alive, self.asked, self.machine, self.watchers = True, [], [], 0
        # without what urllib says it takes, the text comes as it is
        with urllib.request.urlopen(real + "/") as answer:
            self.page = answer.read()
            self.headers = [(name, value) for name, value in answer.headers.items() if name.lower() in ("content-type", "content-security-policy")]
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        # a browser that has left
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def give(self, status, body, kind="application/json"):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()

    def event(self, data):
        self.wfile.write(b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n")
        self.wfile.flush()

    def do_GET(self):
        if not self.server.alive:
            self.close_connection = True
            self.connection.close()
            return
        if self.path == "/":
            self.send_response(200)
            for name, value in self.server.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(self.server.page)))
            self.end_headers()
            self.wfile.write(self.server.page)
        elif self.path == "/health":
            self.give(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self.give(200, {"data": [{"id": "stand-in", "context_length": 32768}]})
        elif self.path == "/machine":
            self.stream()
            self.server.watchers += 1
            try:
                for event in self.server.machine:
                    self.event(event)
                    time.sleep(0.1 if "machine" not in event else 0)
                while self.server.alive:
                    self.wfile.write(b": quiet\n\n")
                    self.wfile.flush()
                    time.sleep(0.2)
            finally:
                self.server.watchers -= 1
            self.close_connection = True
        else:
            self.give(404, {"error": {"message": "nothing here"}})

    def delta(self, **delta):
        self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def end(self, reason="stop", tokens=10):
        timings = {"prompt_n": 12, "prompt_per_second": 80.0, "predicted_per_second": 42.0}
        self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}], "timings": timings})
        usage = {"prompt_tokens": 30, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 18}}
        self.event({"choices": [], "usage": usage, "timings": timings})
        self.event(b"[DONE]")

    def say(self, text, pause=0.0, size=7):
        for at in range(0, len(text), size):
            self.delta(content=text[at:at + size])
            time.sleep(pause)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.server.alive:
            self.close_connection = True
            self.connection.close()
            return
        asked = json.loads(body)
        self.server.asked.append(asked)
        self.close_connection = True
        last = asked["messages"][-1]
        question = [message["content"] for message in asked["messages"] if message["role"] == "user"][-1]
        if question == "refuse":
            return self.give(400, {"error": {"message": "the prompt has 40,000 tokens, the context 32,768"}})
        if question == "busy":
            return self.give(429, {"error": {"message": "the queue is full"}})
        self.stream()
        self.delta(role="assistant", content="")
        if last["role"] == "assistant":
            self.say(" and on.")
            return self.end()
        if last["role"] == "tool":
            self.say("The tool said " + last["content"] + ".")
            return self.end()
        word, *rest = question.split()
        if word == "markdown":
            self.say(MARKDOWN, 0.004)
        elif word == "How":
            for _ in range(10):
                self.delta(reasoning_content="They want the idea and a formula. ")
                time.sleep(0.1)
            self.say(SHOWN, 0.004)
        elif word == "hostile":
            self.say(HOSTILE, 0.002)
        elif word == "think":
            for _ in range(12):
                self.delta(reasoning_content="First this, then that. ")
                time.sleep(0.05)
            self.say("Forty-two.", 0.02)
        elif word == "tool":
            self.event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}]}, "finish_reason": None}]})
            for piece in ['{"city": ', '"Lima"}']:
                self.event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}, "finish_reason": None}]})
            return self.end("tool_calls")
        elif word == "cut":
            self.say("This is the begin")
            return
        elif word == "limit":
            self.say("This goes on")
            return self.end("length")
        elif word == "prompt":
            for done in range(2000, 10001, 1000):
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": None}], "prompt_progress": {"total": 10000, "cache": 2000, "processed": done, "time_ms": done - 2000}})
                time.sleep(0.2)
            self.say("Read.")
        elif word == "endless":
            while True:
                self.say("more and more ", 0.01)
        elif word == "long":
            tokens, rate = int(rest[0]), float(rest[1])
            begun = time.monotonic()
            for at, token in enumerate(tokens_of_prose(tokens)):
                self.delta(content=token)
                time.sleep(max(0.0, begun + (at + 1) / rate - time.monotonic()))
            return self.end(tokens=tokens)
        else:
            self.say("You said: " + question)
        self.end()


def tokens_of_prose(count):
    """Tokens of an answer as people get them: paragraphs, lists, tables, code."""
    section = """## Part {n}

A paragraph of *some* length, which says **something** about the `value` of part {n}, in a few sentences. The next sentence
follows the one before it. So does this one, and it has a [link](https://example.org/{n}) in it.

- one thing of part {n}
- another thing, with $x_{n}$ in it
- and a last one

| name | value |
| --- | ---: |
| first | {n} |
| second | 2 |

```python
def part_{n}(x):
    # what the part does
    return [x * {n} for _ in range(10)]
```

"""
    made, n = 0, 0
    while made < count:
        n += 1
        text = section.replace("{n}", str(n))
        # four letters or so a token
        for at in range(0, len(text), 4):
            yield text[at:at + 4]
            made += 1
            if made == count:
                return
