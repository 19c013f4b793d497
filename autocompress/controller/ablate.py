"""What each part of a recipe brings, by evaluating it step by step, and what hand-made pipelines would bring.

Both are kept in ablation.json of the study folder, their files in ablation/. The training cache of the study makes
the steps that a search has trained already free. Torch is imported only when something is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocompress.compression.stage import Phase, Stage
from autocompress.compression.techniques import _usual as usual
from autocompress.errors import CandidateError, StudyError
from autocompress.files import Folder
from autocompress.recipes.recipe import Recipe
from autocompress.studies.ablation import FILE, FOLDER, Ablation, Chain, Step, read_ablation, recommended
from autocompress.studies.folder import read_artifact
from autocompress.studies.results import Evaluation
from autocompress.studies.settings import changes
from autocompress.studies.study import Study

if TYPE_CHECKING:
    from autocompress.evaluation.evaluator import Evaluator
    from autocompress.tasks.task import Task

_EXIT_LOSS = 0.01
"""A hand-made pipeline sets its thresholds so that the exits cost at most one point (validation)."""


def chain_of(recipe: Recipe) -> list[tuple[str, Recipe]]:
    """Labels and recipes from the unchanged model to `recipe`.

    Pruning without training means with BatchNorm re-estimated. Exits come last: the step before is the same network
    trained without them.
    """
    repair = next((r for stage in recipe.stages if (r := stage.repair())), usual.repair())
    exits = [stage for stage in recipe.stages if stage.thresholds_by]
    last = {stage.technique for stage in exits}
    last |= {stage.technique for stage in recipe.stages if stage.requires & last}
    steps, kept = [("unchanged", Recipe())], list[Stage]()
    for stage in recipe.stages:
        if stage.technique in last:
            continue
        kept.append(stage)
        stages = [*kept, repair] if stage.phase is Phase.STRUCTURE else kept
        steps.append((stage.title(), Recipe(stages=tuple(stages))))
    steps += [(exits[0].title(), recipe)] if exits else []
    return [s for i, s in enumerate(steps) if not i or s[1].digest() != steps[i - 1][1].digest()]


def pipelines_for(evaluator: Evaluator, space: dict[str, Any]) -> list[tuple[str, Recipe]]:
    """What people put together by hand: the same ratio everywhere, trained as long as the search trains, int8.

    Args:
        evaluator: of the task and device.
        space: the search space of the study; its number of epochs and learning rate are used.
    """
    from autocompress.controller.plan import Fixed
    from autocompress.recipes.space import SearchSpace

    outline = evaluator.analysis.outline
    parsed = SearchSpace.parse(space)
    found = parsed.sample(Fixed(parsed.setting(outline, lambda: 0.5, optional=False)), outline)
    made = usual.pipelines(found.stages, outline, trainable=evaluator.task.trainable)
    return [(name, Recipe(stages=stages)) for name, stages in made]


def _before(folder: Path) -> Ablation:
    """What an earlier ablation kept; a file that cannot be read is set aside, as a journal is."""
    try:
        return read_ablation(folder) or Ablation()
    except StudyError:
        Folder(folder).set_aside(FILE)
        return Ablation()


def ablate(
    study: Study,
    task: Task,
    trials: Sequence[int] | None = None,
    *,
    pipelines: bool = False,
    progress: Callable[[str], None] = lambda message: None,
) -> Ablation:
    """Evaluate the chains of some trials, and the hand-made pipelines; keep both in the study folder.

    All files are scored on validation and, when the search is finished, on the test split; on this machine they are
    timed side by side. What ablation.json held of other trials stays. In a study with shared weights (evaluator
    "elastic") every step is trained from the original instead, the last one too.

    Args:
        study: where the recipes come from.
        task: the model and data that the study was made with.
        trials: complete candidates; those of `recommended` by default.
        pipelines: also evaluate the hand-made pipelines.
        progress: is told what is going on.

    Raises:
        StudyError: the task is not the study's, or a trial is not a complete candidate.
    """
    from autocompress.controller.journal import exclusive
    from autocompress.devices.profile import DeviceProfile
    from autocompress.evaluation.evaluator import Evaluator

    settings = study.settings
    for name in ("model_sha256",) if settings.identity else ("model_sha256", "data_sha256"):
        if (theirs := getattr(settings, name)) != (mine := getattr(task, name)):
            raise StudyError(
                f"{study.path}: was made with another {name.partition('_')[0]} ({name} {theirs[:12]}, now "
                f"{mine[:12]}); give the task of the search"
            )
    if settings.identity and (different := changes(settings.identity, task.identity)):
        raise StudyError(
            f"{study.path}: was made with another task: {'; '.join(different)}; give the task of the search"
        )
    points = [study.evaluation(trial) for trial in (recommended(study) if trials is None else trials)]
    for point in points:
        if point.state != "complete" or point.kind != "candidate":
            what = "a baseline" if point.kind == "baseline" else point.state
            raise StudyError(f"{study.path}: trial {point.trial} is {what}; only complete candidates have a chain")
    with exclusive(study.path):
        device = DeviceProfile.parse(settings.device, "device of the study")
        evaluator = Evaluator(task, device, seed=settings.seed, cache=study.path / "cache", progress=progress)
        bench = _StepEvaluator(study, evaluator, progress)
        chains = {p.trial: [(label, bench.add(recipe)) for label, recipe in chain_of(p.recipe)] for p in points}
        hand_made = [("unchanged", Recipe()), *pipelines_for(evaluator, settings.space)] if pipelines else []
        compared = [(label, bench.add(recipe)) for label, recipe in hand_made]
        before = _before(study.path)
        bench.judge()
        found = Ablation(
            chains=(
                *(c for c in before.chains if c.trial not in chains),
                *(Chain(trial=trial, steps=bench.steps(steps)) for trial, steps in chains.items()),
            ),
            pipelines=bench.steps(compared) if pipelines else before.pipelines,
        )
        Folder(study.path).write(FILE, found.model_dump_json() + "\n")
    return found


class _StepEvaluator:
    """Evaluates each recipe once; what the study has a file of is taken from there."""

    def __init__(self, study: Study, evaluator: Evaluator, progress: Callable[[str], None]) -> None:
        self.study = study
        self.evaluator = evaluator
        self.progress = progress
        alike = study.settings.evaluator == "standalone"  # shared weights are no part of a recipe: its chain is without
        complete = [e for e in reversed(study.evaluations) if e.state == "complete" and e.artifact]
        own = [e for e in complete if alike or e.kind == "baseline"]
        self.known = {e.recipe_digest: e for e in own if _is_whole(study, e)}
        self.found: dict[str, Evaluation] = {}

    def add(self, recipe: Recipe) -> str:
        """Evaluate a recipe if it is a new one; return the key of its result."""
        key = recipe.digest()
        if key not in self.found:
            self.found[key] = self.known.get(key) or self._evaluate(recipe, key)
        return key

    def _evaluate(self, recipe: Recipe, key: str) -> Evaluation:
        self.progress(f"evaluating {recipe.summary()}")
        number = -1 - len(self.found)  # no trial of the study
        try:
            outcomes = self.evaluator.evaluate(recipe)
        except CandidateError as error:
            failed = {"state": "failed", "reason": str(error), "label": recipe.summary()}
            return Evaluation.model_validate({"trial": number, "recipe": recipe, "recipe_digest": key, **failed})
        best = max(o.evaluation.objectives()[0] for o in outcomes)
        good = [o for o in outcomes if o.evaluation.objectives()[0] >= best - _EXIT_LOSS]
        chosen = min(good, key=lambda o: o.evaluation.objectives()[1])
        artifact = f"{FOLDER}/{key}{chosen.suffix}"
        Folder(self.study.path).write(artifact, chosen.file)
        return chosen.evaluation.model_copy(update={"trial": number, "artifact": artifact})

    def judge(self) -> None:
        """Time and score all files that were evaluated."""
        from autocompress.controller.finish import measure
        from autocompress.runtimes.timing import THOROUGH

        complete = {key: e for key, e in self.found.items() if e.state == "complete"}
        if self.evaluator.device.is_this_machine and complete:
            self.progress(f"measuring {len(complete)} files on this machine")
            timed = measure(self.study.path, list(complete.values()), self.evaluator, THOROUGH)
            complete = dict(zip(complete, timed, strict=True))
        for key, evaluation in complete.items():
            if self.study.final and evaluation.test is None and self.evaluator.task.has("test"):
                self.progress(f"scoring {evaluation.label} on the test split")
                score = self.evaluator.score(read_artifact(self.study.path, evaluation), "test")
                complete[key] = evaluation.model_copy(update={"test": score})
        self.found |= complete

    def steps(self, labelled: Sequence[tuple[str, str]]) -> tuple[Step, ...]:
        """The results under their labels, without what the report does not show."""
        slim = {"layers": ()}
        return tuple(Step(label=label, evaluation=self.found[key].model_copy(update=slim)) for label, key in labelled)


def _is_whole(study: Study, evaluation: Evaluation) -> bool:
    """Whether the file of a trial is there as it was evaluated."""
    try:
        read_artifact(study.path, evaluation)
    except StudyError:
        return False
    return True
