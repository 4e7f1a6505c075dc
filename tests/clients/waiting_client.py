"""Clients that wait: while another request is computed, each protocol says that it goes on, by events that its client
reads and passes over. Arguments: address, key."""

import json
import sys
import threading
import urllib.request

import anthropic
import openai

address, key = sys.argv[1:]
QUESTION = [{"role": "user", "content": "What is the capital of Peru?"}]
# longer than the ten seconds after which an event comes
PATIENCE = 60

heard = {name: threading.Event() for name in ["messages", "responses", "chat"]}
answers = {}
has_begun, may_end = threading.Event(), threading.Event()


def ask(path, body):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    return urllib.request.urlopen(urllib.request.Request(address + path, json.dumps(body).encode(), headers))


def occupy():
    """An answer that does not end by itself."""
    ends = [json.load(ask("/tokenize", {"content": end, "parse_special": True}))["tokens"][0]
            for end in ["<|im_end|>", "<|endoftext|>"]]
    body = {"prompt": "Once upon a time", "max_tokens": -1, "temperature": 1, "stream": True,
            "logit_bias": {str(end): -100 for end in ends}}
    with ask("/v1/completions", body) as answer:
        for line in answer:
            assert b"[DONE]" not in line, "it ended"
            if line.startswith(b"data:"):
                has_begun.set()
            if may_end.is_set():
                return


def messages():
    client = anthropic.Anthropic(base_url=address, api_key=key, max_retries=0)
    with client.messages.stream(model="m", max_tokens=20, temperature=0, messages=QUESTION) as stream:
        for event in stream:
            if event.type == "message_delta" and event.delta.stop_reason is None:
                heard["messages"].set()
        message = stream.get_final_message()
    assert message.stop_reason == "end_turn" and message.usage.output_tokens > 0, message
    return message.content[0].text


def responses():
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
    begun, numbers = 0, []
    with client.responses.stream(model="m", max_output_tokens=20, temperature=0, input=QUESTION) as stream:
        for event in stream:
            numbers.append(event.sequence_number)
            begun += event.type == "response.in_progress"
            # the first comes at once
            if begun > 1:
                heard["responses"].set()
        response = stream.get_final_response()
    assert numbers == list(range(len(numbers))), numbers
    assert response.status == "completed", response
    return response.output_text


def chat():
    client = openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0)
    text, chunks = "", 0
    for chunk in client.chat.completions.create(model="m", temperature=0, messages=QUESTION, stream=True):
        chunks += 1
        text += chunk.choices[0].delta.content or ""
        # the first has the role
        if chunks > 1 and not text:
            heard["chat"].set()
    return text


def run(name, ask):
    answers[name] = ask()


occupier = threading.Thread(target=occupy, daemon=True)
occupier.start()
assert has_begun.wait(PATIENCE), "the other request does not begin"
clients = [threading.Thread(target=run, args=(ask.__name__, ask), daemon=True) for ask in [messages, responses, chat]]
for client in clients:
    client.start()
for name, event in heard.items():
    assert event.wait(PATIENCE), f"{name}: nothing was said while it waited"
assert not answers, answers
may_end.set()
for client in clients:
    client.join(PATIENCE)
assert answers == dict.fromkeys(heard, "Lima"), answers
