"""For LiteLLM's proxy: which conversation a request belongs to, where no header says it.

LiteLLM keeps a session on one deployment (`session_affinity`) and takes the session from headers (x-session-id,
x-claude-code-session-id, Codex's session-id) and from Anthropic's metadata. OpenAI's own field for that,
`prompt_cache_key`, it passes on and does not look at, and so with `user`. This looks at them.
"""

from litellm.integrations.custom_logger import CustomLogger


class ByBody(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        # where LiteLLM keeps its own notes differs by protocol
        notes = data.setdefault("litellm_metadata" if "litellm_metadata" in data else "metadata", {})
        # `session_id` may be there from a header; one that LiteLLM made up is another one each time
        if notes.get("session_id") is None:
            conversation = data.get("prompt_cache_key") or data.get("user")
            if conversation:
                notes["session_id"] = str(conversation)
        return data


by_body = ByBody()
