"""For LiteLLM's proxy: which conversation a request belongs to where no header says it, and how long to wait for what.

LiteLLM keeps a session on one deployment (`session_affinity`) and takes the session from headers (x-session-id,
x-claude-code-session-id, Codex's session-id) and from Anthropic's metadata. OpenAI's own field for that,
`prompt_cache_key`, it passes on and does not look at, and `user` neither.
"""

import httpx
from litellm.integrations.custom_logger import CustomLogger

# An answer that is no stream says nothing while it waits, is read and is written. A replica that is there is connected to
# at once; a machine that is gone says nothing, and LiteLLM's own `timeout` would wait for it as long as for an answer.
TIMES = httpx.Timeout(3600, connect=2)


class Hook(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        # where LiteLLM keeps its own notes differs by protocol
        notes = data.setdefault("litellm_metadata" if "litellm_metadata" in data else "metadata", {})
        conversation = data.get("prompt_cache_key") or data.get("user")
        if conversation and notes.get("session_id") is None:
            notes["session_id"] = str(conversation)
        # the other protocols take numbers only
        if call_type in ("acompletion", "atext_completion"):
            data.setdefault("timeout", TIMES)
        return data


hook = Hook()
