"""The shared library from Python's ctypes: `flashflood.py LIBRARY`."""

import ctypes
import json
import sys

library = ctypes.CDLL(sys.argv[1])
Event = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)
error_type = ctypes.POINTER(ctypes.c_char_p)
for name, result, arguments in [
    ("version", ctypes.c_char_p, []),
    ("engine_open", ctypes.c_void_p, [ctypes.c_char_p, error_type]),
    ("engine_describe", ctypes.c_void_p, [ctypes.c_void_p, error_type]),
    ("engine_close", None, [ctypes.c_void_p]),
    ("session_new", ctypes.c_void_p, [ctypes.c_void_p, error_type]),
    ("session_send", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, Event, ctypes.c_void_p, error_type]),
    ("session_close", None, [ctypes.c_void_p]),
    ("string_free", None, [ctypes.c_void_p]),
]:
    function = getattr(library, "flashflood_" + name)
    function.restype, function.argtypes = result, arguments

error = ctypes.c_char_p()
engine = library.flashflood_engine_open(b'{"device": "cpu"}', ctypes.byref(error))
assert engine, error.value
string = library.flashflood_engine_describe(engine, ctypes.byref(error))
description = json.loads(ctypes.cast(string, ctypes.c_char_p).value)
library.flashflood_string_free(string)
assert description["device"].startswith("CPU"), description
session = library.flashflood_session_new(engine, ctypes.byref(error))


def ask(**request):
    events = []
    heard = Event(lambda _, event: events.append(json.loads(event)))
    status = library.flashflood_session_send(session, json.dumps(request).encode(), heard, None, ctypes.byref(error))
    return status, events


question = [{"role": "user", "content": "What is the capital of Peru?"}]
status, events = ask(messages=question, temperature=0)
assert status == 0, error.value
assert "".join(event["text"] for event in events if event["type"] == "text") == "Lima", events
assert events[0]["type"] == "prefill" and events[0]["done"] == 0, events[0]
assert events[-1]["type"] == "done" and events[-1]["finish"] == "stop", events[-1]

# the same beginning is not computed again
history = question + [{"role": "assistant", "content": "Lima"}, {"role": "user", "content": "And of France?"}]
status, events = ask(messages=history, temperature=0, max_tokens=5)
assert status == 0 and events[-1]["statistics"]["reused_tokens"] > 10, events[-1]

# a tool that must be called
city = {"type": "object", "properties": {"city": {"enum": ["Lima", "Paris"]}}, "required": ["city"]}
tool = {"type": "function", "function": {"name": "weather", "parameters": city}}
status, events = ask(messages=question, tools=[tool], tool_choice="required", parallel_tool_calls=False, temperature=0)
calls = [event for event in events if event["type"] == "tool_call"]
assert status == 0 and calls[0]["name"] == "weather" and calls[0]["arguments"]["city"] in ("Lima", "Paris"), events

status, events = ask(messages=[{"role": "user", "content": "x " * 20000}])
assert status != 0 and b"context" in error.value and not events, error.value
library.flashflood_session_close(session)
library.flashflood_engine_close(engine)
print("ctypes:", library.flashflood_version().decode())
