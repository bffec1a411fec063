"""`best_of`: more answers are generated than returned. The best are those with the highest logprob per token."""

from __future__ import annotations

from octavo.outputs import CompletionOutput
from octavo.server.api.common import check_answers
from octavo.server.http.errors import bad_request


def check_best_of(best_of: int | None, n: int | None, stream: bool | None, most: int) -> None:
    """Raises ApiError for a best_of that cannot be honoured. most: answers that the server generates for a prompt."""
    check_answers(best_of, most, "best_of")
    if best_of is not None and best_of < (n or 1):
        raise bad_request(f"best_of must be at least n, {n}; got {best_of}", "best_of")
    if best_of is not None and best_of > (n or 1) and stream:
        raise bad_request("best_of cannot be streamed: which answers are best is known when all have ended", "best_of")


def best(answers: list[CompletionOutput], n: int) -> list[CompletionOutput]:
    """The n best answers, best first; all in order if no more were generated."""
    return answers if len(answers) == n else sorted(answers, key=_logprob_per_token, reverse=True)[:n]


def _logprob_per_token(answer: CompletionOutput) -> float:
    return (answer.cumulative_logprob or 0.0) / max(len(answer.token_ids), 1)
