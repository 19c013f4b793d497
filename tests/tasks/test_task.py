from __future__ import annotations

import copy
import sys
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from helpers.many import many
from helpers.tasks import lone, make_task, predicting
from helpers.zoo import ZOO, synthetic_classification
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, WeightedRandomSampler

from autocompress.errors import CandidateError, TaskError
from autocompress.tasks.metric import ACCURACY, Metric, Score
from autocompress.tasks.task import Task
from autocompress.tasks.torch_utils import seed_everything

MODEL, EXAMPLE = ZOO["mlp"]()
INPUTS, LABELS = synthetic_classification(EXAMPLE, n=70)
DATA = TensorDataset(INPUTS, LABELS)
PAIRS = [(INPUTS[:32], LABELS[:32]), [INPUTS[32:], LABELS[32:]]]


def task(**settings: Any) -> Task:
    return Task.classification(MODEL, **{"example_input": EXAMPLE, "val": DATA, **settings})


predict = predicting(MODEL)


def logits(x: np.ndarray) -> np.ndarray:
    return predict({"input": x})["logits"]


class Broken(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.linear = how, nn.Linear(24, 4)
        if how == "copy":
            self.kept = (i for i in range(2))

    def forward(self, x: Tensor) -> Any:
        if self.how == "raise":
            raise ValueError("no such shape\nsecond line")
        if self.how == "exit":
            sys.exit(3)
        y = self.linear(x)
        others = {"dict": OrderedDict(out=y, aux=y), "rank": y[:, None], "tuple": (y, y), "list": [y], "none": None}
        return others.get(self.how, y)


class Failing(Dataset[Any]):
    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        raise FileNotFoundError("photo.jpg is missing")


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(zip(INPUTS, LABELS, strict=True)))


def generator() -> Iterator[Any]:
    yield INPUTS, LABELS


def raising(*_: object) -> Any:
    raise ZeroDivisionError("in the user's code")


def leaving(*_: object) -> Any:
    sys.exit(3)


EMPTY = TensorDataset(torch.zeros(0, 24), torch.zeros(0, dtype=torch.long))
WIDE = Metric("wide", lambda outputs, targets: outputs)
NAN = Metric("nan", lambda outputs, targets: np.full(len(outputs), np.nan))

BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": "resnet"}, "model must be a torch.nn.Module, got str"),
    ({"model": nn.Linear(24, 4, device="meta")}, "model must be on the CPU, got meta: give model.cpu()"),
    ({"model": Broken("raise")}, "the model does not run on example_input (1, 24): it raised ValueError: no such"),
    ({"model": Broken("dict")}, "a classification returns one tensor of logits, got out, aux; use Task(..., kind="),
    ({"model": Broken("tuple")}, "a classification returns one tensor of logits, got output0, output1; use Task("),
    ({"model": Broken("none")}, "the model must return tensors, got NoneType; wrap it in a module that does"),
    ({"model": Broken("exit")}, "the model does not run on example_input (1, 24): it raised SystemExit: 3"),
    ({"train": DATA, "loss": leaving}, "the loss of a training batch raised SystemExit: 3 (test_task.py, line "),
    ({"metric": Metric("bad", leaving)}, "validation data: the metric bad raised SystemExit: 3"),
    ({"train": DATA, "teacher": Broken("dict")}, "what the model returns, (4,) per sample, got (4,) and (4,)"),
    ({"model": Broken("rank")}, "a classification returns logits (N, classes), got (1, 1, 4)"),
    ({"model": Broken("copy")}, "the model cannot be copied: copying raised TypeError: cannot pickle"),
    ({"example_input": torch.zeros(24)}, "example_input must be a tensor with a batch dimension"),
    ({"example_input": "x"}, "or a tuple or mapping of tensors, got str"),
    ({"example_input": torch.zeros(1, 24).double()}, "integer type up to int64 or torch.bool, got 1 of torch.float64"),
    ({"example_input": {"a": torch.zeros(1, 24), "b": 3}}, "or mapping of tensors, got a: Tensor, b: int"),
    ({"example_input": (torch.zeros(1, 24), torch.zeros(2, 1))}, "the same number of samples, got [1, 2]"),
    ({"example_input": torch.zeros(1, 7)}, "the model does not run on example_input (1, 7)"),
    ({"val": None}, "a task needs validation data: give val=..., or evaluate=a function of predict"),
    ({"val": EMPTY}, "validation data: is empty; it must yield one or more (inputs, targets) batches"),
    ({"val": []}, "validation data: is empty"),
    ({"train": EMPTY}, "train data: is empty"),
    ({"val": 5}, "validation data: must be a Dataset or yield (inputs, targets) batches, got int"),
    ({"val": generator()}, "validation data: can be read only once (generator); give a DataLoader"),
    ({"val": [INPUTS]}, "validation data: every batch must be (inputs, targets), two tensors, got Tensor"),
    ({"val": [(INPUTS, 3)]}, "two tensors, got tuple of Tensor, int"),
    ({"val": [{"x": INPUTS}]}, "two tensors, got dict with 'x'"),
    ({"val": [(INPUTS, LABELS[:3])]}, "validation data: a batch has 70 inputs but 3 targets"),
    ({"val": [(INPUTS[:, :5], LABELS)]}, "samples must have the shape of example_input (24,), got (5,)"),
    ({"train": [(INPUTS, LABELS + 1)]}, "train data: labels must be from 0 to 3 (the model has 4 classes), got 4"),
    ({"val": [(INPUTS, LABELS - 2)]}, "validation data: labels must be from 0 to 3 (the model has 4 classes), got -2"),
    ({"test": [(INPUTS, LABELS * 9)]}, "test data: labels must be from 0 to 3"),
    ({"train": [(INPUTS, LABELS[:, None])]}, "the loss of a training batch raised RuntimeError"),
    ({"train": DATA, "loss": raising}, "the loss of a training batch raised ZeroDivisionError: in the user"),
    ({"train": DATA, "loss": lambda o, t: o}, "the loss must be one number, got (2, 4)"),
    ({"val": Failing()}, "reading it raised FileNotFoundError: photo.jpg is missing (test_task.py, line"),
    ({"metric": WIDE}, "the metric wide must return one finite score per sample, shape (2,), got the shape (2, 4)"),
    ({"metric": NAN}, "the metric nan must return one finite score per sample, shape (2,), got NaN or infinity"),
    ({"metric": Metric("bad", raising)}, "validation data: the metric bad raised ZeroDivisionError"),
    ({"train": DATA, "teacher": nn.Linear(24, 5)}, "return what the model returns, (4,) per sample, got (5,)"),
    ({"train": DATA, "teacher": nn.Linear(3, 4)}, "the teacher does not run on a training batch"),
    ({"model": nn.Linear(24, 1), "train": [(INPUTS, LABELS.float())]}, "logits of two or more classes, got (1, 1)"),
    ({"train_device": "cdua"}, "train_device 'cdua' cannot be used: "),
    ({"test": DATA, "val": None, "evaluate": lambda p: 1.0}, "give evaluate_test=... instead of test=..."),
    ({"evaluate_test": lambda p: 1.0}, "evaluate_test goes with evaluate"),
    ({"kind": "other"}, "a generic task needs its own metric=Metric(name, per_sample), or evaluate=..."),
    ({"kind": "clasification"}, "unknown kind of task 'clasification' (did you mean 'classification'?); known: "),
    ({"kind": 3}, "kind must be one of classification, "),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "message"), BAD, ids=range(len(BAD)))
def test_bad_input_is_one_clear_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task(**{"model": MODEL, "example_input": EXAMPLE, "val": DATA, **settings}).validate()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_targets_that_would_be_broadcast_are_refused() -> None:
    per_sample = Metric("minus_error", lambda outputs, targets: -np.abs(outputs[:, 0] - targets.ravel()))
    model, flat = nn.Linear(24, 1), INPUTS.sum(1)
    good = Task.regression(
        model, metric=per_sample, example_input=EXAMPLE, val=[(INPUTS, flat[:, None])], train=[(INPUTS, flat[:, None])]
    )
    good.validate()
    with pytest.raises(
        TaskError, match=r"train data: targets of a sample must have the shape of the outputs \(1,\), got \(\)"
    ):
        Task.regression(
            model, metric=per_sample, example_input=EXAMPLE, val=[(INPUTS, flat)], train=[(INPUTS, flat)]
        ).validate()


def test_training_data_is_shuffled_by_the_seed_and_validation_data_is_not() -> None:
    made = task(train=DATA)
    orders = []
    for seed in (0, 0, 1):
        seed_everything(seed)
        orders.append(lone(x for x, _ in made.train_batches()))
    assert torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])
    assert np.array_equal(lone(x for x, _ in made.split("validation")), INPUTS.numpy())


def test_accuracy_is_that_of_torch_with_wilsons_interval() -> None:
    score = task().score(predict, "validation")
    with torch.no_grad():
        hits = int((MODEL(INPUTS).argmax(1) == LABELS).sum())
    wilson = stats.binomtest(hits, 70).proportion_ci(0.95, method="wilson")
    assert (score.value, score.low, score.high) == pytest.approx((hits / 70, wilson.low, wilson.high))
    n, z, p = 70, 1.959963985, hits / 70  # and from the formula itself
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (score.low, score.high) == pytest.approx(
        ((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n))
    )


def test_intervals_of_certain_and_of_continuous_scores() -> None:
    sure = ACCURACY.score(np.ones(50), "test")
    assert sure.value == sure.high == 1 and 0.9 < sure.low < 0.95 and sure.split == "test"
    values = np.random.default_rng(0).normal(3, 1, 400)
    score = ACCURACY.score(values, "validation")
    assert score.low < values.mean() < score.high
    assert (score.high - score.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.15)
    assert ACCURACY.score(values, "validation") == score
    same = ACCURACY.score(np.full(9, 0.25), "validation")
    assert (same.low, same.value, same.high) == (0.25, 0.25, 0.25)


def test_regression_has_its_own_metric_and_loss() -> None:
    metric = Metric("minus MAE", lambda outputs, targets: -np.abs(outputs - targets).mean(-1))
    targets = torch.zeros(70, 4)
    made = Task.regression(
        MODEL, metric=metric, example_input=EXAMPLE, train=[(INPUTS, targets)], val=[(INPUTS, targets)]
    )
    made.validate()
    assert made.loss is nn.functional.mse_loss and made.traits.name == "regression"
    assert made.score(predict, "validation").value == pytest.approx(float(-np.abs(logits(INPUTS.numpy())).mean()))


def absolute(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    return np.abs(outputs - targets).mean(-1)


def near(metric: Metric) -> Task:
    """A regression whose network is right."""
    data = [(INPUTS, MODEL(INPUTS).detach())]
    return Task.regression(MODEL, metric=metric, example_input=EXAMPLE, val=data)


def test_a_metric_that_is_upside_down_is_noticed() -> None:
    with pytest.raises(TaskError, match=r"with its outputs given to other samples: higher must be better; give Metric"):
        near(Metric("MAE", absolute)).validate()
    with pytest.raises(TaskError, match="the MAE of the network is 0, and"):
        near(Metric("MAE", over_split=lambda o, t: float(absolute(o, t).mean()))).validate()
    for metric in (
        Metric("MAE", absolute, lower_is_better=True),
        Metric("MAE", over_split=lambda o, t: float(absolute(o, t).mean()), lower_is_better=True),
    ):
        made = near(metric)
        made.validate()
        off = made.score(lambda x: {"logits": logits(x["input"]) + 0.5}, "validation")
        assert metric.title == "minus MAE" and off.value == pytest.approx(-0.5)
    with pytest.raises(TaskError, match="the metric MAE must have one function"):
        Metric("MAE")


def test_a_figure_of_a_split_has_the_interval_of_a_bootstrap() -> None:
    """That of a mean is the mean's own; a figure that is no mean gets one too."""
    right = Metric("right", over_split=lambda o, t: float((o.argmax(-1) == t).mean()))
    whole, mean = (task(**s).score(predict, "validation") for s in ({"metric": right}, {}))
    assert (
        whole.value == mean.value
        and whole.n_samples == 70
        and task(metric=right).judge(predict, "validation")[1] is None
    )
    assert (whole.low, whole.high) == pytest.approx((mean.low, mean.high), abs=0.04)

    def f1(outputs: np.ndarray, labels: np.ndarray) -> float:
        hits, said, there = ((x == 1).sum() for x in (outputs.argmax(-1)[labels == 1], outputs.argmax(-1), labels))
        return float(2 * hits / max(1, said + there))

    made = task(metric=Metric("F1", over_split=f1, unit="share", resamples=50))
    made.validate()
    score = made.score(predict, "validation")
    assert score.low < score.value < score.high and made.score(predict, "validation") == score


class Named(nn.Module):
    """The output under a name, as Hugging Face's networks give it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = copy.deepcopy(MODEL)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.inner(x)}


def test_records_of_samples_are_made_once_for_all_resamples() -> None:
    """F1 from the counts of each sample, against F1 from all outputs; outputs by name stay so."""
    made: list[int] = []

    def counts(outputs: Any, labels: np.ndarray) -> list[Any]:
        said = outputs.logits.argmax(-1) == 1
        made.append(len(labels))
        return list(zip(said & (labels == 1), said, labels == 1, strict=True))

    def f1(hits: Any, said: Any, there: Any) -> float:
        return float(2 * np.sum(hits) / max(1, np.sum(said) + np.sum(there)))

    def f1_of_all(outputs: Any, labels: np.ndarray) -> float:
        said = outputs.logits.argmax(-1) == 1
        return f1(said & (labels == 1), said, labels == 1)

    def judged(metric: Metric) -> Score:
        given = {"kind": "generic", "metric": metric, "example_input": EXAMPLE, "val": DATA}
        return Task(Named(), **given).score(predict, "validation")

    whole = judged(Metric("F1", over_split=f1_of_all))
    recorded = judged(Metric("F1", over_split=lambda kept: f1(*zip(*kept, strict=True)), records=counts))
    assert recorded == whole and sum(made) == whole.n_samples
    with pytest.raises(TaskError, match="must have over_split"):
        Metric("F1", absolute, records=counts)


def test_halves_of_the_split_have_the_spread_of_a_bootstrap() -> None:
    def right(outputs: np.ndarray, labels: np.ndarray) -> float:
        assert not pairs or len(np.unique(outputs, axis=0)) == len(outputs)
        return float((outputs.argmax(-1) == labels).mean())

    for pairs in (False, True):
        score = task(metric=Metric("right", over_split=right, pairs=pairs)).score(predict, "validation")
        widths = score.high - score.value, score.value - score.low
        assert widths == pytest.approx((0.12, 0.12), abs=0.04)


def test_a_metric_that_is_upside_down_is_noticed_in_data_that_come_by_class() -> None:
    order = torch.argsort(MODEL(INPUTS).argmax(-1), stable=True)
    data = [(INPUTS[i : i + 1].repeat(64, 1), MODEL(INPUTS[i : i + 1]).argmax(-1).repeat(64)) for i in order]
    wrong = Metric("wrong", lambda outputs, labels: (outputs.argmax(-1) != labels).astype(float))
    with pytest.raises(TaskError, match="with its outputs given to other samples: higher must be better"):
        task(val=data, metric=wrong).validate()


def test_outputs_that_are_not_numbers_fail_the_candidate() -> None:
    with pytest.raises(CandidateError, match="not numbers"):
        task().score(lambda x: {"logits": np.full((len(x["input"]), 4), np.nan)}, "validation")
    ruled_out = np.array([0.0, 0.0, 0.0, -np.inf], np.float32)
    assert task().score(lambda x: {"logits": logits(x["input"]) + ruled_out}, "validation").value > 0


def test_a_metric_that_fails_on_some_predictions_fails_the_candidate() -> None:
    def inverse(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return 1 / np.abs(outputs).sum(-1)

    made = task(metric=Metric("inverse", inverse))
    made.validate()
    assert made.score(predict, "validation").n_samples == 70
    with pytest.raises(CandidateError, match="the metric inverse must return one finite score per sample"):
        made.score(lambda x: {"logits": np.zeros((len(x["input"]), 4), np.float32)}, "validation")


def test_own_evaluate_function_is_used_and_checked() -> None:
    made = task(val=None, evaluate=lambda p: float(p(INPUTS.numpy()).shape[0]))
    made.validate()
    assert made.score(predict, "validation").value == 70.0
    assert made.has("validation") and not made.has("test")
    with pytest.raises(CandidateError, match="evaluate must return a finite number, got nan"):
        task(evaluate=lambda p: float("nan")).score(predict, "validation")
    with pytest.raises(CandidateError, match="evaluate raised ZeroDivisionError"):
        task(evaluate=raising).score(predict, "validation")


def test_calibration_batches_repeat_and_are_counted() -> None:
    made = task(train=DATA, batch_size=32)
    batches = made.calibration_batches(40, seed=0)
    assert [len(b["input"]) for b in batches] == [32, 8]
    batches[0]["input"][:] = 7.0  # written into by whoever gets them
    again = made.calibration_batches(40, seed=0)
    assert not (again[0]["input"] == 7.0).all() and np.array_equal(batches[1]["input"], again[1]["input"])
    assert not np.array_equal(lone(again), lone(made.calibration_batches(40, seed=1)))
    assert np.array_equal(lone(again)[:10], lone(made.calibration_batches(10, seed=0)))


class InOrder:
    """Data of a user's own kind, which only knows how to be iterated over."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(self.x.split(16), self.y.split(16), strict=True))


class ByClass(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(zip(SORTED, CLASSES, strict=True)))


class Augmented(Dataset[Any]):
    def __len__(self) -> int:
        return len(SORTED)

    def __getitem__(self, index: int) -> Any:
        return SORTED[index] + 0.01 * torch.rand(24), CLASSES[index]


CLASSES = torch.arange(800) // 200
SORTED = CLASSES[:, None] + torch.linspace(0, 0.5, 800)[:, None].expand(800, 24)
TENSORS = TensorDataset(SORTED, CLASSES)
LOADERS: dict[str, Any] = {
    "dataset": TENSORS,
    "subset": Subset(TENSORS, range(0, 800, 2)),
    "in order": DataLoader(TENSORS, 64),
    "shuffled": DataLoader(TENSORS, 64, shuffle=True),
    "own generator": DataLoader(TENSORS, 64, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "last dropped": DataLoader(TENSORS, 300, drop_last=True),
    "sampler in class order": DataLoader(TENSORS, 64, sampler=list(range(800))),
    "weighted": DataLoader(TENSORS, 64, sampler=WeightedRandomSampler([1.0] * 800, 800)),
    "batch sampler": DataLoader(TENSORS, batch_sampler=[list(range(i, i + 50)) for i in range(0, 800, 50)]),
    "batches of one": DataLoader(TENSORS, 1),
    "augmented": DataLoader(Augmented(), 64),
    "stream": ByClass(),
    "stream loader": DataLoader(ByClass(), 64),
    "list": list(zip(SORTED.split(100), CLASSES.split(100), strict=True)),
    "own iterable": InOrder(SORTED, CLASSES),
    "one batch": [(SORTED, CLASSES)],
}


@pytest.mark.parametrize("role", ["train", "val"])
@pytest.mark.parametrize("name", LOADERS)
def test_calibration_covers_the_whole_data_and_parity_other_samples(name: str, role: str) -> None:
    torch.manual_seed(0)
    made = task(**{"val": TENSORS, role: LOADERS[name]})
    used, aside = (lone(b) for b in (made.calibration_batches(128, 0), made.parity_batches(0)))
    seen = np.bincount(used[:, 0].astype(int), minlength=4)
    least = 20 if name != "last dropped" else 0  # 200 samples of the last class are never trained with
    assert len(used) == 128 and (seen[:3] >= 20).all() and seen[3] >= least
    assert not set(map(bytes, used)) & set(map(bytes, aside)) and len(aside) >= 100
    other = task(**{"val": TENSORS, role: LOADERS[name]})
    assert np.array_equal(used, lone(other.calibration_batches(128, 0)))


def test_without_data_calibration_covers_all_that_evaluate_asks_for() -> None:
    made = task(val=None, evaluate=lambda p: sum(float(p(x.numpy()).mean()) for x in SORTED.split(16)))
    used = lone(made.calibration_batches(128, 0))
    assert (np.bincount(used[:, 0].astype(int), minlength=4) >= 20).all()
    with pytest.raises(TaskError, match="evaluate never called predict"):
        task(val=None, evaluate=lambda p: 1.0).calibration_batches(5, 0)


def test_little_data_is_shared_out() -> None:
    made = task(val=[(INPUTS[:8], LABELS[:8])])
    assert [len(lone(b)) for b in (made.calibration_batches(500, 0), made.parity_batches(0))] == [6, 2]
    single = task(val=[(INPUTS[:1], LABELS[:1])])
    assert np.array_equal(lone(single.calibration_batches(5, 0)), lone(single.parity_batches(0)))


def with_value(value: float, at: int = 50) -> list[Any]:
    inputs = INPUTS.clone()
    inputs[at, 3] = value
    return [(inputs[:40], LABELS[:40]), (inputs[40:], LABELS[40:])]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_faults_beyond_the_first_batch_are_found(split: str) -> None:
    wide = [*PAIRS, (INPUTS[:, :5], LABELS)]
    double = [*PAIRS, (INPUTS.double(), LABELS)]
    faults = [
        (with_value(float("nan")), "1 values of the inputs are NaN or infinite, in 1 of 70 samples, .* sample 50;"),
        (with_value(float("-inf")), "the first of them sample 50; leave out or repair these"),
        (wide, r"samples must have the shape of example_input \(24,\), got \(5,\) \(from sample 70 on\)"),
        ([*PAIRS, (INPUTS, LABELS + 3)], "labels must be from 0 to 3"),
    ]
    if split == "train":  # the others are converted
        faults += [(double, "the first has inputs of torch.float32, .*, that of sample 70 has torch.float64")]
    for data, message in faults:
        with pytest.raises(TaskError, match=message):
            task(**{"train": DATA, split: data}).validate()


def test_nan_may_mark_missing_labels() -> None:
    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.where(targets.isnan(), 0.0, outputs - targets.nan_to_num()).pow(2).mean()

    metric = Metric("minus", lambda o, t: -np.nan_to_num(np.abs(o - t)).mean(-1))
    targets = torch.zeros(70, 4)
    targets[60, 1] = float("nan")
    settings: dict[str, Any] = {"example_input": EXAMPLE, "val": [(INPUTS, targets)], "train": [(INPUTS, targets)]}
    Task.regression(MODEL, metric=metric, loss=masked, **settings).validate()
    with pytest.raises(TaskError, match=r"train data: 1 values of the targets are NaN or infinite.* sample 60;"):
        Task.regression(MODEL, metric=metric, **settings).validate()


def test_outliers_are_counted_in_a_note() -> None:
    made = task(train=with_value(1e6), val=with_value(-1e6, at=3))
    made.validate()
    assert [note.split(":")[0] for note in made.notes] == ["train data", "validation data"]
    assert "1 of 70 samples hold outliers: values up to 1e+06" in made.notes[0] and "sample 50" in made.notes[0]
    clean = task(train=DATA)
    clean.validate()
    assert clean.notes == ()


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.relu_())


def test_what_network_metric_and_loss_write_into_reaches_nobody_else() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        targets.zero_()
        return nn.functional.cross_entropy(outputs, targets)

    def per_sample(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
        targets[:] = 0
        return (outputs.argmax(-1) == 0).astype(float)

    x, y, example = INPUTS.clone(), LABELS.clone(), EXAMPLE.clone() - 1
    kept = x.clone(), y.clone(), example.clone()
    data = [(x, y)]
    made = Task.classification(
        InPlace(), example_input=example, train=data, val=data, loss=loss, metric=Metric("writes", per_sample)
    )
    made.validate()
    made.score(predict, "validation")
    made.calibration_batches(10, 0)
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1]) and torch.equal(example, kept[2])
    assert np.array_equal(made.split("validation")[0][1], y.numpy())


def test_training_hash_sees_teacher_loss_and_formats() -> None:
    base = task()
    others = [
        task(teacher=make_task("mlp").model),
        task(loss=nn.CrossEntropyLoss(label_smoothing=0.1)),
        task(loss=nn.CrossEntropyLoss(label_smoothing=0.2)),
        task(loss=nn.functional.multi_margin_loss),
        task(autocast=torch.bfloat16),
        task(channels_last=True),
    ]
    assert len({base.training_sha256, *(t.training_sha256 for t in others)}) == 1 + len(others)
    assert task().training_sha256 == base.training_sha256


def test_model_hash_sees_weights_and_structure_only() -> None:
    base = make_task("mlp")
    other = make_task("mlp")
    assert base.model_sha256 == other.model_sha256
    changed = copy.deepcopy(base.model)
    next(changed.parameters()).data[0, 0] += 1e-6
    assert make_task("mlp").model_sha256 != Task.classification(changed, example_input=EXAMPLE, val=DATA).model_sha256

    class Named(nn.Identity):
        def extra_repr(self) -> str:
            return f"fn={object.__repr__(self)}"

    named = [Named() for _ in range(3)]
    assert len({str(model) for model in named}) == 3
    hashes = {Task(model, EXAMPLE, val=DATA).model_sha256 for model in named}
    assert len(hashes) == 1


def test_data_hash_sees_every_split() -> None:
    base = task(train=DATA, test=DATA).data_sha256
    assert base == task(train=DATA, test=DATA).data_sha256
    shifted = TensorDataset(INPUTS + 1e-6, LABELS)
    assert (
        len({base, task(train=DATA, test=shifted).data_sha256, task(train=DATA, val=shifted, test=DATA).data_sha256})
        == 3
    )
    assert base != task(train=[(INPUTS, LABELS)], test=DATA).data_sha256


def _texts(**changes: Any) -> Any:
    batch = {"input_ids": torch.ones(8, 12).long(), "attention_mask": torch.ones(8, 12).long()}
    batch |= {"labels": torch.zeros(8).long(), **changes}
    return [{key: value for key, value in batch.items() if value is not None}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_ids": torch.full((8, 12), 50)}, "'input_ids' must be from 0 to 49 .*'embed' has 50 rows.*, got 50"),
        ({"input_ids": torch.full((8, 12), -1)}, "'input_ids' must be from 0 to 49 .*, got -1"),
        ({"attention_mask": None}, "with the inputs input_ids, attention_mask, got dict with 'input_ids', 'labels'"),
        ({"labels": torch.full((8,), 3)}, r"labels must be from 0 to 2 \(the model has 3 classes\), got 3"),
        (
            {"input_ids": torch.ones(8, 9).long()},
            r"'input_ids' must have the shape of example_input \(12,\), got \(9,\)",
        ),
    ],
)
def test_texts_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    for split in ("train", "val", "test"):
        name = {"val": "validation"}.get(split, split)
        with pytest.raises(TaskError, match=f"^{name} data: .*{message}"):
            many("ids and mask", **{split: _texts(**changes)}).validate()


def test_ids_that_are_floats_are_refused() -> None:
    example = {"input_ids": torch.ones(1, 12), "attention_mask": torch.ones(1, 12).long()}
    with pytest.raises(TaskError, match=r"the model does not run on example_input .*Long, Int; but got"):
        Task.classification(many("ids and mask").model, example_input=example, val=_texts()).validate()
