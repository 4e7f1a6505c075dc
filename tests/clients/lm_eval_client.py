"""lm_eval_client.py ADDRESS KEY MODEL: lm-eval's own tasks of three kinds, made here, against /v1/completions.

The model's text is its own: what it knows it must find likely, and what lm-eval adds up must be what the server says.
"""
import json
import math
import os
import sys
import tempfile
import urllib.request

address, key, model = sys.argv[1:4]
os.environ.update({"OPENAI_API_KEY": key, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})

import lm_eval
from lm_eval.tasks import TaskManager

QUESTIONS = [("Peru", "Lima", "Oslo"), ("Norway", "Oslo", "Lima"), ("France", "Paris", "Rome"), ("Italy", "Rome", "Paris")]
TURN = "<|im_start|>user\nWhat is the capital of {}?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
folder = tempfile.mkdtemp()
with open(f"{folder}/data.jsonl", "w") as file:
    for country, right, wrong in QUESTIONS:
        file.write(json.dumps({"question": TURN.format(country), "right": right, "wrong": wrong}) + "\n")
COMMON = {
    "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{folder}/data.jsonl"}}, "test_split": "test",
    "doc_to_text": "{{question}}", "doc_to_target": "{{right}}", "target_delimiter": "",
}
TASKS = {
    "capitals_choice": {"output_type": "multiple_choice", "doc_to_choice": "{{[wrong, right]}}", "doc_to_target": 1,
                        "metric_list": [{"metric": "acc"}]},
    "capitals_likelihood": {"output_type": "loglikelihood", "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}]},
    "capitals_written": {"output_type": "generate_until", "generation_kwargs": {"until": ["<|im_end|>"], "max_gen_toks": 8},
                         "metric_list": [{"metric": "exact_match"}]},
}
for name, task in TASKS.items():
    with open(f"{folder}/{name}.yaml", "w") as file:
        json.dump({"task": name, **COMMON, **task}, file)

results = lm_eval.simple_evaluate(
    model="local-completions",
    model_args={"model": "small-moe", "base_url": f"{address}/v1/completions", "tokenizer_backend": "huggingface",
                "tokenizer": model, "num_concurrent": 2, "max_retries": 1, "max_length": 512},
    tasks=list(TASKS), task_manager=TaskManager(include_path=folder), log_samples=True, bootstrap_iters=0, batch_size=2)
found = results["results"]
assert found["capitals_choice"]["acc,none"] == 1.0, found
assert found["capitals_likelihood"]["acc,none"] == 1.0, found
assert found["capitals_written"]["exact_match,none"] == 1.0, found


def ask(body):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    return json.load(urllib.request.urlopen(urllib.request.Request(f"{address}/v1/completions", json.dumps(body).encode(), headers)))


logs = []
for country, right, _ in QUESTIONS:
    told = ask({"prompt": TURN.format(country) + right, "max_tokens": 0, "echo": True, "logprobs": 0})["choices"][0]["logprobs"]
    begin = len(TURN.format(country))
    logs.append(sum(log for log, at in zip(told["token_logprobs"], told["text_offset"]) if at >= begin))
perplexity = math.exp(-sum(logs) / len(logs))
assert abs(found["capitals_likelihood"]["perplexity,none"] - perplexity) < 1e-4, (found, perplexity)
