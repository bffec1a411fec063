"""How many prompt tokens a step may take while others decode: they wait for it, so it must not take much longer.

With a target (`EngineConfig.target_itl`) a step has until then. With "auto", prompts get nearly as much of a step's
time as the decoding sequences take, so that these run at half their speed at least; and more when more sequences wait
for their first token than decode, because a second given to either side delays everybody on the other one.

Both costs are measured as the engine works. They decide when a token is computed, never which one it is.
"""

from __future__ import annotations

UNNOTICED = 0.010  # seconds: nobody sees a step of that length
FEWEST = 8  # tokens that prompts get in any case: they have to come to an end
CROWD = 8  # and so many times that for each further one that starts over each that decodes: see `room`
SHARE = 0.6  # of the time that decoding takes: the rest is for what the estimates miss
RATE = 0.2  # how fast estimates follow
CLIP = 4.0  # a step counts as at most so many times what was expected: the machine did something else


class Pace:
    """target: seconds between the tokens of a sequence while prompts are computed, or "auto": see above."""

    def __init__(self, target: float | str = "auto"):
        self._target = None if isinstance(target, str) else target
        self._decode: dict[int, float] = {}  # seconds of a step of so many rows, all of which decode
        self._prompt_seconds = 0.0  # of late, the time and number of prompt tokens
        self._prompt_tokens = 0.0

    def room(self, rows: int, decoding: int, starting: int) -> int | None:
        """Prompt tokens that may go with `rows` decoding ones of `decoding` sequences, while `starting` sequences want
        their first token. None: as many as there are, because nobody decodes, or nothing is known yet."""
        if not decoding or not self._decode or not self._prompt_seconds:
            return None
        alone = self._alone(rows)
        if self._target is not None:
            spare, fewest = self._target - alone, FEWEST
        else:
            spare = max(SHARE * alone * max(1.0, starting / decoding), UNNOTICED - alone)
            # Small pieces cost more a token, so that measuring them makes them smaller still: not while a queue builds.
            fewest = max(FEWEST, FEWEST * CROWD * (starting - 1) // decoding)
        return max(fewest, int(spare * self._prompt_tokens / self._prompt_seconds))

    def observe(self, rows: int, prompt: int, seconds: float) -> None:
        """A step of `rows` decoding tokens and `prompt` prompt tokens took so long."""
        if not prompt:
            known = self._decode.setdefault(rows, seconds)
            self._decode[rows] += RATE * (min(seconds, CLIP * known) - known)
            return
        extra = max(0.0, seconds - self._alone(rows))
        if self._prompt_seconds:
            extra = min(extra, CLIP * prompt * self._prompt_seconds / self._prompt_tokens)
        self._prompt_seconds += extra - RATE * self._prompt_seconds
        self._prompt_tokens += prompt - RATE * self._prompt_tokens

    def _alone(self, rows: int) -> float:
        """Seconds of a step in which just these decode: as measured with the nearest number of rows."""
        if not rows or not self._decode:
            return 0.0
        return self._decode[min(self._decode, key=lambda known: abs(known - rows))]
