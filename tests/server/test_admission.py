"""The admission queue is bounded and fair, and loses no request."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from octavo.server.admission import Admission, Ticket
from octavo.server.http.errors import ApiError
from octavo.server.http.keys import ApiKey, make

A, B, C = make("a", "a"), make("b", "b"), make("c", "c", weight=3)


def ticket(key: ApiKey = A, priority: int = 0, sequences: int = 1, tokens: int = 100) -> Ticket:
    return Ticket(key, priority, sequences, tokens)


def admission(slots: int = 1, requests: int = 100, tokens: int = 10**6) -> Admission:
    return Admission(slots, requests, tokens, lambda: 100.0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(limited())


async def order_of(queue: Admission, tickets: list[Ticket]) -> list[Ticket]:
    """The order of admission, one ticket at a time."""
    first, done = ticket(), list[Ticket]()
    await queue.enter(first, None)

    async def pass_through(each: Ticket) -> None:
        await queue.enter(each, None)
        done.append(each)
        queue.leave(each)

    waiting = [asyncio.create_task(pass_through(each)) for each in tickets]
    await asyncio.sleep(0)
    queue.leave(first)
    await asyncio.gather(*waiting)
    return done


def test_keys_take_turns_whoever_came_first() -> None:
    async def test() -> None:
        many, few = [ticket(A) for _ in range(8)], [ticket(B) for _ in range(2)]
        order = await order_of(admission(), [*many, *few])
        assert max(order.index(each) for each in few) <= 4

    run(test)


def test_shares_follow_weights_and_tokens() -> None:
    async def test() -> None:
        big, small = [ticket(A, tokens=400) for _ in range(40)], [ticket(B, tokens=100) for _ in range(40)]
        heavy = [ticket(C, tokens=100) for _ in range(40)]
        order = await order_of(admission(requests=1000), [*big, *small, *heavy])
        had: Counter[str] = Counter()
        for each in order[:40]:
            had[each.key.name] += each.tokens
        assert abs(had["a"] - had["b"]) <= 500 and 2 < had["c"] / had["b"] < 4

    run(test)


def test_who_was_away_has_not_saved_up() -> None:
    async def test() -> None:
        queue = admission()
        await order_of(queue, [ticket(A) for _ in range(50)])
        order = await order_of(queue, [each for _ in range(5) for each in (ticket(B), ticket(A))])
        assert Counter(each.key.name for each in order[:6]) == {"a": 3, "b": 3}

    run(test)


def test_priority_goes_before_fairness() -> None:
    async def test() -> None:
        late, urgent = [ticket(A) for _ in range(3)], ticket(A, priority=-1)
        assert (await order_of(admission(), [*late, urgent]))[0] is urgent

    run(test)


def test_a_full_queue_refuses_at_once() -> None:
    async def test() -> None:
        queue = admission(requests=2, tokens=250)
        await queue.enter(ticket(), None)
        waiting = [asyncio.create_task(queue.enter(ticket(), None)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as caught:
            await queue.enter(ticket(), None)
        assert caught.value.status == 429 and "1" <= caught.value.headers()["retry-after"] <= "60"
        waiting[0].cancel()
        await asyncio.sleep(0)
        with pytest.raises(ApiError, match="tokens"):
            await queue.enter(ticket(tokens=200), None)
        waiting[1].cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert (queue.waiting_requests, queue.waiting_tokens) == (0, 0)

    run(test)


def test_a_request_larger_than_everything_runs_alone() -> None:
    async def test() -> None:
        queue = admission(slots=4, tokens=10)
        huge = ticket(sequences=9, tokens=10**9)
        await queue.enter(huge, 1)
        small = asyncio.create_task(queue.enter(ticket(), None))
        await asyncio.sleep(0.01)
        assert not small.done()
        queue.leave(huge)
        await small

    run(test)


def test_a_deadline_passes_in_the_queue() -> None:
    async def test() -> None:
        queue = admission()
        await queue.enter(ticket(), None)
        with pytest.raises(ApiError) as caught:
            await queue.enter(ticket(), 0.01)
        assert caught.value.status == 408 and queue.waiting_requests == 0

    run(test)


def test_nothing_is_lost_however_clients_come_and_go() -> None:
    async def test() -> None:
        rng, queue = random.Random(0), admission(slots=5, requests=30, tokens=5000)
        inside, most, refused = 0, 0, 0

        async def client(number: int) -> None:
            nonlocal inside, most, refused
            mine = ticket(rng.choice([A, B, C]), rng.choice([0, 0, 1]), rng.choice([1, 1, 2]), rng.randint(1, 400))
            await asyncio.sleep(rng.random() * 0.2)
            try:
                await queue.enter(mine, rng.choice([None, 0.01]))
            except ApiError:
                refused += 1
                return
            inside += mine.sequences
            most = max(most, inside)
            try:
                await asyncio.sleep(rng.random() * 0.01)
            finally:
                inside -= mine.sequences
                queue.leave(mine)

        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(client(i)) for i in range(600)]
        for task in rng.sample(tasks, 200):
            asyncio.get_running_loop().call_later(rng.random() * 0.3, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (queue.waiting_requests, queue.waiting_tokens, queue.inside_requests, inside) == (0, 0, 0, 0)
        assert most <= 5 and refused > 0
        assert queue._inside == queue._inside_tokens == 0

    run(test)
