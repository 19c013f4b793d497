"""Judges recipes: what they will cost before any training, and what the finished file does afterwards."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from autocompress.compression.analysis import NetworkAnalysis, analyze
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.catalogue import technique
from autocompress.compression.quantize import Quantize
from autocompress.compression.stage import Phase, Stage
from autocompress.compression.techniques import _usual as usual
from autocompress.compression.weights import load_weights, save_weights
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError, TaskError, failing_as
from autocompress.evaluation.deploy import Artifact, Cost, Deployer, Deployment
from autocompress.evaluation.elastic import Elastic
from autocompress.evaluation.findings import NetworkFindings
from autocompress.evaluation.inventory import FileLayer, inventory
from autocompress.evaluation.thresholds import sweep
from autocompress.graphs.nested_if import EXIT_INDEX
from autocompress.recipes.recipe import Recipe
from autocompress.runtimes.base import Model, Runtime, pieces
from autocompress.runtimes.workload import Workload
from autocompress.studies.results import Evaluation, ExitSummary, LayerSummary
from autocompress.tasks.interface import Arrays, joined, n_samples, take
from autocompress.tasks.metric import Score, Split
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import seed_everything

Array = NDArray[Any]
_OPTIMISM_SPLITS = 8
_CACHE_BYTES = 2 * 2**30
_KEPT_STRUCTURES = 4
_DOING = {"numerics": "writing the file", "evaluation": "running the file"}
"""What a candidate is said to have failed at, where the phase is not called so."""


@dataclass(frozen=True)
class Forecast:
    """What is known about a recipe before it is trained."""

    recipe: Recipe
    key: str
    """Recipes with equal keys give the same file: same untrained network, data, training and numerics."""
    cost: Cost
    size_bytes: int
    capacity: float
    """Mean logarithm of the share of channels that each group keeps, plus that of the share of layers that are left.

    0 is the original network."""
    notes: tuple[str, ...]

    @property
    def best_case_ms(self) -> float:
        """Predicted latency when every sample leaves at the first exit."""
        return self.cost.path_ms[0]

    @property
    def worst_case_ms(self) -> float:
        """Predicted latency when none leaves early."""
        return self.cost.path_ms[-1]


@dataclass(frozen=True)
class Outcome:
    """An evaluation whose trial number is not given yet, with its file."""

    evaluation: Evaluation
    file: bytes
    suffix: str = ".onnx"
    """Of the file's name."""
    workloads: tuple[Workload, ...] = ()
    """The kernel calls on each path through the file, in the order of `evaluation.workloads`."""
    sample_scores: Array | None = None
    """Of the validation split, shape (N,); None where the task has one figure for the whole split."""

    def evolve(self, **changes: Any) -> Outcome:
        """The same with other fields of the evaluation."""
        return replace(self, evaluation=self.evaluation.model_copy(update=changes))


@dataclass(frozen=True)
class _Setting:
    """A recipe that a trained network serves, with the thresholds of its exits."""

    recipe: Recipe
    thresholds: tuple[float, ...] = ()
    optimism: float = 0.0
    """See `Evaluation.threshold_optimism`."""


@dataclass
class Clock:
    """Wall seconds by phase, and the net below each: whatever is raised in it is a failure of the candidate."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time spent inside.

        Raises:
            CandidateError: anything was raised inside.
        """
        started = time.monotonic()
        try:
            with failing_as(CandidateError, _DOING.get(phase, phase)):
                yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started


class Evaluator:
    """Evaluates recipes for one task on one device.

    Deterministic in task, recipe, device and seed. Trained weights are kept under `cache` by the content of
    everything that leads to them, so that recipes which differ in number formats only are trained once.
    """

    def __init__(
        self,
        task: Task,
        device: DeviceProfile,
        *,
        seed: int = 0,
        cache: Path | None = None,
        progress: Callable[[str], None] = lambda message: None,
        analysis: NetworkAnalysis | None = None,
    ) -> None:
        self.task = task
        self.device = device
        with failing_as(TaskError, "looking at the network"):
            self.context = Context(task, analysis or analyze(task), seed, progress, layer_ms=self._layer_ms)
        self.deployer = Deployer(self.context, device)
        self.cache = cache
        self.findings = NetworkFindings(self.context, cache)
        """What settings that are left open become for this network."""
        self.elastic: Elastic | None = None
        """Shared weights that training starts from instead of the original's, where there are any."""
        self._structures: OrderedDict[str, Candidate] = OrderedDict()
        self._base: tuple[dict[str, FileLayer], Mapping[str, float]] | None = None

    @property
    def runtime(self) -> Runtime:
        """Executes the files here: the device's own, or what stands for it."""
        return self.deployer.runtime

    @property
    def analysis(self) -> NetworkAnalysis:
        """The parts of the task's network."""
        return self.context.analysis

    def settled(self, recipe: Recipe) -> Recipe:
        """The recipe with every setting that was left open as it is for this network.

        Raises:
            CandidateError: the network cannot be trained, which would have found it out.
        """
        return Recipe(stages=tuple(stage.settled(self.findings) for stage in recipe.stages))

    def structure(self, recipe: Recipe) -> Candidate:
        """Carry out the STRUCTURE stages.

        Raises:
            CandidateError: the recipe cannot be applied to this network.
        """
        key = recipe.digest(Phase.STRUCTURE)
        if key not in self._structures:
            candidate = Candidate(self.task.model)
            for stage in recipe.upto(Phase.STRUCTURE).stages:
                candidate = self._carry_out(stage, candidate)
            self._structures[key] = candidate
            while len(self._structures) > _KEPT_STRUCTURES:
                self._structures.popitem(last=False)
        return self._structures[key]

    def forecast(self, recipe: Recipe) -> Forecast:
        """Predict latency and size from the untrained graph; nothing is trained.

        Raises:
            CandidateError: the recipe cannot be applied to this network.
        """
        with failing_as(CandidateError, "predicting the costs"):
            return self._forecast(recipe)

    def _forecast(self, recipe: Recipe) -> Forecast:
        candidate = self._numerics(self.structure(recipe), recipe)
        deployment = self.deployer.build(candidate, final=False)
        thresholds = [0.5] * len(candidate.exits)
        size = len(self.deployer.finish(deployment, thresholds, recipe, self.provenance()).file)
        numerics = [s for s in recipe.stages if s.phase > Phase.TRAINING]
        key = _hash(self._trained_key(recipe), [s.model_dump(mode="json") for s in numerics])
        capacity = _capacity(candidate, self.analysis)
        return Forecast(recipe, key, self.deployer.cost(deployment), size, capacity, candidate.notes)

    def evaluate(self, recipe: Recipe) -> list[Outcome]:
        """Build, train and deploy a recipe; run the file on the validation split.

        With early exits and no stage that sets their thresholds these are swept and every useful setting is an
        outcome of its own; the first one is the most accurate.

        Raises:
            CandidateError: the recipe failed; the message says why.
        """
        clock = Clock()
        with clock("structure"):
            candidate = self.structure(recipe)
        with clock("training"):
            recipe = self.settled(recipe)
            candidate = self._train(candidate, recipe)
        with clock("numerics"):
            candidate = self._numerics(candidate, recipe)
            deployment = self.deployer.build(candidate)
            cost = self.deployer.cost(deployment)
        with clock("evaluation"):
            settings = self._settings(candidate, deployment, cost, recipe)
            scored = [self._run(candidate, deployment, cost, setting) for setting in settings]
            outcomes = [self._outcome(candidate, deployment, cost, *one) for one in scored]
        return [outcomes[0].evolve(seconds=clock.seconds), *outcomes[1:]]

    def is_trained(self, recipe: Recipe) -> bool:
        """Whether the recipe asks for training, and its weights are kept from another one."""
        if not any(stage.phase is Phase.TRAINING for stage in recipe.stages) or self.cache is None:
            return False
        return self._kept_weights(recipe, self.cache).exists()

    def score(self, file: bytes | Path, split: Split) -> Score:
        """The metric of a file, computed by running it in its runtime; raises what `judge` raises."""
        return self.judge(file, split)[0]

    def judge(
        self, file: bytes | Path, split: Split, watch: Callable[[Arrays], None] = lambda outputs: None
    ) -> tuple[Score, Array | None]:
        """The metric of a file and the score of each sample, as `Task.judge` gives them.

        The file is run in its runtime; `watch` sees the outputs of each batch.

        Raises:
            CandidateError: the file does not run, or the metric raised something.
        """
        predict = Predictor(self.runtime.load(file, threads=_all_threads()))

        def watched(inputs: Arrays) -> Arrays:
            outputs = predict(inputs)
            watch(outputs)
            return outputs

        with failing_as(CandidateError, f"scoring the file on the {split} split"):
            return self.task.judge(watched, split)

    def baselines(self) -> dict[str, Recipe]:
        """What every study is compared with."""
        return {name: Recipe(stages=stages) for name, stages in usual.baselines().items()}

    def _train(self, candidate: Candidate, recipe: Recipe) -> Candidate:
        stages = [s for s in recipe.stages if s.phase is Phase.TRAINING]
        if not stages:
            return candidate
        path = self._kept_weights(recipe, self.cache) if self.cache else None
        if path and (state := load_weights(path)) is not None:
            model = candidate.copy_model()
            model.load_state_dict(state)
            return candidate.evolve("training: found in the cache", model=model)
        seed_everything(self.context.seed)
        if self.elastic:
            candidate = self.elastic.start(candidate)
        for stage in stages:
            candidate = self._carry_out(stage, candidate)
        if path:
            _keep_state(path, candidate.model.state_dict())
        return candidate

    def _numerics(self, candidate: Candidate, recipe: Recipe) -> Candidate:
        for stage in recipe.stages:
            if stage.phase > Phase.TRAINING:
                candidate = self._carry_out(stage, candidate)
        return candidate

    def _carry_out(self, stage: Stage, candidate: Candidate) -> Candidate:
        if self.analysis.unchangeable and stage.needs_layers():
            raise CandidateError(f"{stage.technique} cannot be applied: {self.analysis.unchangeable}")
        with failing_as(CandidateError, f"the stage {stage.technique}"):
            return stage.apply(candidate, self.context)

    def _kept_weights(self, recipe: Recipe, cache: Path) -> Path:
        return cache / f"{self._trained_key(recipe)}.pt"

    def _trained_key(self, recipe: Recipe) -> str:
        """What trained weights come from: the untrained network, by its content, and how it is trained."""
        training = [s.model_dump(mode="json") for s in recipe.stages if s.phase is Phase.TRAINING]
        start = [self.elastic.key] if self.elastic else []
        return _hash(self.structure(recipe).fingerprint, self.context.origin, training, *start)

    def _settings(self, candidate: Candidate, deployment: Deployment, cost: Cost, recipe: Recipe) -> list[_Setting]:
        """The recipes that this trained network serves, with their thresholds."""
        if not candidate.exits:
            return [_Setting(recipe)]
        if candidate.thresholds:
            return [_Setting(recipe, candidate.thresholds)]
        found, optimism = self._sweep(deployment, cost)
        return [_Setting(recipe.replace(_threshold_stage(recipe, each)), each, optimism) for each in found]

    def _sweep(self, deployment: Deployment, cost: Cost) -> tuple[list[tuple[float, ...]], float]:
        """Thresholds worth having, from the stored logits of all exits, most accurate first; and `sweep_optimism`."""
        predict = Predictor(self.runtime.load(self.runtime.convert(deployment.proto), threads=_all_threads()))
        outputs, correct = [], []
        for inputs, targets in self.task.split("validation"):
            logits = [*predict(inputs).values()]
            outputs.append([self.task.traits.confidence(one) for one in logits[:-1]])
            correct.append([self.task.metric.scores(one, targets) for one in logits])
        confidence = np.concatenate([np.stack(o, 1) for o in outputs])
        scores = np.concatenate([np.stack(c, 1) for c in correct])
        return sweep(confidence, scores, cost.path_ms), sweep_optimism(confidence, scores, cost.path_ms)

    def _run(
        self,
        candidate: Candidate,
        deployment: Deployment,
        cost: Cost,
        setting: _Setting,
    ) -> tuple[_Setting, Artifact, Score, Array | None, tuple[ExitSummary, ...]]:
        recipe, thresholds = setting.recipe, setting.thresholds
        artifact = self.deployer.finish(deployment, thresholds, recipe, self.provenance())
        predict = Predictor(self.runtime.load(artifact.file, threads=1 if candidate.exits else _all_threads()))
        score, samples = self.task.judge(predict, "validation")
        if not candidate.exits:
            return setting, artifact, score, samples, ()
        taken = np.array(predict.exits)
        truth = np.concatenate([targets for _, targets in self.task.split("validation")])
        right = self.task.metric.scores(np.concatenate(predict.logits), truth)
        names = (*candidate.exits, "output")
        summaries = tuple(
            ExitSummary(
                place=name,
                threshold=thresholds[i] if i < len(thresholds) else 0.0,
                rate=float((taken == i).mean()),
                latency_ms=cost.path_ms[i],
                accuracy=float(right[taken == i].mean()) if (taken == i).any() else -1.0,
            )
            for i, name in enumerate(names)
        )
        return setting, artifact, score, samples, summaries

    def _outcome(
        self,
        candidate: Candidate,
        deployment: Deployment,
        cost: Cost,
        setting: _Setting,
        artifact: Artifact,
        score: Score,
        samples: Array | None,
        exits: tuple[ExitSummary, ...],
    ) -> Outcome:
        recipe, file = setting.recipe, artifact.file
        expected = sum(e.rate * e.latency_ms for e in exits) if exits else cost.path_ms[-1]
        notes = [*candidate.notes, *deployment.notes]
        if not cost.in_domain:
            notes.append(f"latency: the prediction is rough: {'; '.join(cost.doubts)}")
        layers = self._layers(artifact.graph, deployment.layers, cost)
        evaluation = Evaluation(
            trial=0,
            recipe=recipe,
            recipe_digest=recipe.digest(),
            label=_label(recipe, layers),
            state="complete",
            validation=score,
            predicted_latency_ms=expected,
            worst_case_latency_ms=cost.path_ms[-1] if exits else None,
            size_bytes=len(file),
            peak_memory_bytes=cost.peak_memory_bytes,
            active_power_mw=self.device.active_power_mw,
            workloads=tuple(w.fingerprint for w in cost.workloads),
            sha256=hashlib.sha256(file).hexdigest(),
            parity=deployment.parity,
            n_params=sum(p.numel() for p in candidate.model.parameters()),
            macs=cost.macs,
            layers=layers,
            exits=exits,
            threshold_optimism=setting.optimism,
            notes=tuple(notes),
        )
        return Outcome(evaluation, file, self.runtime.suffix, cost.workloads, samples)

    def _layers(self, graph: onnx.ModelProto, names: Mapping[str, str], cost: Cost) -> tuple[LayerSummary, ...]:
        """The layers of a file, beside those of the original network."""
        if self._base is None:
            base = self.deployer.build(Candidate(self.task.model), final=False)
            found = {layer.name: layer for layer in inventory(base.proto, self.runtime, base.layers)}
            self._base = found, self.deployer.cost(base).layer_ms
        before, before_ms = self._base
        after = {layer.name: layer for layer in inventory(graph, self.runtime, names)}
        summaries = []
        for name in dict.fromkeys([*before, *after]):
            old, new = before.get(name), after.get(name)
            summaries.append(
                LayerSummary(
                    name=name,
                    kind=(new or before[name]).kind,
                    channels_before=old.channels if old else 0,
                    channels_after=new.channels if new else 0,
                    weight_bits=new.weight_bits if new else 0,
                    activation_bits=new.activation_bits if new else 0,
                    weight_bytes=new.weight_bytes if new else 0,
                    macs=new.macs if new else 0,
                    latency_ms_before=before_ms.get(name, 0.0),
                    latency_ms=cost.layer_ms.get(name, 0.0),
                )
            )
        return tuple(summaries)

    def _layer_ms(self, candidate: Candidate) -> Mapping[str, float]:
        """See `Context.layer_ms`."""
        if 8 in self.device.weight_bits:
            candidate = candidate.evolve(quantization=usual.quantised())
        return self.deployer.cost(self.deployer.build(candidate, final=False)).layer_ms

    def provenance(self) -> dict[str, Any]:
        """Where a file comes from, for its metadata."""
        return {
            "task": self.task.name,
            "device": self.device.name,
            "seed": self.context.seed,
            "model_sha256": self.task.model_sha256,
            "data_sha256": self.task.data_sha256,
            "torch": torch.__version__,
        }


class Predictor:
    """Runs a file on batches; samples one by one where it takes no larger batch, and then notes their exits."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._has_exits = EXIT_INDEX in model.outputs
        self.exits: list[int] = []
        self.logits: list[Array] = []

    def __call__(self, inputs: Arrays) -> Arrays:
        """Inputs to outputs, both by name and each (N, ...)."""
        if self._has_exits:
            return self._one_by_one(inputs)
        outputs: Arrays = joined([self._model(piece) for piece in pieces(self._model, inputs)])
        return outputs

    def _one_by_one(self, inputs: Arrays) -> Arrays:
        found = [self._model(take(inputs, slice(i, i + 1))) for i in range(n_samples(inputs))]
        name = self._model.outputs[0]
        self.exits += [int(outputs[EXIT_INDEX]) for outputs in found]
        self.logits.append(np.concatenate([outputs[name] for outputs in found]))
        return {name: self.logits[-1]}


def sweep_optimism(confidence: Array, scores: Array, path_ms: Sequence[float]) -> float:
    """By how much the most accurate setting of `sweep` is expected to flatter, since it was chosen by these scores.

    Chosen on a random half of the samples and scored on the other; a difference between two halves is larger by the
    square root of two than that between this split and another one of its size. The faster settings flatter less.

    Args:
        confidence: as in `sweep`.
        scores: as in `sweep`.
        path_ms: as in `sweep`.
    """
    rng, n, gaps = np.random.default_rng(0), len(scores), []
    for _ in range(_OPTIMISM_SPLITS if n > 1 else 0):
        order = rng.permutation(n)
        for mine, others in ((order[: n // 2], order[n // 2 :]), (order[n // 2 :], order[: n // 2])):
            best = sweep(confidence[mine], scores[mine], path_ms)[0]
            gaps.append(
                _left_at(confidence[mine], scores[mine], best) - _left_at(confidence[others], scores[others], best)
            )
    return max(0.0, float(np.mean(gaps or [0.0])) / 2**0.5)


def _left_at(confidence: Array, scores: Array, thresholds: tuple[float, ...]) -> float:
    fires = np.column_stack([confidence > np.array(thresholds), np.ones(len(scores), bool)])
    return float(scores[np.arange(len(scores)), fires.argmax(1)].mean())


def _capacity(candidate: Candidate, analysis: NetworkAnalysis) -> float:
    """See `Forecast.capacity`."""
    lost = {name: len(candidate.removed.get(candidate.path_of(name), ())) for name in analysis.widths}
    channels = [math.log(1 - lost[name] / width) for name, width in analysis.widths.items()]
    return (float(np.mean(channels)) if channels else 0.0) + layers_left(candidate, analysis)


def layers_left(candidate: Candidate, analysis: NetworkAnalysis) -> float:
    """Logarithm of the share of the layers of the network that a candidate still has."""
    n_left = len(analysis.layers) - len(candidate.gone(analysis.layers))
    return math.log(max(1, n_left) / max(1, len(analysis.layers)))


def _threshold_stage(recipe: Recipe, thresholds: tuple[float, ...]) -> Stage:
    """The stage that sets the thresholds of a recipe's exits."""
    for stage in recipe.stages:
        if stage.thresholds_by:
            return technique(stage.thresholds_by).model_validate({"thresholds": thresholds})
    raise CandidateError("no stage of the recipe says what sets the thresholds of its exits (`Stage.thresholds_by`)")


def _label(recipe: Recipe, layers: Sequence[LayerSummary]) -> str:
    """The recipe in a few words, with what it asked for and the file has not."""
    asked = any(isinstance(stage, Quantize) and stage.asked_weight_bits[0] < 32 for stage in recipe.stages)
    nothing = asked and not any(0 < layer.weight_bits < 32 for layer in layers)
    return recipe.summary() + (" (nothing quantised)" if nothing else "")


def _all_threads() -> int:
    return max(1, torch.get_num_threads())


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


def _keep_state(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write weights with a checksum; the entries not used for longest make room. Other workers may do the same."""
    save_weights(path, state)
    entries = []
    for entry in path.parent.glob("*.pt"):
        with suppress(FileNotFoundError):  # another worker has made room
            entries.append((entry.stat().st_mtime, entry.stat().st_size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries)[:-1]:
        if total <= _CACHE_BYTES:
            break
        total -= size
        entry.unlink(missing_ok=True)
