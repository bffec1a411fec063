"""A model of the server: its engine, names, queue and chat template."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from octavo.errors import OctavoError, TokenizerError
from octavo.processing.inputs import Tokens
from octavo.server.admission import Admission
from octavo.server.engine.async_llm import AsyncLLM
from octavo.server.engine.protocol import Inspect, Ready
from octavo.server.http import errors
from octavo.server.http.errors import ApiError
from octavo.server.settings import ModelSource, ServerSettings


class Runtime(AsyncLLM):
    """`AsyncLLM` for the server: a model with names, a queue and a chat template, which requests keep loaded."""

    def __init__(self, model: ModelSource, settings: ServerSettings):
        logs = (settings.log_format, settings.log_level)
        timeout = settings.engine_timeout
        super().__init__(
            model.source, model.tokenizer, name=model.aliases[0], engine_timeout=timeout, logs=logs, **model.settings
        )
        self.model = model
        self.created = int(time.time())
        self.last_used = time.monotonic()
        self.users = 0  # HTTP requests that use the model now
        limits = settings.limits
        self.admission = Admission(1, limits.queued_requests, limits.queued_tokens, self.metrics.tokens_per_second)

    def on_ready(self, info: Ready) -> None:
        self.admission.slots = info.max_num_seqs + max(4, info.max_num_seqs // 4)

    def on_down(self, error: ApiError) -> None:
        self.admission.fail_waiting(error)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the model loaded within the block."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.last_used = time.monotonic()

    def inspect(self) -> Mapping[str, Any] | None:
        """Requests a new snapshot and returns the previous one; None while no engine is ready."""
        self.supervisor.send(Inspect())
        return self.client.snapshot if self.client is not None and self.ready else None

    @property
    def has_template(self) -> bool | None:
        """Whether the model has a chat template; a base model has none. None until the model is first loaded."""
        if self.model.chat_template:
            return True
        return None if self.tokenizer is None else bool(self.tokenizer.chat_template)

    @property
    def template(self) -> str:
        """The chat template's source. Raises ApiError if the model has none."""
        assert self.tokenizer is not None
        template = self.model.chat_template or self.tokenizer.chat_template
        if template is None:
            raise errors.bad_request(f"the model {self.name} has no chat template: use /v1/completions", "messages")
        return template

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, /, **variables: Any) -> Tokens:
        """Renders messages with the model's chat template and tokenises them: up to 250 ms. Raises ApiError."""
        from octavo import chat

        assert self.tokenizer is not None
        try:
            text, ids = chat.prompt(self.tokenizer, messages, self.template, tools=tools, **variables)
        except TokenizerError as error:
            raise errors.bad_request(str(error), "messages") from error
        except OctavoError as error:
            raise errors.from_octavo(error) from error
        return Tokens(ids, text)
