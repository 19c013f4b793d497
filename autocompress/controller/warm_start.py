"""An earlier study to start from, with another space or for another device: nothing is trained twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autocompress.controller.plan import Plan
from autocompress.controller.proposals import Proposals
from autocompress.errors import InputError
from autocompress.evaluation.findings import RATE
from autocompress.evaluation.sensitivity import SENSITIVITY
from autocompress.files import MODEL_BYTES, Folder
from autocompress.recipes.domains import Value
from autocompress.studies.front import dominates
from autocompress.studies.study import Study


@dataclass(frozen=True)
class WarmStart:
    """A study whose weights and best recipes another one begins with."""

    study: Study

    @classmethod
    def open(cls, path: str | Path, out: Path) -> WarmStart:
        """Read the earlier study of a new one in `out`; its accuracies only say which recipes to try first.

        Raises:
            StudyError: there is none at `path`.
            InputError: it is the new study itself.
        """
        if Path(path).resolve() == out.resolve():
            raise InputError(f"{path}: a study cannot start from itself; to resume it, give it as --out alone")
        return cls(Study.open(path))

    def copy_findings(self, cache: Path) -> None:
        """Copy what was trained and what was found out about the network.

        All of it is named by all that led to them, so that none is mistaken.
        """
        theirs, mine = Folder(self.study.path).inner("cache"), Folder(cache)
        for name in theirs.names():
            wanted = name.endswith(".pt") or name.startswith((SENSITIVITY, RATE))
            if wanted and not mine.has(name) and (data := theirs.read(name, MODEL_BYTES)) is not None:
                mine.write(name, data)

    def settings(self, plan: Plan, proposals: Proposals) -> list[dict[str, Value]]:
        """The settings of the plan's space that give the earlier recipes, those without use here left out.

        Of use is what keeps the constraints that are known before training and is not beaten in accuracy, latency and
        size, with the costs of this plan's device; the most accurate come first.
        """
        outline = plan.evaluator.analysis.outline
        settings: list[dict[str, Value]] = []
        accuracies = []
        for evaluation in self.study.candidates:
            if evaluation.state != "complete" or evaluation.is_repeat:
                continue
            setting = plan.space.setting_of(evaluation.recipe, outline)
            if setting is not None and setting not in settings:  # thresholds of exits are swept again
                settings.append(setting)
                accuracies.append(evaluation.objectives()[0])
        if not settings:
            return []
        costs, broken = proposals.objectives(proposals.columns(settings))
        useful = (broken <= 0).all(1) & np.isfinite(costs).all(1)
        found = {(accuracies[i], *map(float, costs[i])): settings[i] for i in np.flatnonzero(useful).tolist()}
        return [found[p] for p in sorted(found, reverse=True) if not any(dominates(other, p) for other in found)]
