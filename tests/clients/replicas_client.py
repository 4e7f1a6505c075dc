"""Conversations behind a gateway with two replicas, one of which is killed in the middle: every turn is answered, and each
reads only what is new, except for the one with which a conversation of the dead replica comes to the other.

Arguments: the gateway's address, a key, where an answer's headers say who answered, how a conversation is named (header or
field of the body, several with commas), whether one that moves is read `anew` or goes on from a `shared` folder, and for each
replica what that header calls it, `=`, and its process."""

import http.client
import json
import os
import signal
import statistics
import sys
import threading
import time

gateway, key, who, names, moved, *replicas = sys.argv[1:]
names = names.split(",")
processes = {name: int(process) for name, process in (replica.rsplit("=", 1) for replica in replicas)}

CONVERSATIONS, TURNS, KILL = 16, 20, 11
PATIENCE = 100


def named(by, name):
    """The headers and the fields that name a conversation."""
    return ({by: name}, {}) if by[0].isupper() else ({}, {by: name})


def replica_of(answer):
    """Who answered: it stands behind those that were tried in vain."""
    return (answer.getheader(who) or "nobody").split(", ")[-1]


class Broken(Exception):
    """A stream that had begun and did not end."""


def ask(path, headers={}, body=None):
    connection = http.client.HTTPConnection(gateway, timeout=PATIENCE)
    body = body and json.dumps(body)
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    connection.request("POST" if body else "GET", path, body, headers)
    return connection.getresponse()


class Conversation:
    def __init__(self, number):
        self.number, self.name = number, f"conversation-{number}"
        self.streams, self.by = bool(number % 2), names[number // 2 % len(names)]
        # each is of its own from the first word on, so that no replica takes the state of one for another
        self.messages = [{"role": "system", "content": f"You are clerk {number} of office {number}."}]
        self.turns, self.broken, self.error = [], [], None

    def ask(self):
        """What was answered, by whom, and usage."""
        body = {"model": "flashflood", "messages": self.messages, "temperature": 0, "max_tokens": 8}
        headers, fields = named(self.by, self.name)
        body |= fields
        if self.streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        answer = ask("/v1/chat/completions", headers, body)
        replica = replica_of(answer)
        if answer.status != 200:
            raise AssertionError(f"{answer.status}: {answer.read()}")
        if not self.streams:
            whole = json.load(answer)
            return whole["choices"][0]["message"]["content"], replica, whole["usage"]
        text, usage, has_ended = "", None, False
        try:
            for line in answer:
                if line.startswith(b"data: [DONE]"):
                    has_ended = True
                elif line.startswith(b"data: "):
                    event = json.loads(line[len("data: "):])
                    if "error" in event:
                        break
                    text += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
                    usage = event.get("usage") or usage
        except (OSError, http.client.HTTPException):
            pass
        if not has_ended or not usage:
            raise Broken
        return text, replica, usage

    def turn(self, n):
        self.messages.append({"role": "user", "content": f"Question {n}: what is the capital of Peru?"})
        begun = time.monotonic()
        try:
            text, replica, usage = self.ask()
        except Broken:
            # what a client has to do by itself, once
            self.broken.append((begun, time.monotonic()))
            text, replica, usage = self.ask()
        self.messages.append({"role": "assistant", "content": text})
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        self.turns.append((replica, usage["prompt_tokens"], cached, usage["completion_tokens"], time.monotonic() - begun))
        return replica

    def talk(self):
        try:
            for n in range(1, TURNS + 1):
                if n == KILL:
                    half.wait()
                replica = self.turn(n)
                if n == KILL and replica == victim:
                    kill()
        except Exception as error:
            self.error = f"{self.name}, by {self.by}, turn {len(self.turns) + 1}: {error!r}"
            half.abort()


victim, killed = None, []
killing = threading.Lock()


def choose():
    """All conversations are half through: the replica that has most of them is to die."""
    global victim
    homes = [conversation.turns[-1][0] for conversation in conversations]
    victim = max(processes, key=homes.count)


def kill():
    """With the first answer of a round: the other conversations of this replica wait for theirs."""
    with killing:
        if not killed:
            os.kill(processes[victim], signal.SIGKILL)
            killed.append(time.monotonic())


def health():
    return ask("/health" if who == "X-Replica" else "/health/readiness").status


def other_protocols():
    """They are kept together as well: `prompt_cache_key` is a field of `/v1/responses` before all."""
    for by in names:
        headers, fields = named(by, "another-conversation")
        asked = [("/v1/responses", {"input": "Hello", "max_output_tokens": 4} | fields)]
        if by != "prompt_cache_key":  # which this older protocol does not have
            asked.append(("/v1/completions", {"prompt": "Once", "max_tokens": 4} | fields))
        if not fields:
            asked.append(("/v1/messages", {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}))
        for path, body in asked:
            answers = [ask(path, headers, {"model": "flashflood"} | body) for _ in range(6)]
            assert [answer.status for answer in answers] == [200] * 6, f"{path}: {answers[0].read()}"
            assert len(set(map(replica_of, answers))) == 1, f"{path} by {by}: {list(map(replica_of, answers))}"


half = threading.Barrier(CONVERSATIONS, action=choose, timeout=PATIENCE)
conversations = [Conversation(number) for number in range(CONVERSATIONS)]
assert health() == 200
other_protocols()
begun = time.monotonic()
threads = [threading.Thread(target=conversation.talk) for conversation in conversations]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
wall = time.monotonic() - begun
assert health() == 200

errors = [conversation.error for conversation in conversations if conversation.error]
assert not errors, "\n".join(errors)
assert len(killed) == 1
homes = [conversation.turns[KILL - 2][0] for conversation in conversations]
assert set(homes) <= set(processes) and min(map(homes.count, processes)) > 0, f"not spread: {homes}"

moved_at_all, unsaved, reused, prompts = 0, 0, 0, 0
for conversation, home in zip(conversations, homes):
    moves = 0
    for n, (before, turn) in enumerate(zip(conversation.turns, conversation.turns[1:]), 2):
        what = f"{conversation.name}, by {conversation.by}, turn {n}: {turn} after {before}"
        reused, prompts = reused + turn[2], prompts + turn[1]
        if turn[0] == before[0]:
            # all of the prompt before; an answer of a few tokens is read again with the marks around it
            assert turn[2] >= before[1], what
        else:
            assert n >= KILL and before[0] == victim and turn[0] != victim, what
            if moved == "anew":
                # beside what all conversations begin with
                assert turn[2] <= conversation.turns[0][1] / 2, what
            else:
                assert turn[2] > conversation.turns[0][1], what
                unsaved += turn[2] < before[1]
            moves += 1
    assert moves == (home == victim), f"{conversation.name} moved {moves} times"
    moved_at_all += moves
    # only streams break, only once, and only while their replica dies
    for since, until in conversation.broken:
        assert conversation.streams and home == victim and since <= killed[0] <= until, f"{conversation.name} broke"
    assert len(conversation.broken) <= 1, conversation.broken

# the one that was answered last: no other one had taken its place since
assert unsaved <= 1, f"{unsaved} conversations were not on the disk"

times = sorted(turn[4] for conversation in conversations for turn in conversation.turns)
print(f"{len(times)} turns answered in {wall:.1f} s, conversations {' and '.join(str(homes.count(name)) for name in processes)}, "
      f"{100 * reused / prompts:.1f}% of later prompts reused, {moved_at_all} moved ({moved}), "
      f"{sum(len(conversation.broken) for conversation in conversations)} streams repeated, "
      f"median {1000 * statistics.median(times):.0f} ms, 95th percentile {1000 * times[len(times) * 95 // 100]:.0f} ms")
