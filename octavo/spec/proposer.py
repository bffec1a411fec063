"""What speculation adds to the engine: a guess at each sequence's next tokens. Verifying it is an ordinary step."""

from __future__ import annotations

from typing import Protocol

from octavo.types import Sequence


class Proposer(Protocol):
    def propose(self, sequences: list[Sequence]) -> None:
        """Sets `seq.drafts` of each sequence, which decodes in the next step; an empty list drafts nothing.

        A draft changes the speed only, never the output. The scheduler may cut drafts short: at max_tokens, at the
        context's end, and when the token budget or the blocks do not suffice. If this raises, the step runs without
        drafts.
        """
