"""What is found out about a network once and kept: the optimizer and the peak rate of its fine-tuning."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from pydantic import BaseModel, FiniteFloat, ValidationError

from autocompress.compression.blocks import least_missed
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.finetuning import RATES, Ladder, Optimizer, find_rate, optimizer_for
from autocompress.compression.techniques import _usual as usual
from autocompress.compression.training import Distillation
from autocompress.errors import CandidateError, StudyError
from autocompress.files import Folder

RATE = "rate-"
"""How the names of the files in the cache begin."""
_RATIO = 0.5
"""Of the pruning that the short trainings have to repair: in the middle of what a search tries."""
_TEACHING = Distillation(weight=0.9)


class _Kept(BaseModel):
    """A ladder in the cache; a rate without a score failed."""

    rate: FiniteFloat
    scores: list[tuple[FiniteFloat, FiniteFloat | None]]
    start: FiniteFloat | None
    seconds: FiniteFloat


class NetworkFindings:
    """Finds out what is asked for, once.

    Args:
        context: the task and its network.
        cache: folder in which results are kept, by the content of everything that leads to them; or None.
        told: gets a sentence about everything that was found anew.
    """

    def __init__(self, context: Context, cache: Path | None) -> None:
        self._workshop = context
        self._cache = cache
        self.told: Callable[[str], None] = lambda sentence: None
        self.ladders: dict[Optimizer, Ladder] = {}

    @cached_property
    def optimizer(self) -> Optimizer:
        """SGD for networks with BatchNorm, else AdamW."""
        return optimizer_for(self._workshop.task.model)

    def peak_rate(self, optimizer: Optimizer) -> float:
        """The rate at which short trainings of the pruned network gain most.

        Raises:
            CandidateError: the network cannot be trained.
        """
        if optimizer not in self.ladders:
            self.ladders[optimizer] = self._read(optimizer) or self._find(optimizer)
        return self.ladders[optimizer].rate

    @property
    def least_missed(self) -> Mapping[str, str]:
        """See `blocks.least_missed`."""
        return least_missed(self._workshop)

    def _find(self, optimizer: Optimizer) -> Ladder:
        ladder = find_rate(self._damaged(), self._workshop, optimizer, _TEACHING)
        if self._cache:
            kept = _Kept(
                rate=ladder.rate,
                scores=[(rate, _finite(score)) for rate, score in ladder.scores.items()],
                start=_finite(ladder.start),
                seconds=ladder.seconds,
            )
            Folder(self._cache).write_json(self._name(optimizer), kept.model_dump())
        self.told(str(ladder))
        return ladder

    def _damaged(self) -> Candidate:
        whole = Candidate(self._workshop.task.model)
        for round_to in (8, 1):
            try:
                return usual.shrunk(_RATIO, round_to).apply(whole, self._workshop)
            except CandidateError:  # too narrow, or nothing of it can be pruned
                continue
        return whole

    def _read(self, optimizer: Optimizer) -> Ladder | None:
        if self._cache is None:
            return None
        try:
            kept = _Kept.model_validate_json(Folder(self._cache).read(self._name(optimizer)) or b"")
        except (StudyError, ValidationError):
            return None
        scores = {rate: -math.inf if score is None else score for rate, score in kept.scores}
        start = -math.inf if kept.start is None else kept.start
        return Ladder(optimizer, kept.rate, scores, start, kept.seconds) if kept.rate in RATES[optimizer] else None

    def _name(self, optimizer: Optimizer) -> str:
        parts = json.dumps([self._workshop.origin, optimizer, RATES[optimizer], _RATIO])
        return f"{RATE}{hashlib.sha256(parts.encode()).hexdigest()[:24]}.json"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
