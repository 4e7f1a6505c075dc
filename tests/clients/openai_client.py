"""The openai package against a server: address and key are the arguments. Ends with an exception where something is wrong."""
import json
import sys

import openai

address, key = sys.argv[1:]
client = openai.OpenAI(base_url=address + "/v1", api_key=key, max_retries=0)
QUESTION = [{"role": "user", "content": "What is the capital of Peru?"}]
STRINGS = {"time": {"type": "string"}, "label": {"type": "string"}}
PARAMETERS = {"type": "object", "properties": STRINGS, "required": ["time", "label"], "additionalProperties": False}
TOOLS = [
    {"type": "function", "function": {"name": "set_alarm", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "play_music", "parameters": {"type": "object", "properties": {"song": {"type": "string"}}}}},
]
ALARM = [{"role": "user", "content": "Wake me at 07:30 for the kite."}]


def expect(error, call, **arguments):
    try:
        call(**arguments)
    except error as found:
        return found
    raise AssertionError(f"no {error.__name__}: {arguments}")


assert [model.id for model in client.models.list()] == ["small-moe"]
assert client.models.retrieve("small-moe").object == "model"

answer = client.chat.completions.create(model="small-moe", messages=QUESTION, temperature=0)
assert answer.choices[0].message.content == "Lima" and answer.choices[0].finish_reason == "stop"
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens

stream = client.chat.completions.create(
    model="small-moe", messages=QUESTION, temperature=0, stream=True, stream_options={"include_usage": True}, logprobs=True, top_logprobs=2)
chunks = list(stream)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Lima"
assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
tokens = [token for chunk in chunks if chunk.choices and chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
assert "".join(token.token for token in tokens) == "Lima" and len(tokens[0].top_logprobs) == 2

answer = client.chat.completions.create(model="small-moe", messages=ALARM, tools=TOOLS, temperature=0)
call = answer.choices[0].message.tool_calls[0]
assert call.function.name == "set_alarm" and json.loads(call.function.arguments) == {"time": "07:30", "label": "kite"}
history = [*ALARM, answer.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
client.chat.completions.create(model="small-moe", messages=history, tools=TOOLS, temperature=0, max_tokens=20)
with client.chat.completions.stream(model="small-moe", messages=ALARM, tools=TOOLS, temperature=0) as stream:
    streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
assert streamed.function.name == call.function.name and streamed.function.arguments == call.function.arguments

forced = client.chat.completions.create(
    model="small-moe", messages=QUESTION, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "play_music"}}, max_tokens=100)
assert forced.choices[0].message.tool_calls[0].function.name == "play_music"

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"], "additionalProperties": False}
answer = client.chat.completions.create(
    model="small-moe", messages=[{"role": "user", "content": "Write JSON: the name is Mia, the age is 7."}], temperature=0, max_tokens=100,
    response_format={"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": SCHEMA}})
assert json.loads(answer.choices[0].message.content) == {"name": "Mia", "age": 7}

text = client.completions.create(model="small-moe", prompt="Once upon a time", max_tokens=10, temperature=0).choices[0].text
assert text.startswith(" there was"), text
pieces = client.completions.create(model="small-moe", prompt="Once upon a time", max_tokens=10, temperature=0, stream=True)
assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == text

response = client.responses.create(model="small-moe", input="What is the capital of Peru?", temperature=0)
assert response.output_text == "Lima" and response.status == "completed"
with client.responses.stream(model="small-moe", input="What is the capital of Peru?", temperature=0) as stream:
    for _ in stream:
        pass
    assert stream.get_final_response().output_text == "Lima"
tools = [{"type": "function", "name": "set_alarm", "parameters": PARAMETERS, "strict": True}]
response = client.responses.create(model="small-moe", input=ALARM, tools=tools, temperature=0)
assert response.output[0].type == "function_call" and json.loads(response.output[0].arguments)["label"] == "kite"
with client.responses.stream(model="small-moe", input=ALARM, tools=tools, temperature=0) as stream:
    for _ in stream:
        pass
    assert stream.get_final_response().output[0].arguments == response.output[0].arguments

long = expect(openai.BadRequestError, client.chat.completions.create, model="small-moe", messages=[{"role": "user", "content": "word " * 100000}])
assert long.code == "context_length_exceeded", long
assert expect(openai.BadRequestError, client.chat.completions.create, model="small-moe", messages=QUESTION, n=9).param == "n"
expect(openai.NotFoundError, client.models.retrieve, model="none")
expect(openai.NotFoundError, client.embeddings.create, model="small-moe", input="x")
expect(openai.AuthenticationError, openai.OpenAI(base_url=address + "/v1", api_key="wrong", max_retries=0).chat.completions.create, model="x", messages=QUESTION)
print("openai", openai.__version__)
