"""Any OpenAI-compatible server, by its completions API with token ids. settings: "url", and "model" if it has several.

The time includes HTTP. ignore_eos is an extension of vLLM, llama.cpp and Octavo. A server that stops early is an error,
as its speed would be wrong.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Generate = Callable[[list[list[int]], int], None]


def load(settings: dict[str, Any]) -> tuple[str, Generate, int | None]:
    base = settings["url"].rstrip("/").removesuffix("/v1") + "/v1"
    model = settings.get("served_model") or ask(base + "/models")["data"][0]["id"]
    pool = ThreadPoolExecutor(settings["max_seqs"])

    def one(ids: list[int], tokens: int) -> None:
        body = {"model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        made = ask(base + "/completions", body)["usage"]["completion_tokens"]
        if made != tokens:
            raise RuntimeError(f"the server wrote {made} tokens instead of {tokens}: it does not know ignore_eos")

    def generate(prompts: list[list[int]], tokens: int) -> None:
        list(pool.map(one, prompts, [tokens] * len(prompts)))

    return model, generate, None


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=3600) as reply:
        return json.load(reply)
