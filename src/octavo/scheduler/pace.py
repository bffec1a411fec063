"""Limits the prompt tokens of a step while other sequences decode: they wait for the whole step.

With a target (`EngineConfig.target_itl`) a step may take that long. With "auto", prompts get at most as much time as
decoding takes, so decoding keeps at least half its speed. Prompts get more time when more sequences are starting than
decoding, because time given to either side delays every sequence on the other side.

Both costs are measured while the engine runs. They change when a token is computed, never its value.
"""

from __future__ import annotations

UNNOTICED = 0.010  # seconds: users do not notice a step this short
FEWEST = 8  # prompt tokens a step always allows, so that every prompt finishes
CROWD = 8  # scales FEWEST by the ratio of sequences starting to sequences decoding: see `room`
SHARE = 0.6  # share of the decoding time given to prompts; the rest absorbs estimation errors
RATE = 0.2  # weight of a new measurement in an estimate
CLIP = 4.0  # caps a measured step at this multiple of the expected time: the machine was busy with other work


class Pace:
    """target: seconds between a sequence's tokens while prompts are computed, or "auto": see above."""

    def __init__(self, target: float | str = "auto"):
        self._target = None if isinstance(target, str) else target
        self._decode: dict[int, float] = {}  # rows -> seconds of a step that only decodes
        self._prompt_seconds = 0.0  # recent time and number of prompt tokens
        self._prompt_tokens = 0.0

    def room(self, rows: int, decoding: int, starting: int) -> int | None:
        """Prompt tokens allowed in a step with `rows` decode tokens.

        decoding: sequences that decode. starting: sequences waiting for their first token. Returns None (no limit) when
        nothing decodes or nothing has been measured yet."""
        if not decoding or not self._decode or not self._prompt_seconds:
            return None
        alone = self._alone(rows)
        if self._target is not None:
            spare, fewest = self._target - alone, FEWEST
        else:
            spare = max(SHARE * alone * max(1.0, starting / decoding), UNNOTICED - alone)
            # Small chunks cost more per token, so measuring them would shrink them further. Skip this while a queue
            # builds.
            fewest = max(FEWEST, FEWEST * CROWD * (starting - 1) // decoding)
        return max(fewest, int(spare * self._prompt_tokens / self._prompt_seconds))

    def observe(self, rows: int, prompt: int, seconds: float) -> None:
        """Records the seconds of a step with `rows` decode tokens and `prompt` prompt tokens."""
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
        """Seconds of a step that only decodes, measured at the nearest number of rows."""
        if not rows or not self._decode:
            return 0.0
        return self._decode[min(self._decode, key=lambda known: abs(known - rows))]
