from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from autocompress.errors import TaskError
from autocompress.tasks.batches import length, read_batches

INPUTS, LABELS = torch.arange(70.0)[:, None], torch.arange(70) % 4
DATA = TensorDataset(INPUTS, LABELS)
PAIRS = [(INPUTS[:32], LABELS[:32]), [INPUTS[32:], LABELS[32:]]]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(list(zip(INPUTS, LABELS, strict=True)))


@pytest.mark.parametrize(
    "data",
    [DATA, DataLoader(DATA, 16), Stream(), DataLoader(Stream(), 32), PAIRS],
    ids=["dataset", "loader", "stream", "stream loader", "list"],
)  # fmt: skip
def test_every_kind_of_data_is_read_in_full(data: Any) -> None:
    batches = list(read_batches(data, 16, shuffle=True, split="train"))
    assert torch.equal(torch.cat([x["input"] for x, _ in batches]).sort(0).values, INPUTS)
    assert all(torch.equal(x["input"][:, 0] % 4, y.float()) for x, y in batches)


def test_only_data_without_an_order_of_their_own_are_shuffled() -> None:
    torch.manual_seed(0)
    for data, shuffle, in_order in ((DATA, True, False), (DATA, False, True), (Stream(), True, True)):
        read = torch.cat([x["input"] for x, _ in read_batches(data, 16, shuffle=shuffle, split="train")])
        assert torch.equal(read, INPUTS) == in_order


def test_empty_batches_are_left_out() -> None:
    empty = (INPUTS[:0], LABELS[:0])
    assert [len(x["input"]) for x, _ in read_batches([empty, *PAIRS, empty], 16, shuffle=False, split="test")] == [
        32,
        38,
    ]
    with pytest.raises(TaskError, match="test data: is empty"):
        list(read_batches([empty], 16, shuffle=False, split="test"))


def test_length_where_it_is_known() -> None:
    assert (length(DATA), length(PAIRS), length(DataLoader(DATA, 16)), length(Stream())) == (70, 2, 5, None)
