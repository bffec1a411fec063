"""One model of the server: its engine process, tokenizer, queue and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from octavo.assembly.engine import load_tokenizer
from octavo.errors import CapacityError, OctavoError, TokenizerError
from octavo.models.registry import open_checkpoint
from octavo.processing.inputs import RequestMaker, Tokens
from octavo.scheduler import admission as capacity
from octavo.server.admission import Admission
from octavo.server.engine.client import EngineClient
from octavo.server.engine.metrics import EngineMetrics
from octavo.server.engine.protocol import Event, Inspect, Ready, Start
from octavo.server.engine.supervisor import State, Supervisor
from octavo.server.http import errors
from octavo.server.http.errors import unavailable
from octavo.server.settings import ModelSource, ServerSettings
from octavo.tokenizer import Tokenizer
from octavo.types import Request
from octavo.weights.sources import resolve

LOAD_SECONDS = 300.0  # longest wait of a request for its model to load
MOST_RESTARTS = 3  # consecutive restarts after which requests fail at once


class Runtime:
    """The attributes are None or idle until `start`."""

    def __init__(self, model: ModelSource, settings: ServerSettings):
        self.model = model
        self.name = model.aliases[0]
        self.metrics = EngineMetrics()
        self.created = int(time.time())
        self.last_used = time.monotonic()
        self.users = 0  # HTTP requests that use the model now
        self.tokenizer: Tokenizer | None = None
        self.maker: RequestMaker | None = None
        self.client: EngineClient | None = None
        limits = settings.limits
        self.admission = Admission(1, limits.queued_requests, limits.queued_tokens, self.metrics.tokens_per_second)
        start = Start(model.source, model.settings, model.tokenizer, (settings.log_format, settings.log_level))
        self.supervisor = Supervisor(start, self._handle_event, self._gone, settings.engine_timeout)
        self._reading: asyncio.Task[None] | None = None

    @property
    def loaded(self) -> bool:
        return self.supervisor.running

    @property
    def ready(self) -> bool:
        return self.supervisor.state is State.READY and self.client is not None

    @property
    def info(self) -> Ready:
        assert self.supervisor.info is not None
        return self.supervisor.info

    def start(self) -> None:
        self.supervisor.start()
        if self._reading is None or (self._reading.done() and self.tokenizer is None):
            self._reading = asyncio.get_running_loop().create_task(self._read_tokenizer())

    async def _read_tokenizer(self) -> None:
        self.tokenizer = await asyncio.get_running_loop().run_in_executor(None, self._tokenizer)
        self.client = EngineClient(self.tokenizer, self.supervisor.send, self.metrics)

    def _tokenizer(self) -> Tokenizer:
        checkpoint = open_checkpoint(resolve(self.model.source))
        return load_tokenizer(checkpoint, self.model.tokenizer, self.model.settings.get("tokenizer_pre"))

    async def stop(self) -> None:
        await self.supervisor.stop()

    async def wait_ready(self, timeout: float | None = None) -> None:
        """Starts the engine if needed, and waits for it. Raises ApiError (503) if it is not ready in time."""
        if self.ready and self.maker is not None:
            return
        self.start()
        assert self._reading is not None
        try:
            await asyncio.wait_for(self._wait(self._reading), min(timeout or LOAD_SECONDS, LOAD_SECONDS))
        except asyncio.TimeoutError:
            raise unavailable(f"the model {self.name} is still being loaded", 5) from None
        except OctavoError as error:
            raise unavailable(f"the model {self.name} cannot be loaded: {error}", None) from error
        if not self.ready:
            raise unavailable(f"the model {self.name} cannot be loaded: {self.supervisor.problem}", None)

    async def _wait(self, reading: asyncio.Task[None]) -> None:
        if self.supervisor.failures >= MOST_RESTARTS:
            raise unavailable(f"the engine of {self.name} keeps failing: {self.supervisor.problem}", 10)
        await self.supervisor.wait()
        await asyncio.shield(reading)
        if self.ready and self.maker is None:
            self._make_maker()

    def _make_maker(self) -> None:
        assert self.tokenizer is not None
        seed = self.model.settings.get("seed")
        self.maker = RequestMaker(self.tokenizer, self.info.vocab_size, seed, compile_grammars=False)

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.admission.slots = event.max_num_seqs + max(4, event.max_num_seqs // 4)
        elif self.client is not None:
            self.client.handle(event)

    def _gone(self, reason: str) -> None:
        error = unavailable(f"the engine process failed ({reason}); it is started again")
        if self.client is not None:
            self.client.fail_all(error)
        self.admission.fail_waiting(error)
        self.metrics.engine_gone()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the model loaded within the block."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1
            self.last_used = time.monotonic()

    def check_length(self, request: Request) -> None:
        """Raises ApiError for a request that can never run."""
        try:
            capacity.check(request, self.info.max_model_len, self.info.capacity)
        except OctavoError as error:
            found = errors.from_octavo(error)
            if isinstance(error, CapacityError):
                fits = len(request.prompt_token_ids) < min(self.info.max_model_len, self.info.capacity)
                found.param = "max_tokens" if fits else "prompt"
            raise found from error

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
