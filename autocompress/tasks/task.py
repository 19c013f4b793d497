"""The user's side of a search: a trained model, its data, its loss and its metric."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.errors import CandidateError, TaskError, failing_as
from autocompress.tasks.batches import Draw, Reservoir, cut_short, draw, length, look_at, read_batches
from autocompress.tasks.identity import code_of
from autocompress.tasks.metric import ACCURACY, Metric, Score, Split
from autocompress.tasks.networks import evaluating, outputs_of
from autocompress.tasks.normalize import normalize
from autocompress.tasks.survey import Survey

Array = NDArray[Any]
Batches = Iterable[tuple[Tensor, Tensor]]
Predict = Callable[[Array], Array]
"""Inputs of one batch (N, ...) to outputs (N, ...), by the runtime that will run the file."""
Loss = Callable[[Tensor, Tensor], Tensor]

_MAX_SEEN = 4096
"""Maximum number of inputs of `evaluate` kept for calibration."""
_PARITY_SAMPLES = 256
_SPLITS = ("train", "validation", "test")

_NOTES: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()
"""What was done to the networks of tasks, so that a task made from another one still tells it."""


@dataclass(frozen=True)
class Task:
    """A trained model with what is needed to compress and to judge it.

    Args:
        model: the trained network; one tensor in, one tensor out. It is never changed. A wrapped, half-precision or
            parametrised one is replaced by a plain float32 copy (see `tasks.normalize`), which `notes` tell.
        example_input: one batch of inputs, shape (N, ...); only its shape and type matter.
        train, val, test: anything that can be iterated over again and again and yields (inputs, targets)
            batches, such as a DataLoader, or a Dataset of single samples. `val` selects, `test` is read once,
            at the end. Without `train` nothing is trained.
        loss: of outputs and targets, for training; cross-entropy for a classification.
        metric: what `accuracy` means for this task.
        evaluate: instead of `metric` and `val`: a function that gets a `predict` and returns the metric.
        evaluate_test: the same on the test data.
        teacher: the network to distil from; the model itself by default.
        train_device: where candidates are fine-tuned, such as "cuda". Quantisation-aware and elastic training, and
            everything that is judged, stay on the CPU.
        autocast: computation type in training, such as torch.bfloat16 on a CPU that has it.
        channels_last: memory format in training, which is 20 to 25 % faster for convolutions on CPUs.
        classes: names of the classes of a classification, in the order of the outputs, for those who run the file.
        preprocessing: how an input is prepared, in words ("RGB / 255, minus 0.5"), for those who run the file.
    """

    model: nn.Module
    example_input: Tensor
    train: Any = None
    val: Any = None
    test: Any = None
    loss: Loss = nn.functional.cross_entropy
    metric: Metric = ACCURACY
    kind: Literal["classification", "other"] = "classification"
    evaluate: Callable[[Predict], float] | None = None
    evaluate_test: Callable[[Predict], float] | None = None
    teacher: nn.Module | None = None
    name: str = "task"
    train_device: str = "cpu"
    autocast: torch.dtype | None = None
    channels_last: bool = False
    classes: Sequence[str] = ()
    preprocessing: str = ""
    batch_size: int = 64
    """Used where a split is a Dataset of single samples."""
    _memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TaskError(f"model must be a torch.nn.Module, got {type(self.model).__name__}")
        tensors = (*self.model.parameters(), *self.model.buffers())
        if elsewhere := next((t.device for t in tensors if t.device.type != "cpu"), None):
            raise TaskError(f"model must be on the CPU, got {elsewhere}: give model.cpu(); see train_device")
        if not isinstance(self.example_input, Tensor) or self.example_input.dim() < 2:
            raise TaskError(
                "example_input must be a tensor with a batch dimension, such as torch.zeros(1, 3, 224, 224), "
                f"got {getattr(self.example_input, 'shape', type(self.example_input).__name__)}"
            )
        if self.example_input.dtype != torch.float32 or len(self.example_input) == 0:
            raise TaskError(
                "example_input must hold one or more samples of torch.float32, "
                f"got {len(self.example_input)} of {self.example_input.dtype}"
            )
        if self.val is None and self.evaluate is None:
            raise TaskError("a task needs validation data: give val=..., or evaluate=a function of predict")
        if self.evaluate is None and self.kind == "other" and self.metric is ACCURACY:
            raise TaskError("a task that is not a classification needs its own metric=Metric(name, per_sample)")
        if self.evaluate is None and self.evaluate_test is not None:
            raise TaskError("evaluate_test goes with evaluate: one metric must judge validation and test data")
        if self.evaluate is not None and self.evaluate_test is None and self.test is not None:
            raise TaskError("with evaluate=... give evaluate_test=... instead of test=...: one metric must judge both")
        object.__setattr__(self, "example_input", self.example_input.detach().clone())  # networks may write into it
        self._normalize()

    def _normalize(self) -> None:
        """Put plain networks in the place of the given ones."""
        model = self._normalized("model", self.model)
        if self.teacher is self.model:
            object.__setattr__(self, "teacher", model)
        elif self.teacher is not None and not isinstance(self.teacher, torch.jit.ScriptModule):  # it has only to run
            object.__setattr__(self, "teacher", self._normalized("teacher", self.teacher))
        object.__setattr__(self, "model", model)

    def _normalized(self, which: str, given: nn.Module) -> nn.Module:
        found = normalize(given, self.example_input, f"the {which}", trains=which == "model")
        if not found.notes:  # the networks of a copy of a task are plain already
            found = replace(found, notes=_NOTES.get(given, ()))
        _NOTES[found.model] = found.notes
        self._memo[which] = found
        return found.model

    @property
    def notes(self) -> tuple[str, ...]:
        """What was done to the given networks to make them plain, and what `validate` found in the data."""
        kept = (self._memo.get(key) for key in ("model", "teacher", *(f"survey.{split}" for split in _SPLITS)))
        return tuple(note for one in kept if one is not None for note in one.notes)

    @classmethod
    def classification(cls, model: nn.Module, **settings: Any) -> Task:
        """Cross-entropy and top-1 accuracy; targets are class indices (N,)."""
        return cls(model=model, **settings)

    @classmethod
    def regression(cls, model: nn.Module, *, metric: Metric, **settings: Any) -> Task:
        """Mean squared error and the given metric (higher is better)."""
        settings.setdefault("loss", nn.functional.mse_loss)
        return cls(model=model, metric=metric, kind="other", **settings)

    @property
    def trainable(self) -> bool:
        """Whether there is training data."""
        return self.train is not None

    def train_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of training batches, labels checked."""
        for inputs, targets in read_batches(self.train, self.batch_size, shuffle=True, split="train"):
            self._check_labels(targets, "train")
            yield inputs, targets

    def calibration_batches(self, n_samples: int, seed: int) -> list[Array]:
        """Inputs for the observers of a PTQ, drawn over all of the training data, else the validation data.

        With neither they are drawn from what `evaluate` asks predictions for. They have the size of the data's own
        batches.
        """
        drawn, size = self._drawn(n_samples + _PARITY_SAMPLES, seed)
        aside = _aside(len(drawn))
        return _in_batches(drawn[aside : aside + n_samples], size)

    def parity_batches(self, seed: int) -> list[Array]:
        """Other inputs of the same data than any `calibration_batches` has: 256, of little data a quarter.

        A single sample serves for both.
        """
        drawn, size = self._drawn(2 * _PARITY_SAMPLES, seed)
        return _in_batches(drawn[: _aside(len(drawn)) or 1], size)

    def _drawn(self, n_samples: int, seed: int) -> tuple[Array, int]:
        """So many inputs or more in random order, all that there are where these are fewer, and the size of a batch."""
        key = f"drawn.{seed}"
        n_samples = max(n_samples, 4 * _PARITY_SAMPLES)  # below that, a quarter of them would depend on the number
        if n_samples > self._memo.get(f"{key}.n", 0):
            source = self.train if self.trainable else self.val
            if source is None:
                inputs, size = self._evaluated(), self.batch_size
                order = np.random.default_rng(seed).permutation(len(inputs))
                self._memo[key] = inputs[order], size
            else:
                found = draw(source, self.batch_size, n_samples, seed, "train" if self.trainable else "validation")
                self._memo[key] = found.inputs.float().numpy(), found.batch_size
            self._memo[f"{key}.n"] = n_samples
        inputs, size = self._memo[key]
        return inputs, size

    def _evaluated(self) -> Array:
        """Inputs drawn over all that `evaluate` asks predictions for."""
        if "evaluated" not in self._memo:
            seen = Reservoir(_MAX_SEEN, np.random.default_rng(0))

            def predict(inputs: Array) -> Array:
                seen.add(torch.as_tensor(np.array(inputs, np.float32)), torch.zeros(len(inputs)))
                outputs: Array = outputs_of(self.model, torch.as_tensor(inputs, dtype=torch.float32))[-1].numpy()
                return outputs

            self.score(predict, "validation")
            if not seen.n_seen:
                raise TaskError("evaluate never called predict; it must judge the model by its predictions")
            self._memo["evaluated"] = seen.drawn().inputs.numpy()
        inputs: Array = self._memo["evaluated"]
        return inputs

    def split(self, split: Split) -> list[tuple[Array, Array]]:
        """All batches of a split as arrays, read once and kept."""
        if split not in self._memo:
            source = self.val if split == "validation" else self.test
            batches = []
            for inputs, targets in read_batches(source, self.batch_size, shuffle=False, split=split):
                self._check_labels(targets, split)
                batches.append((inputs.float().numpy(), targets.numpy()))
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
                value = float(function(predict))
            if not np.isfinite(value):
                raise CandidateError(f"{name} must return a finite number, got {value}")
            return Score(value=value, low=value, high=value, n_samples=0, split=split), None
        scores = []
        for inputs, targets in self.split(split):
            outputs = predict(inputs)
            if np.isnan(outputs).any():  # infinity may be meant: a class that is ruled out
                raise CandidateError("the outputs of the file are not numbers (NaN)")
            try:
                scores.append(self._per_sample(outputs, targets, split))
            except TaskError as error:
                raise CandidateError(str(error)) from error
        samples = np.concatenate(scores)
        return self.metric.score(samples, split), samples

    @cached_property
    def n_outputs(self) -> int:
        """Size of the last dimension of the model's output."""
        return int(self.output_shape[-1])

    @cached_property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the output for the example input.

        Raises:
            TaskError: the model does not run on it, or does not return one tensor.
        """
        name = f"example_input {tuple(self.example_input.shape)}"
        return tuple(_one_tensor("the model", self.model, name, self.example_input).shape)

    @failing_as(TaskError, "checking the task")
    def validate(self) -> None:
        """Check model, data and labels before any work is done.

        Raises:
            TaskError: the first thing that is wrong.
        """
        shape = self.output_shape
        if self.kind == "classification" and len(shape) != 2 and self.evaluate is None:
            raise TaskError(
                f"a classification returns logits (N, classes), got {shape}; "
                "use Task(..., kind='other') with a metric and a loss of your own"
            )
        if self.kind == "classification" and self.n_outputs < 2:
            raise TaskError(
                f"a classification returns logits of two or more classes, got {self.output_shape}; for a single logit "
                "use Task(..., kind='other') with a metric and a loss of your own"
            )
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
        splits: tuple[Split, ...] = ("validation", "test")
        for split, source in zip(splits, (self.val, self.test), strict=True):
            if source is None:
                continue
            inputs, targets = map(torch.from_numpy, self.split(split)[0])
            self._check_shape(inputs, split)
            if (self.evaluate if split == "validation" else self.evaluate_test) is None:
                outputs = outputs_of(self.model, inputs[:2])[-1]
                self._per_sample(outputs.numpy(), targets[:2].numpy(), split)
            self._survey(split)

    def _survey(self, split: str) -> Survey:
        """Look at all samples of a split, of large training data at a fixed choice of them (see `batches.look_at`)."""
        if f"survey.{split}" not in self._memo:
            source = {"train": self.train, "validation": self.val, "test": self.test}[split]
            shape = tuple(self.example_input.shape[1:])
            batches = look_at(source, self.batch_size, 0, split) if split == "train" else self._as_draws(split)
            survey = Survey(split, self._labels_checked(batches, split), shape, partial(self._means_missing, split))
            if split == "train" and (cut := cut_short(source, self.batch_size, survey.n_samples, survey.n_values)):
                survey.notes += (f"{split} data: {cut} were checked, and tell whether the data are the same",)
            self._memo[f"survey.{split}"] = survey
        found: Survey = self._memo[f"survey.{split}"]
        return found

    def _as_draws(self, split: Any) -> Iterator[Draw]:
        start = 0
        for inputs, targets in self.split(split):
            places = np.arange(start, start + len(inputs))
            yield Draw(torch.from_numpy(inputs), torch.from_numpy(targets), places, len(inputs))
            start += len(inputs)

    def _labels_checked(self, batches: Iterable[Draw], split: str) -> Iterator[Draw]:
        for batch in batches:
            self._check_labels(batch.targets, split)
            yield batch

    def _means_missing(self, split: str, inputs: Tensor, targets: Tensor) -> bool:
        """Whether loss (in training) or metric are finite on targets that are not: they mark missing labels."""
        outputs = outputs_of(self.model, inputs.float())[-1]
        if split == "train":
            return bool(torch.isfinite(self.loss(outputs, targets.clone())).all())
        if (self.evaluate if split == "validation" else self.evaluate_test) is not None:
            return True  # nothing of ours reads these targets
        try:
            self._per_sample(outputs.numpy(), targets.numpy(), split)
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
            for arrays in self.split(split) if source is not None else ():  # type: ignore[arg-type]
                for array in arrays:
                    digest.update(np.ascontiguousarray(array).tobytes())
        size = length(self.train)
        digest.update(("?" if size is None else str(size)).encode())
        return digest.hexdigest()

    @cached_property
    def identity(self) -> dict[str, str]:
        """What figures depend on besides weights, by name: code of the user's, data by content (see `identity`)."""
        parts = {
            "the code of the metric": self.metric.per_sample if self.evaluate is None else None,
            "the code of evaluate": self.evaluate,
            "the code of evaluate_test": self.evaluate_test,
        }
        found: dict[str, str] = dict(self.training_identity)
        for part, value in parts.items():
            if value is not None:
                found |= code_of(part, value)
        for split, source in (("validation", self.val), ("test", self.test)):
            if source is not None:
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
        first, again = (next(look_at(self.train, self.batch_size, 0, "train")) for _ in range(2))
        survey = self._survey("train")
        if torch.equal(first.inputs, again.inputs):
            found["the train data"] = f"v:{survey.digest[:16]}"
        else:  # augmented by a source of chance that nobody can seed
            found["the targets of the train data"] = f"v:{survey.digest_of_targets[:16]}"
        return found

    def _check_labels(self, targets: Tensor, split: str) -> None:
        if self.kind != "classification" or targets.is_floating_point() or targets.dim() != 1:
            return
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= self.n_outputs:
            raise TaskError(
                f"{split} data: labels must be from 0 to {self.n_outputs - 1} (the model has "
                f"{self.n_outputs} outputs), got {low if low < 0 else high}"
            )

    def _check_loss(self, inputs: Tensor, targets: Tensor) -> None:
        with (
            failing_as(TaskError, "the loss of a training batch"),
            torch.no_grad(),
            evaluating(self.model),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("error", message="Using a target size")  # (N,) against (N, 1) is no error
            loss = self.loss(self.model(inputs[:2].clone()), targets[:2].clone())
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise TaskError(f"the loss must be one number, got {tuple(getattr(loss, 'shape', ())) or type(loss)}")

    def _check_teacher(self, inputs: Tensor) -> None:
        if self.teacher is None:
            return
        got = tuple(_one_tensor("the teacher", self.teacher, "a training batch", inputs[:2]).shape[1:])
        if got != self.output_shape[1:]:
            raise TaskError(
                f"the teacher must return what the model returns, {self.output_shape[1:]} per sample, got {got}"
            )

    def _per_sample(self, outputs: Array, targets: Array, split: str) -> Array:
        with failing_as(TaskError, f"{split} data: the metric {self.metric.name}"):
            scores = np.asarray(self.metric.scores(outputs, targets), dtype=np.float64)
        if scores.shape != (len(outputs),) or not np.isfinite(scores).all():
            what = f"the shape {scores.shape}" if scores.shape != (len(outputs),) else "NaN or infinity"
            raise TaskError(
                f"{split} data: the metric {self.metric.name} must return one finite score per sample, "
                f"shape ({len(outputs)},), got {what}"
            )
        return scores

    def _check_shape(self, inputs: Tensor, split: str) -> None:
        expected, got = tuple(self.example_input.shape[1:]), tuple(inputs.shape[1:])
        if expected != got:
            raise TaskError(f"{split} data: samples must have the shape of example_input {expected}, got {got}")


def _one_tensor(who: str, model: nn.Module, what: str, inputs: Tensor) -> Tensor:
    """The output of a model, which must be one tensor.

    Raises:
        TaskError: the model raised something, or returns something else.
    """
    with failing_as(TaskError, f"{who} does not run on {what}: it"), torch.no_grad(), evaluating(model):
        output = model(inputs.clone())
    if not isinstance(output, Tensor):
        raise TaskError(f"{who} must return one tensor, got {_described(output)}; wrap it in a module that does")
    return output


def _aside(n_samples: int) -> int:
    """How many of the drawn samples set no range."""
    return min(_PARITY_SAMPLES, n_samples // 4)


def _in_batches(inputs: Array, size: int) -> list[Array]:
    return [inputs[i : i + size].copy() for i in range(0, len(inputs), size)]


def _described(output: object) -> str:
    """What a model returned instead of a tensor: its type, and what is in it."""
    name = type(output).__name__
    if isinstance(output, Mapping):
        return f"{name} with {', '.join(map(repr, list(output)[:4]))}"
    return f"{name} of {len(output)}" if isinstance(output, Sequence) else name


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
