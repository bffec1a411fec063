"""`AsyncLLM`: a model in an engine process, for programs with an event loop. The server's models are AsyncLLMs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from octavo import unsupported
from octavo.assembly.engine import engine_config, load_tokenizer
from octavo.assembly.vllm_settings import check_download
from octavo.errors import CapacityError, OctavoError, RequestError
from octavo.models.registry import open_checkpoint
from octavo.outputs import RequestOutput
from octavo.processing.hf_tokenizer import HFTokenizer
from octavo.processing.inputs import Prompt, RequestMaker, pair, priorities
from octavo.sampling_params import RequestOutputKind, SamplingParams
from octavo.scheduler import admission as capacity
from octavo.server.engine.async_outputs import Outputs
from octavo.server.engine.client import EngineClient
from octavo.server.engine.metrics import EngineMetrics
from octavo.server.engine.protocol import Event, Ready, Start
from octavo.server.engine.supervisor import State, Supervisor
from octavo.server.generation.inbox import Generation, Inbox
from octavo.server.http import errors
from octavo.server.http.errors import ApiError, unavailable
from octavo.tokenizer import Tokenizer
from octavo.types import Request
from octavo.weights.sources import resolve

LOAD_SECONDS = 300.0  # longest wait of a request for its model to load
MOST_RESTARTS = 3  # consecutive restarts after which requests fail at once


class AsyncEngineArgs:
    """The arguments of `AsyncLLM`, as vLLM's scripts collect them."""

    def __init__(self, model: str | Path, tokenizer: str | Path | None = None, **settings: Any):
        self.model = model
        self.tokenizer = tokenizer
        self.settings = settings


class AsyncLLM:
    """A model in a process of its own, which is started by the first request and restarted if it dies.

        async with AsyncLLM("smollm2-135m") as llm:
            async for output in llm.generate("Once upon a time", SamplingParams(max_tokens=40)):
                print(output.outputs[0].text)

    model, tokenizer, settings: as for `LLM`. Raises ConfigError for a bad setting.
    name: of the model, in errors. engine_timeout: seconds without a sign of life after which the engine is restarted.
    logs: format and level of the engine's log. All methods belong to one event loop, in the main thread.
    """

    def __init__(
        self,
        model: str | Path,
        tokenizer: str | Path | None = None,
        *,
        name: str | None = None,
        engine_timeout: float = 10.0,
        logs: tuple[str, str] = ("text", "warning"),
        **settings: Any,
    ):
        check_download(str(model), settings)
        self._policy = engine_config(**settings).policy
        self.name = str(model) if name is None else name
        self.metrics = EngineMetrics()
        self.tokenizer: Tokenizer | None = None  # this and the next two: None until the model is loaded
        self.maker: RequestMaker | None = None
        self.client: EngineClient | None = None
        self._start = Start(str(model), settings, None if tokenizer is None else str(tokenizer), logs)
        self.supervisor = Supervisor(self._start, self._handle_event, self._gone, engine_timeout)
        self._reading: asyncio.Task[None] | None = None
        self._running: dict[str, Generation] = {}  # of `generate`, by request id

    @classmethod
    def from_engine_args(cls, args: AsyncEngineArgs) -> AsyncLLM:
        return cls(args.model, args.tokenizer, **args.settings)

    async def __aenter__(self) -> AsyncLLM:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams | None = None,
        request_id: str | None = None,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **others: Any,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields outputs as the answer is generated, of the kind that `sampling_params.output_kind` says.

        Closing the generator aborts the request. request_id: for `abort`; None makes one up. priority: the lowest goes
        first. timeout: seconds after which the request fails. others: see `LLM.generate`.
        Raises RequestError or CapacityError for what is wrong with the request, EngineError if the engine fails.
        """
        unsupported.refuse("generate", others, unsupported.ASYNC)
        (params,) = pair([prompt], sampling_params)
        (priority,) = priorities(priority, 1, self._policy)
        try:
            await self.wait_ready()
            inbox = Inbox(stream=params.output_kind is not RequestOutputKind.FINAL_ONLY)
            generation = self._begin(prompt, params, request_id, priority, timeout, inbox)
        except ApiError as error:
            raise errors.to_octavo(error) from None
        name, outputs = generation.output.request_id, Outputs(generation, params.output_kind)
        try:
            while items := await inbox.next():
                yield outputs.take(items)
            if (last := outputs.last()) is not None:
                yield last
        except ApiError as error:
            raise errors.to_octavo(error) from None
        finally:
            del self._running[name]
            assert self.client is not None
            self.client.abort([generation])

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Aborts requests of `generate`. Their last output has the finish reason "abort". Others are ignored."""
        names = [request_id] if isinstance(request_id, str) else request_id
        if self.client is not None:
            self.client.abort([self._running[name] for name in names if name in self._running])

    async def get_tokenizer(self) -> HFTokenizer:
        """The tokenizer, with the methods of transformers. Loads the model if needed."""
        await self.check_health()
        assert self.tokenizer is not None
        return HFTokenizer(self.tokenizer, self._start.model, self.info.max_model_len)

    async def check_health(self) -> None:
        """Waits until the engine is ready, and starts it if needed. Raises EngineError or the reason it cannot."""
        try:
            await self.wait_ready()
        except ApiError as error:
            raise errors.to_octavo(error) from None

    def shutdown(self) -> None:
        """Ends the engine process at once. `stop` lets it finish its step."""
        self.supervisor.kill()

    def _begin(
        self,
        prompt: Prompt,
        params: SamplingParams,
        request_id: str | None,
        priority: int,
        timeout: float | None,
        inbox: Inbox,
    ) -> Generation:
        assert self.maker is not None and self.client is not None
        if request_id in self._running:
            raise RequestError(f"a request with the id {request_id!r} is running: choose another", "request_id")
        tokens = self.maker.tokens(prompt)
        deadline = None if timeout is None else time.monotonic() + timeout
        request = self.maker.make(tokens, params, priority=priority, deadline=deadline)
        capacity.check(request, self.info.max_model_len, self.info.capacity, self.info.block_size)
        made = self.client.add(request, tokens.text, inbox)
        # The engine knows the request by its number: an id may be used again while the engine still aborts its request.
        made.output.request_id = f"request-{request.request_id}" if request_id is None else request_id
        self._running[made.output.request_id] = made
        return made

    # What the server uses, whose errors are those of HTTP.

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
        """Starts to load the model, if it is not loaded."""
        self.supervisor.start()
        if self._reading is None or (self._reading.done() and self.tokenizer is None):
            self._reading = asyncio.get_running_loop().create_task(self._read_tokenizer())

    async def stop(self) -> None:
        """Ends the engine process."""
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

    def check_length(self, request: Request) -> None:
        """Raises ApiError for a request that can never run."""
        try:
            capacity.check(request, self.info.max_model_len, self.info.capacity, self.info.block_size)
        except OctavoError as error:
            found = errors.from_octavo(error)
            if isinstance(error, CapacityError):
                fits = len(request.prompt_token_ids) < min(self.info.max_model_len, self.info.capacity)
                found.param = "max_tokens" if fits else "prompt"
            raise found from error

    def on_ready(self, info: Ready) -> None:
        """Called when the engine is ready."""

    def on_down(self, error: ApiError) -> None:
        """Called when an engine that was ready is gone."""

    async def _read_tokenizer(self) -> None:
        self.tokenizer = await asyncio.get_running_loop().run_in_executor(None, self._tokenizer)
        self.client = EngineClient(self.tokenizer, self.supervisor.send, self.metrics)

    def _tokenizer(self) -> Tokenizer:
        checkpoint, start = open_checkpoint(resolve(self._start.model)), self._start
        return load_tokenizer(checkpoint, start.tokenizer, start.settings.get("tokenizer_pre"))

    async def _wait(self, reading: asyncio.Task[None]) -> None:
        if self.supervisor.failures >= MOST_RESTARTS:
            raise unavailable(f"the engine of {self.name} keeps failing: {self.supervisor.problem}", 10)
        await self.supervisor.wait()
        await asyncio.shield(reading)
        if self.ready and self.maker is None:
            assert self.tokenizer is not None
            seed, info = self._start.settings.get("seed"), self.info
            longest = min(info.max_model_len, info.capacity)
            policy = self._start.settings.get("kv_eviction")
            self.maker = RequestMaker(self.tokenizer, info.vocab_size, longest, seed, False, policy)

    def _handle_event(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.on_ready(event)
        elif self.client is not None:
            self.client.handle(event)

    def _gone(self, reason: str) -> None:
        error = unavailable(f"the engine process failed ({reason}); it is started again")
        if self.client is not None:
            self.client.fail_all(error)
        self.on_down(error)
        self.metrics.engine_gone()
