"""The anthropic package against a server: address and key are the arguments. Ends with an exception where something is wrong."""
import json
import sys

import anthropic

address, key = sys.argv[1:]
client = anthropic.Anthropic(base_url=address, api_key=key, max_retries=0)
QUESTION = [{"role": "user", "content": "What is the capital of Peru?"}]
ALARM = [{"role": "user", "content": "Wake me at 07:30 for the kite."}]
PROPERTIES = {"time": {"type": "string"}, "label": {"type": "string"}}
TOOLS = [
    {"name": "set_alarm", "input_schema": {"type": "object", "properties": PROPERTIES, "required": ["time", "label"]}},
    {"name": "play_music", "input_schema": {"type": "object", "properties": {"song": {"type": "string"}}, "required": ["song"]}},
]
# what the package sends stands in its types; the rest goes the way of what it does not know
COLD = {"temperature": 0}


def expect(error, call, **arguments):
    try:
        call(**arguments)
    except error as found:
        return found
    raise AssertionError(f"no {error.__name__}: {arguments}")


answer = client.messages.create(model="small-moe", max_tokens=50, messages=QUESTION, system="", extra_body=COLD)
assert answer.content[0].text == "Lima" and answer.stop_reason == "end_turn", answer
count = client.messages.count_tokens(model="small-moe", messages=QUESTION)
assert count.input_tokens == answer.usage.input_tokens

with client.messages.stream(model="small-moe", max_tokens=50, messages=QUESTION, extra_body=COLD) as stream:
    assert "".join(stream.text_stream) == "Lima"
    final = stream.get_final_message()
assert final.stop_reason == "end_turn" and final.usage.output_tokens == answer.usage.output_tokens

answer = client.messages.create(model="small-moe", max_tokens=200, messages=ALARM, tools=TOOLS, extra_body=COLD)
call = answer.content[0]
assert answer.stop_reason == "tool_use" and call.name == "set_alarm" and call.input == {"time": "07:30", "label": "kite"}, answer
with client.messages.stream(model="small-moe", max_tokens=200, messages=ALARM, tools=TOOLS, extra_body=COLD) as stream:
    assert stream.get_final_message().content[0].input == call.input
result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
history = [*ALARM, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
client.messages.create(model="small-moe", max_tokens=20, messages=history, tools=TOOLS)

forced = client.messages.create(model="small-moe", max_tokens=200, messages=QUESTION, tools=TOOLS, tool_choice={"type": "tool", "name": "play_music"})
assert [block.name for block in forced.content if block.type == "tool_use"] == ["play_music"], forced

schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
answer = client.messages.create(
    model="small-moe", max_tokens=200, messages=QUESTION, extra_body={**COLD, "output_format": {"type": "json_schema", "schema": schema}})
assert answer.stop_reason == "end_turn" and list(json.loads(answer.content[0].text)) == ["n"], answer

long = [{"role": "user", "content": "word " * 100000}]
assert "32768" in str(expect(anthropic.BadRequestError, client.messages.create, model="small-moe", max_tokens=10, messages=long))
expect(anthropic.BadRequestError, client.messages.create, model="small-moe", max_tokens=10, messages=[])
wrong = anthropic.Anthropic(base_url=address, api_key="wrong", max_retries=0)
expect(anthropic.AuthenticationError, wrong.messages.create, model="x", max_tokens=10, messages=QUESTION)
print("anthropic", anthropic.__version__)
