"""Admission of requests to the engine: a bounded queue, shared fairly between API keys.

The engine gets slightly more sequences than it can run. The other requests wait here, where their order can change.
The request with the lowest `priority` value is next. Among equals, the key with the least virtual time is next. Each
admission adds the request's tokens, divided by the key's weight, to the key's virtual time (stride scheduling,
Waldspurger and Weihl, 1995).
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from octavo.server.http.errors import ApiError, overloaded, past_deadline, unavailable
from octavo.server.http.keys import ApiKey

MAX_RETRY = 60.0  # seconds


@dataclass(eq=False, slots=True)
class Ticket:
    """One HTTP request. sequences: how many it may run at once. tokens: of its prompts and its longest answers."""

    key: ApiKey
    priority: int
    sequences: int
    tokens: int
    admitted: asyncio.Future[None] | None = None


@dataclass(slots=True)
class _Account:
    """The queue of one key. passed: virtual time. waiting: a heap of (priority, number, ticket)."""

    passed: float = 0.0
    waiting: list[tuple[int, int, Ticket]] = field(default_factory=list)


class Admission:
    """slots: sequences admitted at the same time. rate: returns tokens per second, for Retry-After."""

    def __init__(self, slots: int, max_requests: int, max_tokens: int, rate: Callable[[], float]):
        self.slots = slots
        self.waiting_requests = 0
        self.waiting_tokens = 0
        self.inside_requests = 0
        self._inside = 0  # sequences
        self._inside_tokens = 0
        self._max_requests = max_requests
        self._max_tokens = max_tokens
        self._rate = rate
        self._accounts: dict[bytes, _Account] = {}
        self._numbers = itertools.count()
        self._now = 0.0  # virtual time of the last admitted key

    async def enter(self, ticket: Ticket, timeout: float | None) -> None:
        """Waits up to `timeout` seconds until the ticket is admitted. `leave` must follow.

        Raises ApiError: 429 at once if the queue is full, 408 after `timeout`.
        """
        self._check_room(ticket)
        ticket.admitted = asyncio.get_running_loop().create_future()
        self._queue(ticket)
        self._admit()
        if ticket.admitted.done():
            return
        try:
            await asyncio.wait_for(asyncio.shield(ticket.admitted), timeout)
        except BaseException as error:
            self._withdraw(ticket)
            if isinstance(error, asyncio.TimeoutError):
                raise past_deadline(0) from None
            raise

    def leave(self, ticket: Ticket) -> None:
        self._inside -= ticket.sequences
        self._inside_tokens -= ticket.tokens
        self.inside_requests -= 1
        self._admit()

    def fail_waiting(self, error: ApiError) -> None:
        """Fails every request in the queue."""
        for account in self._accounts.values():
            for _, _, ticket in account.waiting:
                if ticket.admitted is not None and not ticket.admitted.done():
                    ticket.admitted.set_exception(error)

    def _check_room(self, ticket: Ticket) -> None:
        if self.waiting_requests == 0:
            return  # an empty queue accepts a request of any size
        if self.waiting_requests >= self._max_requests:
            raise overloaded(f"{self.waiting_requests} requests are waiting already", self._retry_after())
        if self.waiting_tokens + ticket.tokens > self._max_tokens:
            raise overloaded(f"requests with {self.waiting_tokens} tokens are waiting already", self._retry_after())

    def _retry_after(self) -> float:
        """Estimated seconds until half of the admitted and queued tokens are done."""
        work = self._inside_tokens + self.waiting_tokens
        return min(MAX_RETRY, max(1.0, work / 2 / max(self._rate(), 1.0)))

    def _queue(self, ticket: Ticket) -> None:
        account = self._accounts.setdefault(ticket.key.digest, _Account())
        if not account.waiting:  # an idle key earns no credit
            account.passed = max(account.passed, self._now)
        heapq.heappush(account.waiting, (ticket.priority, next(self._numbers), ticket))
        self.waiting_requests += 1
        self.waiting_tokens += ticket.tokens

    def _admit(self) -> None:
        while (account := self._next()) is not None:
            ticket = account.waiting[0][2]
            if self._inside and self._inside + ticket.sequences > self.slots:
                return
            heapq.heappop(account.waiting)
            self._now = account.passed
            account.passed += ticket.tokens / ticket.key.weight
            self._move_in(ticket)

    def _next(self) -> _Account | None:
        """The key whose request is next, or None. Drops requests that have left the queue."""
        best: tuple[int, float, int] | None = None
        chosen = None
        for account in self._accounts.values():
            while account.waiting and _gone(account.waiting[0][2]):
                heapq.heappop(account.waiting)
            if account.waiting:
                priority, number, _ = account.waiting[0]
                if best is None or (priority, account.passed, number) < best:
                    best, chosen = (priority, account.passed, number), account
        return chosen

    def _move_in(self, ticket: Ticket) -> None:
        assert ticket.admitted is not None
        ticket.admitted.set_result(None)
        self._unqueue(ticket)
        self._inside += ticket.sequences
        self._inside_tokens += ticket.tokens
        self.inside_requests += 1

    def _unqueue(self, ticket: Ticket) -> None:
        self.waiting_requests -= 1
        self.waiting_tokens -= ticket.tokens

    def _withdraw(self, ticket: Ticket) -> None:
        """Removes a ticket that no longer waits. `_next` drops its entry; a place it has just got is released."""
        assert ticket.admitted is not None
        if ticket.admitted.done() and not ticket.admitted.cancelled() and ticket.admitted.exception() is None:
            self.leave(ticket)
            return
        ticket.admitted.cancel()
        self._unqueue(ticket)
        self._admit()


def _gone(ticket: Ticket) -> bool:
    return ticket.admitted is None or ticket.admitted.done()


def draining() -> ApiError:
    return unavailable("the server is shutting down", retry_after=5)
