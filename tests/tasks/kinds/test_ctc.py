from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import TaskError
from autocompress.tasks.kinds.ctc import Ctc, ctc_loss, decode
from autocompress.tasks.task import Task

FRAMES, LABELS = torch.randn(6, 10, 5), torch.randint(1, 5, (6, 4))


class Linear(nn.Linear):
    """Logits of each frame, of which class 0 is the most usual."""

    def __init__(self, out: int = 5, usual: int = 0) -> None:
        super().__init__(5, out)
        self.bias.data[usual] = 2.0


class FramesFirst(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).transpose(0, 1)


def task(labels: Any = LABELS, model: nn.Module | None = None, **settings: Any) -> Task:
    return Task.ctc(model or Linear(), example_input=FRAMES[:1], val=[(FRAMES, labels)], **settings)


def test_frames_are_decoded_greedily() -> None:
    assert decode(np.array([0, 1, 1, 0, 1, 2, 2, 0, 0, 3]), blank=0) == [1, 1, 2, 3]
    assert decode(np.array([4, 4, 1]), blank=4) == [1]
    assert decode(np.array([0, 0]), blank=0) == []


@pytest.mark.parametrize("padding", [-100, 0, -1])
@pytest.mark.parametrize("as_list", [False, True])
def test_error_rates_are_edits_relative_to_the_labels_of_the_split(padding: int, as_list: bool) -> None:
    pytest.importorskip("rapidfuzz")
    answers = [[1, 0, 2, 3, 4], [1, 1, 3, 0, 2]]  # read as 1 2 3 4 and 1 3 2; 3 is the space
    truth: Any = np.array([[1, 2, 3, 4], [2, 3, 2, padding]])
    truth = [row[row > 0] for row in truth] if as_list else truth
    kind = Ctc(separator=3)
    for name, expected in (("WER", 1 / 4), ("label error rate", 1 / 7)):
        metric = kind.named_metric(name)
        kept = metric.kept(np.eye(5)[answers], truth)
        assert metric.figure(kept) == pytest.approx(-expected)
    assert kind.metric is not None and kind.metric.name == "WER" and Ctc().metric.name == "label error rate"  # type: ignore[union-attr]


def test_the_loss_is_that_of_torch_for_all_ways_to_write_labels() -> None:
    outputs, lengths = torch.randn(6, 10, 5), [4, 2, 3, 4, 1, 4]
    rows = [labels[:n] for labels, n in zip(LABELS, lengths, strict=True)]
    expected = nn.functional.ctc_loss(
        outputs.log_softmax(2).transpose(0, 1), torch.cat(rows), torch.full((6,), 10), torch.tensor(lengths)
    )
    padded = LABELS.masked_fill(torch.arange(4) >= torch.tensor(lengths)[:, None], -100)
    for targets in (padded, padded.clamp(min=0), rows):
        assert float(ctc_loss(outputs, targets, 0)) == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: task(LABELS - 1), r"must not hold the blank \(class 0\) before their end.*blank=\.\.\."),
        (lambda: task(LABELS + 1), r"labels must be from 0 to 4 \(the model has 5 classes\).*got 5"),
        (
            lambda: task(LABELS.repeat(1, 3)),
            r"12 labels need at least 1\d frames, a blank between equal ones.*gives 10",
        ),
        (lambda: task(LABELS.float()), r"class indices \(N, labels\), integers .* got 2 dimensions of float32"),
        (lambda: task(LABELS[:, 0]), "class indices .*, got 1 dimensions of int64"),
        (lambda: task(model=nn.Flatten()), r"returns logits \(N, frames, classes\), got \(1, 50\)"),
        (lambda: task(model=FramesFirst()), r"got \(10, 1, 5\) for 1 samples: let it return outputs.transpose\(0, 1\)"),
        (lambda: task(blank="0"), "blank must be the index of a class, a whole number, got '0'"),
        (lambda: task(separator=0), "blank and separator must be two classes, got 0 for both"),
        (lambda: task(0 * LABELS), r"^validation data: no sample has a label other than the blank \(class 0\)"),
        (
            lambda: task([*LABELS[:5], LABELS[5].float()]),
            "the labels of each sample, got 1 dimensions of float32 for sample 5 of a batch",
        ),
        (lambda: task(blank=5), "blank must be the index of one of the 5 classes, got 5"),
    ],
)
def test_what_is_no_recogniser_is_refused(made: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        made().validate()


def test_a_sample_without_labels_may_be_an_empty_list_of_any_type() -> None:
    pytest.importorskip("rapidfuzz")
    rows = [*LABELS[:4], torch.tensor([]), torch.tensor([], dtype=torch.long)]
    task(rows).validate()
    assert torch.isfinite(ctc_loss(torch.randn(6, 10, 5), rows, 0))


def test_another_blank_is_noticed() -> None:
    pytest.importorskip("rapidfuzz")
    made = task(model=Linear(usual=4))
    made.validate()
    assert any("give blank=4" in note for note in made.notes)
    last = task(LABELS - 1, Linear(usual=4), blank=4)
    last.validate()
    assert not any("blank" in note for note in last.notes)


def test_without_rapidfuzz_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(TaskError, match=r"rapidfuzz; install it with: pip install 'autocompress\[speech\]'"):
        task().validate()
