"""The outputs of one HTTP request: the engine client writes them to an inbox, the HTTP response reads them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from octavo.outputs import OutputDelta, RequestOutput
from octavo.server.http.errors import ApiError
from octavo.types import Request


@dataclass(eq=False, slots=True)
class Generation:
    """One engine request: a prompt with its n answers. number: index of the prompt in the HTTP request."""

    request: Request
    output: RequestOutput
    inbox: Inbox
    number: int
    last_tokens: dict[int, float] = field(default_factory=dict)  # by answer: time of its latest token
    ended: bool = False

    @property
    def num_output_tokens(self) -> int:
        return sum(len(answer.token_ids) for answer in self.output.outputs)


Item = tuple[Generation, OutputDelta]


class Inbox:
    """Outputs that the HTTP response has not read yet. max_tokens bounds their number.

    stream: if False, the inbox keeps no deltas and wakes its reader only at the end.
    """

    __slots__ = ("_error", "_items", "_nudged", "_open", "_stream", "_waiter")

    def __init__(self, stream: bool = True) -> None:
        self._stream = stream
        self._items: list[Item] = []
        self._error: ApiError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._open = 0  # generations that have not ended
        self._nudged = False

    @property
    def finished(self) -> bool:
        """Whether all outputs have been read."""
        return not self._items and self._error is None and self._open == 0

    def expect(self) -> None:
        """Registers one more generation that will write here."""
        self._open += 1

    def put(self, item: Item) -> None:
        if self._stream:
            self._items.append(item)
            self._wake()

    def end(self) -> None:
        """Unregisters a generation that has ended."""
        self._open -= 1
        if self._open == 0:
            self._wake()

    def fail(self, error: ApiError) -> None:
        """Ends the outputs with an error. `next` raises it after the outputs that came before."""
        self._error = self._error or error
        self._wake()

    def nudge(self) -> None:
        """Makes `next` return even if there is no output."""
        self._nudged = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next(self) -> list[Item]:
        """Waits for outputs and returns all of them. Raises ApiError.

        Returns an empty list after a nudge, or when the inbox is `finished`.
        """
        while not self._items and not self._nudged:
            if self._error is not None:
                raise self._error
            if self._open == 0:
                return []
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        items, self._items, self._nudged = self._items, [], False
        return items
