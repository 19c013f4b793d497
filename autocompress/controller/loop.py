"""The loop of a search: baselines, then proposals until the budget is used."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

from optuna.trial import Trial

from autocompress.compression.stage import Phase
from autocompress.controller.duration import trial_time
from autocompress.controller.elastic_start import ElasticAccuracy
from autocompress.controller.executors.base import Executor, Job, Reply
from autocompress.controller.executors.in_process import InProcess
from autocompress.controller.plan import Budget, Plan, now
from autocompress.controller.proposals import Proposals
from autocompress.controller.samplers import sampler_of
from autocompress.controller.store import Store
from autocompress.controller.untouched import UntouchedNetwork
from autocompress.controller.warm_start import WarmStart
from autocompress.errors import AutocompressError, CandidateError, StudyError
from autocompress.evaluation.evaluator import Forecast
from autocompress.known_costs import KnownCostSampler
from autocompress.recipes.domains import Value
from autocompress.recipes.recipe import Recipe
from autocompress.studies.constraints import Constraint
from autocompress.studies.reporter import Reporter
from autocompress.studies.results import REPEATED, Evaluation

_MAX_UNEVALUATED = 300
"""So many proposals in a row that were rejected or known already mean that there is nothing left to try; in a small
space it takes fewer."""
_FORMATS = 2
"""Other number formats that are tried of a network once it is trained."""
_ATTEMPTS = 3
"""How often a trial may kill its worker before it counts as failed."""
_MAX_FAILED = 20
"""So many failures in a row mean that the next one would fail too, such as data that are gone."""


@dataclass
class _Running:
    """A trial that is being evaluated."""

    recipe: Recipe
    forecast: Forecast
    source: int | None
    """The trial whose trained network this one shares; such a trial takes none of the budget of trials."""
    attempts: int = 1


class Loop:
    """Proposes, has evaluated and keeps, until the budget is used.

    Args:
        plan: space and constraints, with the evaluator of this process.
        store: of the study.
        budget: over all sessions.
        start: creates the executor; called only if there is something left to do.
        reporter: is told about the progress.
        earlier: a study to begin with, if there is one.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        budget: Budget,
        start: Callable[[], Executor],
        reporter: Reporter,
        earlier: WarmStart | None,
    ) -> None:
        self.plan = plan
        self.store = store
        self.budget = budget
        self.start = start
        self.reporter = reporter
        self.earlier = earlier
        self.evaluator = plan.evaluator
        self.constraints: tuple[Constraint, ...] = ()
        self.known: dict[str, Evaluation] = {}
        """Evaluated and failed candidates by the key of their forecast."""
        self.running: dict[int, _Running] = {}
        self.twins: dict[str, list[tuple[int, Recipe, Forecast]]] = {}
        """Proposals that give the same file as one that is running, by its key; they wait for its result."""
        self.known_costs: KnownCostSampler | None = None
        self.trained: deque[Evaluation] = deque()
        """Candidates whose networks are still to be tried in other number formats."""
        self.n_evaluated = 0
        self.n_failed = 0
        """In a row, up to now."""
        self.accounted = time.monotonic()

    def run(self) -> bool:
        """Search until the budget is used; return whether the study has grown."""
        before = len(self.store.trials)
        if base := self.store.baseline("fp32"):
            self.constraints = self.plan.resolve(base)
        self.store.recover(self.constraints)
        for note in self.store.notes:
            self.reporter.note(note)
        baselines = self._baselines()
        baseline = baselines["fp32"]
        self.constraints = self.plan.resolve(baseline)
        done = [e for e in self.store.evaluations() if e.kind == "candidate"]
        own = [e for e in done if e.state != "rejected" and e.derived_from is None and not e.is_repeat]
        self.n_evaluated = len(own)
        self.trained.extend([e for e in own if e.state == "complete"][-1:])
        if not done:
            self.plan.check_feasible(self.constraints)
            self._check_hours(baseline)
        for evaluation in done:
            if evaluation.state != "rejected" and (key := self.store.key(evaluation.trial)):
                self.known.setdefault(key, evaluation)
        self.accounted = time.monotonic()
        if self.earlier and self.evaluator.cache:
            self.earlier.copy_findings(self.evaluator.cache)
        self._try_untouched(UntouchedNetwork(self.evaluator, baselines))
        if self._used() < 1:
            self._choose_epochs()
            with closing(self.start()) as executor:
                self._choose(baseline, is_new=all(e.derived_from is not None for e in done))
                self._search(executor)
        return len(self.store.trials) > before

    def _check_hours(self, baseline: Evaluation) -> None:
        """Say before the first training that it will take longer than the whole budget."""
        if self.budget.hours is None:
            return
        with suppress(CandidateError):  # candidates will fail with the same reason
            if warning := trial_time(self.plan, baseline).exceeds(self.budget.hours):
                self.reporter.note(warning)

    def _try_untouched(self, network: UntouchedNetwork) -> None:
        """Judge the number formats of the original network, here and one after the other: they take no training."""
        executor = InProcess(self.evaluator)
        try:
            while self._may_propose():
                trial = self.store.take_up(network.source)
                if trial is None:
                    recipe = network.next(self.store.asked_for(network.source))
                    if recipe is None:
                        return
                    trial = self.store.ask_for(recipe, network.source, self.plan.setting_of(recipe))
                self._submit(trial, executor)
                for reply in executor.collect(math.inf):
                    self._take(reply, executor)
        except CandidateError as error:
            self.reporter.note(f"number formats of the untouched network: {error}")

    def _choose_epochs(self) -> None:
        """Find out what the space leaves open for each network, here and before candidates need it."""
        self.evaluator.findings.told = self.reporter.note
        with suppress(CandidateError):  # candidates will fail with the same reason
            for stage in self.plan.space.corner_stages(self.evaluator.analysis.outline):
                stage.settled(self.evaluator.findings)
        self._account()

    def _choose(self, baseline: Evaluation, is_new: bool) -> None:
        """Queue the warm starts and choose the sampler."""
        self.reporter.status("reading the costs of all recipes")
        settings, elastic = self.store.settings, self.evaluator.elastic
        proposals = Proposals(self.plan, self.constraints)
        if is_new:
            self.reporter.status("choosing the recipes to begin with")
            for values in self._taken_over(proposals) or proposals.warm_starts(settings.seed):
                self.store.enqueue(values)

        def ehvi() -> KnownCostSampler:
            features = ElasticAccuracy(self.plan, settings.seed) if elastic else None
            self.known_costs = proposals.sampler(baseline, settings.seed, features)
            return self.known_costs

        self.store.sampler_of = sampler_of(settings.sampler, settings.seed, ehvi)

    def _taken_over(self, proposals: Proposals) -> list[dict[str, Value]]:
        """The useful settings of the earlier study, with their weights."""
        if self.earlier is None:
            return []
        found = self.earlier.settings(self.plan, proposals)
        self.reporter.note(f"recipes taken over from {self.earlier.study.path}: {len(found)}")
        return found

    def _search(self, executor: Executor) -> None:
        """Keep the executor busy, and take what it gives back, until the budget is used and nothing runs any more."""
        in_vain, patience = 0, min(_MAX_UNEVALUATED, 20 + 10 * self.plan.space.size(self.evaluator.analysis.outline))
        while True:
            propose = self._may_propose() and in_vain < patience and executor.free() > 0
            if propose:
                in_vain = 0 if self._propose(executor) else in_vain + 1
            elif not self.running:
                break
            for reply in executor.collect(0.0 if propose else math.inf):
                self._take(reply, executor)
        if self.n_failed >= _MAX_FAILED:
            self.reporter.note(
                f"stopped before the budget was used: the last {self.n_failed} candidates failed, see their reasons; "
                "run the same command again to go on"
            )
        elif self._may_propose():
            self.reporter.note(
                f"stopped before the budget was used: {in_vain} proposals in a row were rejected or known already"
            )

    def _may_propose(self) -> bool:
        planned = self.n_evaluated + sum(trial.source is None for trial in self.running.values())
        within = self._used() < 1 and (self.budget.trials is None or planned < self.budget.trials)
        return within and self.n_failed < _MAX_FAILED

    def _used(self) -> float:
        return self.budget.used(self.n_evaluated, self.store.elapsed_s())

    def _account(self) -> None:
        """Note the time of search up to now; a clock that jumps does not matter."""
        now_s = time.monotonic()
        self.store.add_elapsed(now_s - self.accounted)
        self.accounted = now_s

    def _baselines(self) -> dict[str, Evaluation]:
        found = {e.label: e for e in self.store.evaluations() if e.kind == "baseline"}
        for name, recipe in self.evaluator.baselines().items():
            if name in found:
                continue
            self.reporter.status(f"baseline {name}")
            try:
                outcome = self.evaluator.evaluate(recipe)[0]
            except AutocompressError as error:
                if name == "fp32":
                    raise StudyError(f"the model itself cannot be deployed: {error}") from error
                self.reporter.note(f"baseline {name} failed: {error}")
                continue
            changes = {"kind": "baseline", "label": name, "finished_at": now()}
            found[name] = self.store.add_baseline(outcome.evolve(**changes))
            self.reporter.judged(found[name], 0.0, None)
        return found

    def _propose(self, executor: Executor) -> bool:
        """Ask for one proposal; return whether it has to be evaluated (or failed before it could be)."""
        return self._submit(self.store.take_up() or self._other_format() or self.store.ask(), executor)

    def _submit(self, trial: Trial, executor: Executor) -> bool:
        """Have a trial evaluated, unless its costs or an earlier one answer it; return as `_propose` does."""
        recipe = self.store.recipe(trial.number) or self.plan.space.sample(trial, self.evaluator.analysis.outline)
        if not self.store.begin(trial):
            self._fail(trial.number, recipe, "the process died each time this was evaluated", None)
            return True
        self.reporter.status(f"trial {trial.number}: {recipe.summary()}")
        try:
            forecast = self.evaluator.forecast(recipe)
        except AutocompressError as error:
            self._fail(trial.number, recipe, str(error), None)
            return True
        if reason := self.plan.rejected(forecast, self.constraints):
            self._refuse(trial.number, recipe, "rejected", reason, forecast)
            return False
        if twin := self.known.get(forecast.key):
            self._repeat(trial.number, recipe, twin, forecast)
            return False
        if any(running.forecast.key == forecast.key for running in self.running.values()):
            self.twins.setdefault(forecast.key, []).append((trial.number, recipe, forecast))
            return False
        self.running[trial.number] = _Running(recipe, forecast, self.store.derived_from(trial.number))
        executor.submit(Job(trial.number, recipe))
        return True

    def _other_format(self) -> Trial | None:
        """A network that was just trained in another number format, which takes no training; None after a few."""
        while self.trained and self.known_costs:
            trial = self._in_other_format(self.trained[0], self.known_costs)
            if trial is not None:
                return trial
            self.trained.popleft()
        return None

    def _in_other_format(self, done: Evaluation, sampler: KnownCostSampler) -> Trial | None:
        free = tuple(f"{s.technique}." for s in done.recipe.stages if s.phase is Phase.NUMERICS and not s.effort)
        if not free or self.store.n_derived(done.trial) >= _FORMATS or not self.evaluator.is_trained(done.recipe):
            return None
        return self.store.ask_derived(done.trial, sampler, lambda knob: knob.startswith(free))

    def _take(self, reply: Reply, executor: Executor) -> None:
        """Keep what an executor gives back, or have a candidate tried again whose worker died."""
        running = self.running[reply.trial]
        if reply.lost and running.attempts < _ATTEMPTS:
            running.attempts += 1
            self.reporter.note(f"trial {reply.trial}: {reply.failure}; it is tried again")
            executor.submit(Job(reply.trial, running.recipe))
            return
        del self.running[reply.trial]
        failure = reply.failure or _not_finite(reply)
        if failure:
            again = f"; tried {running.attempts} times" if reply.lost else ""
            evaluation = self._fail(reply.trial, running.recipe, failure + again, running.forecast)
        else:
            stamped = [o.evolve(finished_at=now(), derived_from=running.source) for o in reply.outcomes]
            self._account()
            kept = self.store.keep(reply.trial, stamped, self.constraints, running.forecast.key)
            evaluation = kept[0]
            self.n_failed = 0
            if running.source is None:
                self.n_evaluated += 1
                self.trained.append(evaluation)
            self._tell_reporter(kept)
        self.known[running.forecast.key] = evaluation
        for twin in self.twins.pop(running.forecast.key, []):
            number, recipe, forecast = twin
            self._repeat(number, recipe, evaluation, forecast)

    def _fail(self, number: int, recipe: Recipe, reason: str, forecast: Forecast | None) -> Evaluation:
        """Record a candidate that failed; it counts as evaluated, unless it shares the network of another one."""
        self._account()
        self.n_failed += 1
        self.n_evaluated += self.store.derived_from(number) is None
        return self._refuse(number, recipe, "failed", reason, forecast)

    def _refuse(self, number: int, recipe: Recipe, state: str, reason: str, forecast: Forecast | None) -> Evaluation:
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
                "peak_memory_bytes": forecast.cost.peak_memory_bytes if forecast else None,
                "active_power_mw": self.evaluator.device.active_power_mw,
                "notes": forecast.notes if forecast else (),
                "derived_from": self.store.derived_from(number),
                "finished_at": now(),
            }
        )
        self.store.refuse(evaluation, self.constraints, forecast.key if forecast else "")
        self._tell_reporter([evaluation])
        return evaluation

    def _repeat(self, number: int, recipe: Recipe, twin: Evaluation, forecast: Forecast) -> None:
        """Answer a recipe that gives the same file as an earlier one from the study."""
        reason = f"{REPEATED} {twin.trial}" + (f", which failed: {twin.reason}" if twin.reason else "")
        if twin.state == "failed":
            self._refuse(number, recipe, "failed", reason, forecast)
            return
        same = twin.model_copy(
            update={"trial": number, "recipe": recipe, "recipe_digest": recipe.digest(), "seconds": {}}
        )
        same = same.model_copy(update={"reason": reason, "derived_from": twin.trial, "finished_at": now()})
        self.store.refuse(same, self.constraints, forecast.key)

    def _tell_reporter(self, evaluations: Sequence[Evaluation]) -> None:
        share = self._used()
        seconds = self.store.elapsed_s()
        eta = seconds * (1 - share) / share if share > 0 else None
        for evaluation in evaluations:
            self.reporter.judged(evaluation, share, eta)


def _not_finite(reply: Reply) -> str:
    """Which objectives are NaN or infinite, or nothing."""
    for outcome in reply.outcomes:
        values = dict(zip(("accuracy", "latency_ms", "size_bytes"), outcome.evaluation.objectives(), strict=True))
        if broken := [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]:
            return f"not a finite number: {', '.join(broken)}"
    return ""
