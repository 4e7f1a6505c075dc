#!/usr/bin/env python3
"""libraries_client.py ADDRESS KEY: the libraries that programs are made of, with their default settings, against the small model."""
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["NO_PROXY"] = "*"

import instructor
import litellm
import ollama
import openai
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

address, key = sys.argv[1:3]
v1 = address + "/v1"
asked = "What is the capital of Peru?"
question = [{"role": "user", "content": asked}]
wake = "Wake me at 07:30 for the kite."


def tool(name, *keys):
    schema = {"type": "object", "properties": {key: {"type": "string"} for key in keys}, "required": list(keys)}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


tools = [tool("get_weather", "city", "day"), tool("set_alarm", "time", "label")]


class Person(BaseModel):
    # a small model would write on for ever
    name: str = Field(max_length=20)
    age: int


# ollama
client = ollama.Client(host=address, headers={"Authorization": f"Bearer {key}"})
cold = {"temperature": 0}
assert client.list().models[0].model == client.ps().models[0].name == "small-moe"
assert "tools" in client.show("small-moe").capabilities
assert client.chat(model="small-moe", messages=question, options=cold).message.content == "Lima"
pieces = [part.message.content for part in client.chat(model="small-moe", messages=question, options=cold, stream=True)]
assert "".join(pieces) == "Lima", pieces
call = client.chat(model="small-moe", messages=[{"role": "user", "content": wake}], tools=tools, options=cold).message.tool_calls[0]
assert (call.function.name, call.function.arguments["time"]) == ("set_alarm", "07:30"), call
text = client.generate(model="small-moe", prompt="Once upon a time", raw=True, options={**cold, "num_predict": 4}).response
assert text.startswith(" there"), text

# litellm, over all three protocols
for model, base in [("openai/small-moe", v1), ("anthropic/small-moe", address)]:
    answer = litellm.completion(model, api_base=base, api_key=key, messages=question, temperature=0, max_tokens=9)
    assert answer.choices[0].message.content == "Lima", answer
parts = litellm.completion("openai/small-moe", api_base=v1, api_key=key, messages=question, temperature=0, stream=True)
assert "".join(part.choices[0].delta.content or "" for part in parts) == "Lima"
try:
    litellm.completion("openai/small-moe", api_base=v1, api_key=key, messages=[{"role": "user", "content": "word " * 100000}])
    raise SystemExit("a prompt that is too long was answered")
except litellm.ContextWindowExceededError:
    pass

# langchain
model = ChatOpenAI(base_url=v1, api_key=key, model="small-moe", temperature=0, max_tokens=300)
assert model.invoke(asked).content == "Lima"
assert "".join(part.content for part in model.stream(asked)) == "Lima"
assert model.bind_tools(tools).invoke(wake).tool_calls[0]["name"] == "set_alarm"

# instructor: by a call of a tool, and by a schema of the answer
made = openai.OpenAI(base_url=v1, api_key=key)
for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
    of = instructor.from_openai(made, mode=mode).chat.completions
    found = of.create(model="small-moe", response_model=Person, messages=[{"role": "user", "content": "Otis is 70."}], max_retries=1,
                      temperature=0, seed=1)
    assert isinstance(found, Person), found

# pydantic-ai
model = OpenAIChatModel("small-moe", provider=OpenAIProvider(base_url=v1, api_key=key))
assert Agent(model, model_settings={"temperature": 0}).run_sync(asked).output == "Lima"
found = Agent(model, output_type=Person, model_settings={"temperature": 0}).run_sync("Otis is 70.").output
assert isinstance(found, Person), found
