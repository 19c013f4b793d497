"""What an ablation found: chains of a recipe's parts, and pipelines made by hand; kept in the study folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from autocompress.errors import RecipeError, StudyError
from autocompress.files import Folder, json_object
from autocompress.studies.front import Pick
from autocompress.studies.results import Evaluation
from autocompress.studies.study import Study
from autocompress.tasks.metric import Split
from autocompress.validation import Data, check_version

FILE, FOLDER = "ablation.json", "ablation"


class Step(Data):
    """One recipe on the way, with what its file does."""

    label: str
    """What was added to the step before, such as "pruning"."""
    evaluation: Evaluation

    def change(self, before: Step) -> Change | None:
        """What this step changed, or None where one of the two failed."""
        mine, theirs = self.evaluation, before.evaluation
        split: Split = "test" if mine.test and theirs.test else "validation"
        after, earlier = mine.score_on(split), theirs.score_on(split)
        if mine.state != "complete" or theirs.state != "complete" or not (after and earlier):
            return None
        if mine.latency_source == theirs.latency_source:
            latency = mine.objectives()[1] / theirs.objectives()[1] - 1
        else:
            latency = (mine.predicted_latency_ms or 0.0) / (theirs.predicted_latency_ms or 1.0) - 1
        return Change(
            accuracy=after.value - earlier.value,
            tie=after.overlaps(earlier),
            latency=latency,
            size=mine.objectives()[2] / theirs.objectives()[2] - 1,
        )


@dataclass(frozen=True)
class Change:
    """What one step changed, against the step before."""

    accuracy: float
    """Difference of the metric."""
    tie: bool
    """Whether the 95 % intervals of the two accuracies overlap."""
    latency: float
    """Relative: -0.3 is 30 % less."""
    size: float
    """Relative: -0.3 is 30 % less."""


class Chain(Data):
    """From the unchanged model to the recipe of one trial, one stage more at each step."""

    trial: int
    steps: tuple[Step, ...]

    def changes(self) -> list[Change | None]:
        """One for each step behind the first."""
        return [step.change(before) for before, step in zip(self.steps, self.steps[1:], strict=False)]


class Ablation(Data):
    """Chains of the recommended points, and pipelines put together by hand, for comparison."""

    version: Literal[1] = 1
    chains: tuple[Chain, ...] = ()
    pipelines: tuple[Step, ...] = ()
    """The first is the unchanged model, timed in the same session."""


def recommended(study: Study) -> dict[int, tuple[Pick, ...]]:
    """The trials that `export --pick` hands over, with the names of their picks.

    Baselines are left out, and a fastest point that is no faster than fp32.
    """
    picks: dict[int, tuple[Pick, ...]] = {}
    base = study.reference
    for pick in get_args(Pick) if len(study.front) else ():
        point = study.front.select(pick)
        slower = pick == "fastest" and base is not None and point.objectives()[1] >= base.objectives()[1]
        if point.kind == "candidate" and not slower:
            picks[point.trial] = (*picks.get(point.trial, ()), pick)
    return picks


def read_ablation(study: Path) -> Ablation | None:
    """What `ablate` kept, or None.

    Raises:
        StudyError: the file is damaged or of another version.
    """
    data = Folder(study).read(FILE)
    if data is None:
        return None
    kept = json_object(f"{study}/{FILE}", data)
    check_version(kept, f"{study}/{FILE}", StudyError)
    try:
        return Ablation.model_validate(kept)
    except (RecipeError, ValidationError) as error:
        raise StudyError(f"{study}/{FILE}: damaged ({type(error).__name__}); run `autocompress ablate` again") from None
