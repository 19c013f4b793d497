"""The loop of a search: baselines, then proposals until the budget is used, then the final figures."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from autocompress.constraints import Constraint
from autocompress.controller.finish import finish
from autocompress.controller.journal import exclusive
from autocompress.controller.plan import Budget, Plan, now
from autocompress.controller.reporter import Reporter, Silent
from autocompress.controller.samplers import check_name
from autocompress.controller.store import Store, check_folder
from autocompress.device import DeviceProfile
from autocompress.errors import CandidateError, StudyError
from autocompress.evaluate import Evaluator, Forecast
from autocompress.recipe import Recipe
from autocompress.results import REPEATED, Evaluation
from autocompress.space import SearchSpace
from autocompress.study import Study
from autocompress.task import Task

_MAX_UNEVALUATED = 300
"""So many proposals in a row that were rejected or known already mean that there is nothing left to try; in a small
space it takes fewer."""


def search(
    task: Task,
    device: DeviceProfile,
    space: SearchSpace,
    *,
    budget: Budget,
    out: str | Path,
    constraints: Iterable[Constraint] = (),
    sampler: str = "tpe",
    seed: int = 0,
    reference: str = "",
    reporter: Reporter | None = None,
) -> Study:
    """Search for the Pareto front of accuracy, latency and size; with the same `out` again it goes on.

    Args:
        task: model and data. Nothing of it is changed.
        device: what to compress for; the profile "host" is this machine, whose final front is measured.
        space: the recipes to choose from; what network or device cannot use is left out.
        budget: evaluated candidates, hours, or both; over all sessions of this study.
        out: folder of the study.
        constraints: see `autocompress.at_most` and its kin. They guide the sampler, and recipes that are
            predicted to break one are not trained.
        sampler: name of an Optuna sampler: tpe, nsga2, gp or random.
        seed: of everything that is random.
        reference: where the task comes from, for the record ("my_task.py:task").
        reporter: is told about the progress.

    Raises:
        InputError: something given is wrong; nothing was evaluated.
        StudyError: `out` belongs to another study, or another search works on it.
    """
    check_name(sampler)
    reporter = reporter or Silent()
    out = Path(out)
    check_folder(out)
    reporter.status("looking at the network and its data")
    task.validate()
    evaluator = Evaluator(task, device, seed=seed, cache=out / "cache", progress=reporter.status)
    plan = Plan.make(evaluator, space, constraints, device)
    for note in plan.space.notes:
        reporter.note(note)
    with exclusive(out):
        store = Store(out, plan.settings(reference or task.name, sampler, seed))
        judged_more = _Driver(plan, store, budget, reporter).run()
        if judged_more or not (out / "final.json").exists():
            finish(out, evaluator, reporter)
    return Study.open(out)


class _Driver:
    def __init__(self, plan: Plan, store: Store, budget: Budget, reporter: Reporter) -> None:
        self.plan = plan
        self.store = store
        self.budget = budget
        self.reporter = reporter
        self.evaluator = plan.evaluator
        self.constraints: tuple[Constraint, ...] = ()
        self.known: dict[str, Evaluation] = {}
        """Evaluated and failed candidates by the key of their forecast."""
        self.n_evaluated = 0

    def run(self) -> bool:
        """Search until the budget is used; return whether the study has grown."""
        before = len(self.store.trials)
        self.store.recover(())
        baselines = self._baselines()
        self.constraints = self.plan.resolve(baselines["fp32"])
        self.store.recover(self.constraints)
        done = [e for e in self.store.evaluations() if e.kind == "candidate" and e.derived_from is None]
        self.n_evaluated = sum(e.state != "rejected" and not e.is_repeat for e in done)
        if not any(e.kind == "candidate" for e in done):
            self.plan.check_feasible(self.constraints)
            self.reporter.status("choosing the recipes to begin with")
            for values in self.plan.warm_starts(self.constraints, self.store.settings.seed):
                self.store.enqueue(values)
        for evaluation in done:
            self._remember(evaluation)
        in_vain, patience = 0, min(_MAX_UNEVALUATED, 20 + 10 * self.plan.space.size(self.evaluator.anatomy.outline))
        while self._used() < 1:
            evaluated = self._step()
            in_vain = 0 if evaluated else in_vain + 1
            if in_vain >= patience:
                self.reporter.note(
                    f"stopped before the budget was used: {in_vain} proposals in a row were rejected or known already"
                )
                break
        return len(self.store.trials) > before

    def _used(self) -> float:
        return self.budget.used(self.n_evaluated, self.store.elapsed_s())

    def _baselines(self) -> dict[str, Evaluation]:
        found = {e.label: e for e in self.store.evaluations() if e.kind == "baseline"}
        for name, recipe in self.evaluator.baselines().items():
            if name in found:
                continue
            self.reporter.status(f"baseline {name}")
            try:
                outcome = self.evaluator.evaluate(recipe)[0]
            except CandidateError as error:
                if name == "fp32":
                    raise StudyError(f"the model itself cannot be deployed: {error}") from error
                self.reporter.note(f"baseline {name} failed: {error}")
                continue
            changes = {"kind": "baseline", "label": name, "finished_at": now()}
            evaluation = outcome.evaluation.model_copy(update=changes)
            found[name] = self.store.add_baseline(type(outcome)(evaluation, outcome.file))
            self.reporter.judged(found[name], 0.0, None)
        return found

    def _step(self) -> bool:
        """Judge one proposal; return whether it had to be evaluated."""
        started = time.monotonic()
        trial = self.store.ask()
        recipe = self.plan.space.sample(trial, self.evaluator.anatomy.outline)
        if not self.store.begin(trial):
            return self._refuse(trial.number, recipe, "failed", "the process died each time this was evaluated", None)
        self.reporter.status(f"trial {trial.number}: {recipe.summary()}")
        try:
            forecast = self.evaluator.forecast(recipe)
            if reason := self.plan.rejected(forecast, self.constraints):
                return self._refuse(trial.number, recipe, "rejected", reason, forecast)
            if twin := self.known.get(forecast.key):
                return self._repeat(trial.number, recipe, twin, forecast)
            outcomes = self.evaluator.evaluate(recipe)
        except CandidateError as error:
            self._refuse(trial.number, recipe, "failed", str(error), None)
            self.n_evaluated += 1
            self.store.add_elapsed(time.monotonic() - started)
            return True
        stamped = [type(o)(o.evaluation.model_copy(update={"finished_at": now()}), o.file) for o in outcomes]
        evaluations = self.store.keep(trial.number, stamped, self.constraints)
        self.store.add_elapsed(time.monotonic() - started)
        self.n_evaluated += 1
        self.known[forecast.key] = evaluations[0]
        self._tell_reporter(evaluations)
        return True

    def _refuse(self, number: int, recipe: Recipe, state: str, reason: str, forecast: Forecast | None) -> bool:
        evaluation = Evaluation.model_validate(
            {
                "trial": number,
                "recipe": recipe,
                "recipe_digest": recipe.digest(),
                "label": recipe.summary(),
                "state": state,
                "reason": reason,
                "predicted_latency_ms": forecast.best_case_ms if forecast else None,
                "size_bytes": forecast.size_bytes if forecast else None,
                "notes": forecast.notes if forecast else (),
                "finished_at": now(),
            }
        )
        self.store.refuse(evaluation, self.constraints)
        self._tell_reporter([evaluation])
        return False

    def _repeat(self, number: int, recipe: Recipe, twin: Evaluation, forecast: Forecast) -> bool:
        """Answer a recipe that gives the same file as an earlier one from the study."""
        reason = f"{REPEATED} {twin.trial}" + (f", which failed: {twin.reason}" if twin.reason else "")
        if twin.state == "failed":
            return self._refuse(number, recipe, "failed", reason, forecast)
        same = twin.model_copy(
            update={"trial": number, "recipe": recipe, "recipe_digest": recipe.digest(), "seconds": {}}
        )
        same = same.model_copy(update={"reason": reason, "derived_from": twin.trial, "finished_at": now()})
        self.store.refuse(same, self.constraints)
        return False

    def _remember(self, evaluation: Evaluation) -> None:
        if evaluation.state == "rejected":
            return
        try:
            recipe = evaluation.recipe
            kept = tuple(s for s in recipe.stages if s.technique != "exit_threshold")
            self.known.setdefault(self.evaluator.forecast(Recipe(stages=kept)).key, evaluation)
        except CandidateError:
            return

    def _tell_reporter(self, evaluations: Sequence[Evaluation]) -> None:
        share = self._used()
        seconds = self.store.elapsed_s()
        eta = seconds * (1 - share) / share if share > 0 else None
        for evaluation in evaluations:
            self.reporter.judged(evaluation, share, eta)
