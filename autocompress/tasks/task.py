"""The user's side of a search: a trained model, its data, its loss and its metric."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import CandidateError, TaskError, failing_as
from autocompress.tasks.batches import Draw, Reservoir, cut_short, draw, length, look_at, read_batches
from autocompress.tasks.identity import code_of
from autocompress.tasks.interface import (
    Arrays,
    OutputStructure,
    Shape,
    Tensors,
    alike,
    arrays,
    each,
    fits,
    flat,
    free_axes,
    inputs_by_name,
    joined,
    leaves,
    shape_text,
    take,
    tensors,
)
from autocompress.tasks.interface import n_samples as n_of
from autocompress.tasks.kind import TaskKind
from autocompress.tasks.kind import get as kind_of
from autocompress.tasks.metric import ACCURACY, Metric, Score, Split
from autocompress.tasks.normalize import normalize, unwrapped
from autocompress.tasks.survey import Survey
from autocompress.tasks.torch_utils import evaluating, outputs_of, tables_of

Array = NDArray[Any]
Predict = Callable[[Arrays], Arrays]
"""Inputs of one batch to outputs, both by name and each (N, ...), by the runtime that will run the file."""
Loss = Callable[[Any, Any], Tensor]

_MAX_SEEN = 4096
"""Maximum number of inputs of `evaluate` kept for calibration."""
_PARITY_SAMPLES = 256
_PROBED = 32
_ANSWERS = 512
"""Samples that tell whether a metric is upside down, and other mistakes; with large outputs fewer."""
_MOST_ANSWERED = 2**26
"""Numbers in the outputs of these samples."""
_SPLITS = ("train", "calibration", "validation", "test")

_NOTES: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()
"""What was done to the networks of tasks, so that a task made from another one still tells it."""


@dataclass(frozen=True)
class Task:
    """A trained model with what is needed to compress and to judge it.

    Args:
        model: the trained network. It is never changed. A wrapped, half-precision or parametrised one is replaced by a
            plain float32 copy (see `tasks.normalize`), which `notes` tell.
        example_input: one batch of inputs: a tensor of shape (N, ...), or a tuple or mapping of such tensors for a
            network with several; only their shapes and types matter.
        train, val, test: anything that can be iterated over again and again and yields (inputs, targets)
            batches, such as a DataLoader, or a Dataset of single samples. Several inputs are a tuple or a mapping, or
            the whole batch is a mapping with the targets under names of their own. `val` selects, `test` is read once,
            at the end. Without `train` nothing is trained.
        loss: of what the network returns and the targets, for training; that of the kind by default.
        metric: what `accuracy` means for this task, or the name of one that the kind has; its first one by default.
        kind: of task, by name ("classification", "regression", "generic", ...), or a `TaskKind` of your own.
        evaluate: instead of `metric` and `val`: a function that gets a `predict` and returns the metric.
        evaluate_test: the same on the test data.
        teacher: the network to distil from; the model itself by default.
        train_device: where candidates are fine-tuned, such as "cuda". Quantisation-aware and elastic training, and
            everything that is judged, stay on the CPU.
        autocast: computation type in training, such as torch.bfloat16 on a CPU that has it.
        channels_last: memory format in training, which is 20 to 25 % faster for convolutions on CPUs.
        classes: names of the classes of a classification, in the order of the outputs, for those who run the file.
        preprocessing: how an input is prepared, in words ("RGB / 255, minus 0.5"), for those who run the file.
        calibration: without `train`, data like it that ranges of activations are observed on, instead of `val`.
        free_axes: axes of the inputs besides the first along which samples may have any size, such as (1,) for texts
            (N, L) that each batch pads to its longest: of all inputs, or by input. The file is then free there, too,
            and its latency is told for the size of `example_input`.
    """

    model: nn.Module
    example_input: Any
    train: Any = None
    val: Any = None
    test: Any = None
    loss: Loss = None  # type: ignore[assignment]  # set below
    metric: Metric = None  # type: ignore[assignment]
    kind: str | TaskKind = "classification"
    evaluate: Callable[[Predict], float] | None = None
    evaluate_test: Callable[[Predict], float] | None = None
    teacher: nn.Module | None = None
    name: str = "task"
    train_device: str = "cpu"
    autocast: torch.dtype | None = None
    channels_last: bool = False
    classes: Sequence[str] = ()
    preprocessing: str = ""
    calibration: Any = None
    free_axes: Sequence[int] | Mapping[str, Sequence[int]] = ()
    batch_size: int = 64
    """Used where a split is a Dataset of single samples."""
    inputs: Tensors = field(default_factory=dict, init=False, repr=False, compare=False)
    """`example_input` by name."""
    _memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(f"model must be a torch.nn.Module, got {type(self.model).__name__}")
        tensors = (*self.model.parameters(), *self.model.buffers())
        if elsewhere := next((t.device for t in tensors if t.device.type != "cpu"), None):
            raise TaskError(f"model must be on the CPU, got {elsewhere}: give model.cpu(); see train_device")
        object.__setattr__(self, "inputs", inputs_by_name(self.example_input, unwrapped(self.model)))
        self.free  # noqa: B018  # there are such axes
        if self.val is None and self.evaluate is None:
            raise TaskError("a task needs validation data: give val=..., or evaluate=a function of predict")
        if self.evaluate is None and (self.metric or self.traits.metric) is None:
            raise TaskError(f"a {self.traits.title} needs its own metric=Metric(name, per_sample), or evaluate=...")
        if self.evaluate is None and self.evaluate_test is not None:
            raise TaskError("evaluate_test goes with evaluate: one metric must judge validation and test data")
        if self.evaluate is not None and self.evaluate_test is None and self.test is not None:
            raise TaskError("with evaluate=... give evaluate_test=... instead of test=...: one metric must judge both")
        object.__setattr__(self, "loss", self.traits.loss() if self.loss is None else self.loss)
        metric = self.traits.named_metric(self.metric) if isinstance(self.metric, str) else self.metric
        object.__setattr__(self, "metric", metric or self.traits.metric or ACCURACY)
        self._normalize()

    @cached_property
    def free(self) -> dict[str, tuple[int, ...]]:
        """`free_axes` of each input."""
        return free_axes(self.free_axes, self.inputs)

    @cached_property
    def sample_shapes(self) -> dict[str, Shape]:
        """Shape of one sample of each input."""
        return {
            name: tuple(None if k in self.free[name] else size for k, size in enumerate(tensor.shape) if k)
            for name, tensor in self.inputs.items()
        }

    @cached_property
    def traits(self) -> TaskKind:
        """What is particular to this kind of task.

        Raises:
            TaskError: there is no kind of that name.
        """
        return kind_of(self.kind).of(self)

    def _normalize(self) -> None:
        """Put plain networks in the place of the given ones."""
        model = self._normalized("model", self.model)
        if self.teacher is self.model:
            object.__setattr__(self, "teacher", model)
        elif self.teacher is not None and not isinstance(self.teacher, torch.jit.ScriptModule):  # it has only to run
            object.__setattr__(self, "teacher", self._normalized("teacher", self.teacher))
        object.__setattr__(self, "model", model)

    def _normalized(self, which: str, given: nn.Module) -> nn.Module:
        found = normalize(given, self.inputs, f"the {which}", trains=which == "model")
        if not found.notes:  # the networks of a copy of a task are plain already
            found = replace(found, notes=_NOTES.get(given, ()))
        _NOTES[found.model] = found.notes
        self._memo[which] = found
        return found.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the given networks to make them plain, and what `validate` found in the data."""
        kept = (self._memo.get(key) for key in ("model", "teacher", *(f"survey.{split}" for split in _SPLITS)))
        return (*(note for one in kept if one is not None for note in one.notes), *self._memo.get("doubts", ()))

    @classmethod
    def classification(cls, model: nn.Module, **settings: Any) -> Task:
        """Cross-entropy and top-1 accuracy; targets are class indices (N,)."""
        return cls(model=model, **settings)

    @classmethod
    def regression(cls, model: nn.Module, **settings: Any) -> Task:
        """Numbers, forecasts among them: outputs and targets of one shape (N, ...)."""
        return cls(model=model, kind="regression", **settings)

    @classmethod
    def image_to_image(cls, model: nn.Module, **settings: Any) -> Task:
        """Super-resolution, denoising and the like: outputs and targets are images (N, channels, height, width)."""
        return cls(model=model, kind="image_to_image", **settings)

    @classmethod
    def segmentation(cls, model: nn.Module, **settings: Any) -> Task:
        """Logits of each pixel (N, classes, H, W); targets are class indices (N, H, W), 255 where there is none."""
        return cls(model=model, kind="segmentation", **settings)

    @classmethod
    def detection(cls, model: nn.Module, *, decode: str | Callable[[Any], Any] = "yolo", **settings: Any) -> Task:
        """Boxes, judged by COCO's mAP; targets are a list with a mapping per image, "boxes" (K, 4) and "labels" (K,).

        Args:
            model: returns all boxes with scores, or those after non-maximum suppression.
            decode: how its outputs are read: the name of a head or a function of the outputs.
            settings: those of a task, and of `tasks.kinds.detection.Detection`: strides, min_score, iou, most, size.
        """
        own = {name: settings.pop(name) for name in ("strides", "min_score", "iou", "most", "size") if name in settings}
        return cls(model=model, kind=kind_of("detection", decode=decode, **own), **settings)

    @classmethod
    def embedding(cls, model: nn.Module, **settings: Any) -> Task:
        """Retrieval and verification: outputs are vectors (N, dimensions); targets are labels (N,)."""
        return cls(model=model, kind="embedding", **settings)

    @classmethod
    def ctc(cls, model: nn.Module, *, blank: int = 0, separator: int | None = None, **settings: Any) -> Task:
        """Speech recognition: logits (N, frames, classes), targets (N, labels) filled up at the end, or a list.

        Args:
            model: the recogniser.
            blank: index of the class that stands for no label.
            separator: index of the class between words, for the word error rate.
            settings: those of a task.
        """
        return cls(model=model, kind=kind_of("ctc", blank=blank, separator=separator), **settings)

    @classmethod
    def keypoints(cls, model: nn.Module, *, within: float = 0.05, **settings: Any) -> Task:
        """Points (N, K, 2) or heat maps (N, K, h, w), judged by PCK; targets are points in pixels, NaN where unseen.

        Args:
            model: returns them.
            within: how near a point must be, relative to the larger side of the image.
            settings: those of a task.
        """
        return cls(model=model, kind=kind_of("keypoints", within=within), **settings)

    @classmethod
    def token_classification(cls, model: nn.Module, **settings: Any) -> Task:
        """Logits of each token (N, L, classes); targets are class indices (N, L), -100 where there is none."""
        return cls(model=model, kind="token_classification", **settings)

    @property
    def trainable(self) -> bool:
        """Whether there is training data."""
        return self.train is not None

    @property
    def figure(self) -> str:
        """What the figure that files are judged by is called."""
        return self.metric.title if self.evaluate is None else "evaluate"

    @property
    def outputs(self) -> OutputStructure:
        """How the network arranges its outputs.

        Raises:
            TaskError: it does not run on the example input.
        """
        found: OutputStructure | None = self._memo["model"].outputs
        if found is None:
            self._run("the model", self.model, self._example_name, self.inputs)  # says what it raises
            raise TaskError(f"the model does not run on {self._example_name}")
        return found

    @property
    def _example_name(self) -> str:
        shapes = [tuple(tensor.shape) for tensor in self.inputs.values()]
        return f"example_input {' and '.join(map(str, shapes))}"

    def own(self, outputs: Sequence[Any]) -> Any:
        """Tensors or arrays in the structure that the user's network returns."""
        if self.traits.lone_output and len(outputs) == 1:
            return outputs[0]
        return self.outputs.pack(dict(zip(self.outputs.names, outputs, strict=True)))

    def damage(self, outputs: Sequence[Sequence[Array]], reference: Sequence[Sequence[Array]]) -> float:
        """`TaskKind.damage` of some batches, each a list of outputs, from 0 to 1e9, which also stands for no number.

        Of batches whose samples differ in shape it is the mean over samples.
        """
        alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}
        for i, arrays_ in enumerate(reference):
            alike.setdefault(tuple(array.shape[1:] for array in arrays_), []).append(i)
        total = n = 0.0
        for batches in alike.values():
            ours, theirs = (
                [np.concatenate(each).astype(np.float64) for each in zip(*(side[i] for i in batches), strict=True)]
                for side in (outputs, reference)
            )
            total += len(ours[0]) * self.traits.damage(self.own(ours), self.own(theirs))
            n += len(ours[0])
        return float(np.nan_to_num(max(0.0, total / n), nan=1e9, posinf=1e9))

    def answers(self, output: object) -> list[Any]:
        """What each exit of a network, or each of several networks, returned, in the structure of the user's own.

        Args:
            output: their tensors, as many of each as the user's network returns, whatever these are in.
        """
        found, n = [*flat(output).values()], len(self.outputs.names)
        return [self.own(found[i : i + n]) for i in range(0, len(found), n)]

    def train_batches(self) -> Iterator[tuple[dict[str, Tensor], Any]]:
        """One epoch of training batches, labels checked."""
        for inputs, targets in read_batches(
            self.train, self.batch_size, shuffle=True, split="train", names=tuple(self.inputs)
        ):
            self._check_values(inputs, targets, "train")
            yield self._typed(inputs), targets

    def _check_values(self, inputs: Tensors, targets: Any, split: str) -> None:
        """Refuse targets that the kind does not know, and ids that a table of the network does not have."""
        self.traits.check_targets(targets, self, split)
        for name, (table, rows) in self._tables.items():
            low, high = (int(found) for found in inputs[name].aminmax()) if inputs[name].numel() else (0, 0)
            if low < 0 or high >= rows:
                raise TaskError(
                    f"{split} data: {name!r} must be from 0 to {rows - 1} (the embedding {table!r} has {rows} rows), "
                    f"got {low if low < 0 else high}"
                )

    @cached_property
    def _tables(self) -> dict[str, tuple[str, int]]:
        """Of each input that goes into an embedding as it is, the name of this and how many rows it has."""
        self.outputs  # noqa: B018  # the model runs
        return tables_of(self.model, self.inputs)

    def _typed(self, inputs: Tensors) -> dict[str, Tensor]:
        """Inputs in the types of the example."""
        return {name: each(t, partial(Tensor.to, dtype=self.inputs[name].dtype)) for name, t in inputs.items()}

    def calibration_batches(self, n_samples: int, seed: int) -> list[Arrays]:
        """Inputs for the observers of a PTQ, drawn over all of the training data, else the validation data.

        With neither they are drawn from what `evaluate` asks predictions for. They have the size of the data's own
        batches.
        """
        drawn, size = self._drawn(n_samples + _PARITY_SAMPLES, seed)
        aside = _aside(n_of(drawn))
        return _in_batches(take(drawn, slice(aside, aside + n_samples)), size)

    def parity_batches(self, seed: int) -> list[Arrays]:
        """Other inputs of the same data than any `calibration_batches` has: 256, of little data a quarter.

        A single sample serves for both.
        """
        drawn, size = self._drawn(2 * _PARITY_SAMPLES, seed)
        return _in_batches(take(drawn, slice(_aside(n_of(drawn)) or 1)), size)

    def probe(self, seed: int) -> Tensors:
        """Two samples of one shape, with free axes the largest of some; the same twice where no other is like it."""
        batches = alike(joined(self.calibration_batches(_PROBED if any(self.free.values()) else 2, seed)))
        largest: Arrays = max(batches, key=lambda batch: sum(array[0].size for array in batch.values()))
        found: Tensors = tensors(take(largest, [0, n_of(largest) - 1]))
        return found

    def sample(self, seed: int) -> Arrays:
        """One real input, since noise is no word of a vocabulary; repeated along free axes to the example's size."""
        found = take(self.calibration_batches(1, seed)[0], slice(1))
        for name, axes in self.free.items():
            for k in axes:
                places = np.arange(self.inputs[name].shape[k]) % found[name].shape[k]
                found[name] = found[name].take(places, k)
        return found  # type: ignore[no-any-return]

    def _drawn(self, n_samples: int, seed: int) -> tuple[Arrays, int]:
        """So many inputs or more in random order, all that there are where these are fewer, and the size of a batch."""
        key = f"drawn.{seed}"
        n_samples = max(n_samples, 4 * _PARITY_SAMPLES)  # below that, a quarter of them would depend on the number
        if n_samples > self._memo.get(f"{key}.n", 0):
            split = "train" if self.trainable else "validation" if self.calibration is None else "calibration"
            source = self._source(split)
            if source is None:
                inputs, size = self._evaluated(), self.batch_size
                order = np.random.default_rng(seed).permutation(n_of(inputs))
                self._memo[key] = take(inputs, order), size
            else:
                found = draw(source, self.batch_size, n_samples, seed, split, tuple(self.inputs))
                self._memo[key] = arrays(self._typed(found.inputs)), found.batch_size
            self._memo[f"{key}.n"] = n_samples
        inputs, size = self._memo[key]
        return inputs, size

    def _evaluated(self) -> Arrays:
        """Inputs drawn over all that `evaluate` asks predictions for."""
        if "evaluated" not in self._memo:
            seen = Reservoir(_MAX_SEEN, np.random.default_rng(0))

            def predict(inputs: Arrays) -> Arrays:
                given = tensors(inputs)
                seen.add(given, torch.zeros(n_of(given)))
                return self._outputs(given)

            self.score(predict, "validation")
            if not seen.n_seen:
                raise TaskError("evaluate never called predict; it must judge the model by its predictions")
            self._memo["evaluated"] = arrays(seen.drawn().inputs)
        inputs: Arrays = self._memo["evaluated"]
        return inputs

    def _outputs(self, inputs: Tensors) -> Arrays:
        return dict(zip(self.outputs.names, arrays(outputs_of(self.model, inputs)), strict=True))

    def split(self, split: Split) -> list[tuple[Arrays, Any]]:
        """All batches of a split as arrays, inputs by name, read once and kept."""
        if split not in self._memo:
            source = self.val if split == "validation" else self.test
            batches = []
            for inputs, targets in read_batches(
                source, self.batch_size, shuffle=False, split=split, names=tuple(self.inputs)
            ):
                self._check_values(inputs, targets, split)
                batches.append((arrays(self._typed(inputs)), arrays(targets)))
            self._memo[split] = batches
        return list(self._memo[split])

    def has(self, split: Split) -> bool:
        """Whether the split can be scored."""
        if split == "validation":
            return True
        return self.test is not None or self.evaluate_test is not None

    def score(self, predict: Predict, split: Split) -> Score:
        """Run `predict` over a split and return the metric with its interval; raises what `judge` raises."""
        return self.judge(predict, split)[0]

    def judge(self, predict: Predict, split: Split) -> tuple[Score, Array | None]:
        """Run `predict` over a split; return the metric, and the score of each sample, shape (N,).

        A task with `evaluate` has one figure for the whole split and no scores of samples: None.

        Raises:
            CandidateError: these predictions cannot be scored; others were, when the task was validated.
        """
        function = self.evaluate if split == "validation" else self.evaluate_test
        if function is not None:
            name = "evaluate" if split == "validation" else "evaluate_test"
            with failing_as(CandidateError, name):
                value = float(function(partial(self._predicted, predict)))
            if not np.isfinite(value):
                raise CandidateError(f"{name} must return a finite number, got {value}")
            return Score(value=value, low=value, high=value, n_samples=0, split=split), None
        scores, kept = [], []
        for inputs, targets in self.split(split):
            outputs = predict(inputs)
            if any(np.isnan(array).any() for array in outputs.values()):  # infinity may be meant: a class ruled out
                raise CandidateError("the outputs of the file are not numbers (NaN)")
            if self.metric.per_sample is None:
                with failing_as(CandidateError, f"{split} data: the metric {self.metric.name}"):
                    kept.append(self.metric.kept(self.own([*outputs.values()]), targets))
                continue
            try:
                scores.append(self._per_sample(self.own([*outputs.values()]), targets, split))
            except TaskError as error:
                raise CandidateError(str(error)) from error
        if kept:
            return self._over_split(joined(kept), split), None
        samples = np.concatenate(scores)
        return self.metric.score(samples, split), samples

    def _over_split(self, kept: Any, split: Split) -> Score:
        with failing_as(CandidateError, f"{split} data: the metric {self.metric.name}"):
            score = self.metric.split_score(kept, split)
        if not np.isfinite(score.value):
            raise CandidateError(f"{split} data: the metric {self.metric.name} must be finite, got {score.value}")
        return score

    def _predicted(self, predict: Predict, given: Any) -> Any:
        """What `evaluate` calls: the network's own structures of arrays in and out."""
        batch = given if isinstance(given, (Mapping, tuple, list)) else (given,)
        named = batch if isinstance(batch, Mapping) else dict(zip(self.inputs, batch, strict=True))
        inputs = {n: torch.as_tensor(np.array(named[n])).to(t.dtype).numpy() for n, t in self.inputs.items()}
        return self.own([*predict(inputs).values()])

    @cached_property
    def n_outputs(self) -> int:
        """How many classes or numbers the model's output has: the size of one of its dimensions."""
        return self.traits.n_outputs(self)

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the first output for the example input.

        Raises:
            TaskError: the model does not run on it, or returns no tensor.
        """
        return self.output_shapes[0]

    @cached_property
    def output_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the outputs for the example input; raises what `output_shape` raises."""
        return tuple(tuple(t.shape) for t in self._run("the model", self.model, self._example_name, self.inputs))

    @failing_as(TaskError, "checking the task")
    def validate(self) -> None:
        """Check model, data and labels before any work is done.

        Raises:
            TaskError: the first thing that is wrong.
        """
        self.output_shapes  # noqa: B018  # the model runs
        self.traits.check(self)
        if self.classes and len(self.classes) != self.n_outputs:
            raise TaskError(f"classes must name the model's {self.n_outputs} outputs, got {len(self.classes)} names")
        with failing_as(TaskError, f"train_device {self.train_device!r} cannot be used: torch"):
            torch.empty(0, device=self.train_device)
        if self.trainable:
            inputs, targets = next(self.train_batches())
            self._check_shape(inputs, "train")
            self._check_loss(inputs, targets)
            self._check_teacher(inputs)
            self._survey("train")
        elif self.calibration is not None:
            self._survey("calibration")
        splits: tuple[Split, ...] = ("validation", "test")
        for split, source in zip(splits, (self.val, self.test), strict=True):
            if source is None:
                continue
            first, targets = self.split(split)[0]
            self._check_shape(first, split)
            if (self.evaluate if split == "validation" else self.evaluate_test) is None and self.metric.per_sample:
                two, targets = take((first, targets), slice(2))
                self._per_sample(self.own([*self._outputs(tensors(two)).values()]), targets, split)
            self._survey(split)
        if self.evaluate is None:
            outputs, targets = self._some_answers()
            self._memo["doubts"] = self.traits.doubts(self.own([*outputs.values()]), targets)
            self._check_direction(outputs, targets)

    def _some_answers(self) -> tuple[Arrays, Any]:
        """Outputs and targets of validation samples, in batches from all over the split: data may come by class."""
        batches, n, size = self.split("validation"), 0, 0
        answered = []
        for i in np.random.default_rng(0).permutation(len(batches)):
            inputs, targets = batches[i]
            answered.append((self._outputs(tensors(inputs)), targets))
            n, size = n + n_of(targets), size + sum(array.size for array in answered[-1][0].values())
            if n >= _ANSWERS or size >= _MOST_ANSWERED:
                break
        return joined(answered)  # type: ignore[no-any-return]

    def _check_direction(self, outputs: Arrays, targets: Any) -> None:
        """Refuse a metric that prefers outputs given to other samples: it is upside down, or the labels are others.

        Raises:
            TaskError: their 95 % intervals lie apart, whichever way the outputs are shuffled.
        """
        if any(isinstance(side, list) for side in (*outputs.values(), targets)):
            return  # of texts of other lengths, outputs do not fit each other's targets
        rng, n = np.random.default_rng(0), n_of(targets)
        mine, *others = (
            self._judged(take(outputs, rows), targets)
            for rows in [np.arange(n), *(rng.permutation(n) for _ in range(3))]
        )
        if all(mine.high < other.low for other in others):
            best = max(other.value for other in others)
            raise TaskError(
                f"validation data: the {self.metric.title} of the network is {mine.value:.4g}, and {best:.4g} with its "
                "outputs given to other samples: higher must be better; give Metric(..., lower_is_better=True) if it "
                "measures an error, else look for labels that are not those of the network"
            )

    def _judged(self, outputs: Arrays, targets: Any) -> Score:
        own = self.own([*outputs.values()])
        if self.metric.per_sample is None:
            return replace(self.metric, resamples=40).split_score(self.metric.kept(own, targets), "validation")
        return self.metric.score(self._per_sample(own, targets, "validation"), "validation")

    def _survey(self, split: str) -> Survey:
        """Look at all samples of a split, of large training data at a fixed choice of them (see `batches.look_at`)."""
        if f"survey.{split}" not in self._memo:
            source = self._source(split)
            batches = self._look_at(split) if split in ("train", "calibration") else self._as_draws(split)
            survey = Survey(
                split, self._labels_checked(batches, split), self.sample_shapes, partial(self._means_missing, split)
            )
            if split in ("train", "calibration") and (
                cut := cut_short(source, self.batch_size, survey.n_samples, survey.n_values)
            ):
                survey.notes += (f"{split} data: {cut} were checked, and tell whether the data are the same",)
            self._memo[f"survey.{split}"] = survey
        found: Survey = self._memo[f"survey.{split}"]
        return found

    def _look_at(self, split: str) -> Iterator[Draw]:
        return look_at(self._source(split), self.batch_size, 0, split, tuple(self.inputs))

    def _source(self, split: str) -> Any:
        sources = {"train": self.train, "calibration": self.calibration, "validation": self.val, "test": self.test}
        return sources[split]

    def _as_draws(self, split: Any) -> Iterator[Draw]:
        start = 0
        for inputs, targets in self.split(split):
            n = n_of(inputs)
            yield Draw(tensors(inputs), tensors(targets), np.arange(start, start + n), n)
            start += n

    def _labels_checked(self, batches: Iterable[Draw], split: str) -> Iterator[Draw]:
        for batch in batches:
            self._check_values(batch.inputs, batch.targets, split)
            yield batch

    def _means_missing(self, split: str, inputs: Tensors, targets: Any) -> bool:
        """Whether loss (in training) or metric are finite on targets that are not: they mark missing labels."""
        outputs = outputs_of(self.model, self._typed(inputs))
        if split == "calibration":
            return True  # nobody reads its targets
        if split == "train":
            return bool(torch.isfinite(self.loss(self.own(outputs), each(targets, torch.clone))).all())
        if (self.evaluate if split == "validation" else self.evaluate_test) is not None:
            return True  # nothing of ours reads these targets
        if self.metric.per_sample is None:
            return bool(np.isfinite(self.metric.figure(self.metric.kept(self.own(arrays(outputs)), arrays(targets)))))
        try:
            self._per_sample(self.own(arrays(outputs)), arrays(targets), split)
        except TaskError:
            return False
        return True

    @cached_property
    def model_sha256(self) -> str:
        """Hash of the model's class names, parameters and buffers."""
        return _hash_of(self.model)

    @cached_property
    def training_sha256(self) -> str:
        """Hash of what else trained weights come from: teacher, loss, batch size, formats."""
        facts = [
            _loss_facts(self.loss),
            self.batch_size,
            self.autocast,
            self.channels_last,
            None if self.teacher is None else _hash_of(self.teacher),
        ]
        return hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()

    @cached_property
    def data_sha256(self) -> str:
        """Hash of the validation and test data and of the size of the training data."""
        digest = hashlib.sha256()
        for split, source in (("validation", self.val), ("test", self.test)):
            for batch in self.split(split) if source is not None else ():  # type: ignore[arg-type]
                for array in leaves(batch):
                    digest.update(np.ascontiguousarray(array).tobytes())
        size = length(self.train)
        digest.update(("?" if size is None else str(size)).encode())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> dict[str, str]:
        """What figures depend on besides weights, by name: code of the user's, data by content (see `identity`)."""
        parts: dict[str, object] = {
            "the code of the metric": self.metric.functions if self.evaluate is None else None,
            "the code of evaluate": self.evaluate,
            "the code of evaluate_test": self.evaluate_test,
        }
        if not type(self.traits).__module__.startswith("autocompress."):
            parts["the code of the kind of task"] = self.traits
        found: dict[str, str] = dict(self.training_identity)
        for part, value in parts.items():
            if value is not None:
                found |= code_of(part, value)
        for split in ("calibration", "validation", "test"):
            if (source := self._source(split)) is not None:
                found[f"the {split} data"] = f"v:{self._survey(split).digest[:16]}"
                found |= code_of(f"the collate function of the {split} data", getattr(source, "collate_fn", None))
        return found

    @cached_property
    def training_identity(self) -> dict[str, str]:
        """The part of `identity` that trained weights depend on."""
        found = code_of("the code of the network", self.model)
        if not self.trainable:
            return found
        found |= code_of("the code of the loss", self.loss)
        found |= code_of("the collate function of the train data", getattr(self.train, "collate_fn", None))
        if self.teacher is not None:
            found |= code_of("the code of the teacher", self.teacher)
        first, again = (next(self._look_at("train")) for _ in range(2))
        survey = self._survey("train")
        if all(torch.equal(first.inputs[name], again.inputs[name]) for name in self.inputs):
            found["the train data"] = f"v:{survey.digest[:16]}"
        else:  # augmented by a source of chance that nobody can seed
            found["the targets of the train data"] = f"v:{survey.digest_of_targets[:16]}"
        return found

    def _check_loss(self, inputs: Tensors, targets: Any) -> None:
        with (
            failing_as(TaskError, "the loss of a training batch"),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("error", message="Using a target size")  # (N,) against (N, 1) is no error
            inputs, targets = take((inputs, targets), slice(2))
            loss = self.loss(self.own(outputs_of(self.model, inputs)), each(targets, torch.clone))
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TaskError(f"the loss must be one number, got {tuple(getattr(loss, 'shape', ())) or type(loss)}")

    def _check_teacher(self, inputs: Tensors) -> None:
        if self.teacher is None:
            return
        outputs = self._run("the teacher", self.teacher, "a training batch", take(inputs, slice(2)))
        got, wanted = [tuple(t.shape[1:]) for t in outputs], [shape[1:] for shape in self.output_shapes]
        if got != wanted:
            wanted_text, got_text = (" and ".join(map(str, shapes)) for shapes in (wanted, got))
            raise TaskError(f"the teacher must return what the model returns, {wanted_text} per sample, got {got_text}")

    def _per_sample(self, outputs: Any, targets: Any, split: str) -> Array:
        n = n_of(targets)
        with failing_as(TaskError, f"{split} data: the metric {self.metric.name}"):
            scores = np.asarray(self.metric.scores(outputs, targets), dtype=np.float64)
        if scores.shape != (n,) or not np.isfinite(scores).all():
            what = f"the shape {scores.shape}" if scores.shape != (n,) else "NaN or infinity"
            raise TaskError(
                f"{split} data: the metric {self.metric.name} must return one finite score per sample, "
                f"shape ({n},), got {what}"
            )
        return scores

    def _check_shape(self, inputs: Mapping[str, Any], split: str) -> None:
        for name, expected in self.sample_shapes.items():
            got = tuple(inputs[name].shape[1:])
            if not fits(got, expected):
                which = f" of {name!r}" if len(self.inputs) > 1 else ""
                raise TaskError(
                    f"{split} data: samples{which} must have the shape of example_input {shape_text(expected)}, "
                    f"got {got}"
                )

    def _run(self, who: str, model: nn.Module, what: str, inputs: Tensors) -> tuple[Tensor, ...]:
        """The outputs of a model.

        Raises:
            TaskError: the model raised something, or returns something else than its outputs.
        """
        with failing_as(TaskError, f"{who} does not run on {what}: it"), torch.no_grad(), evaluating(model):
            output = model(*(tensor.clone() for tensor in inputs.values()))
        if not (found := flat(output)):
            raise TaskError(f"{who} must return tensors, got {type(output).__name__}; wrap it in a module that does")
        return tuple(found.values())


def _aside(n_samples: int) -> int:
    """How many of the drawn samples set no range."""
    return min(_PARITY_SAMPLES, n_samples // 4)


def _in_batches(inputs: Arrays, size: int) -> list[Arrays]:
    starts = [(part, i) for part in alike(inputs) for i in range(0, n_of(part), size)]
    return [each(take(part, slice(i, i + size)), np.copy) for part, i in starts]


def _loss_facts(loss: Loss) -> object:
    if not isinstance(loss, nn.Module):
        return getattr(loss, "__qualname__", type(loss))
    return _hash_of(loss), {k: v for k, v in vars(loss).items() if isinstance(v, (int, float, str))}


def _hash_of(model: nn.Module) -> str:
    structure = re.sub(r"\b0x[0-9a-f]+", "", str(model))  # addresses change from run to run
    digest = hashlib.sha256(structure.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
