"""Networks with several inputs and outputs, of other types than float, and data for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from autocompress.tasks.metric import Metric
from autocompress.tasks.task import Task


class TwoInputs(nn.Module):
    """Two float tensors by position, the second one with another number of dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(5, 16)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, image: Tensor, facts: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(image).relu().mean((2, 3)), self.right(facts).relu()], 1))


class ImageAndScalar(nn.Module):
    """One number per sample, shape (N,)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(17, 4)

    def forward(self, image: Tensor, age: Tensor) -> Tensor:
        pooled = self.block(self.stem(image)).mean((2, 3))
        return self.head(torch.cat([pooled, age[:, None]], 1))


@dataclass
class Answer:
    """As models of Hugging Face return it."""

    logits: Tensor
    loss: Tensor | None = None
    hidden: tuple[Tensor, ...] | None = None


class Reader(nn.Module):
    """Token ids and a mask by keyword, a dataclass out; the arguments between them are left out."""

    def __init__(self, vocabulary: int = 50, width: int = 32) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocabulary, width), nn.Embedding(12, width)
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.fc1, self.fc2, self.classifier = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 3)

    def forward(
        self, input_ids: Tensor, token_types: Tensor | None = None, *, attention_mask: Tensor | None = None
    ) -> Answer:
        x = self.norm(self.embed(input_ids) + self.place(torch.arange(input_ids.shape[1])))
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = x + self.attention(x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]
        x = x + self.fc2(nn.functional.gelu(self.fc1(x)))
        weights = mask[..., None].to(x.dtype)
        return Answer(self.classifier((x * weights).sum(1) / weights.sum(1)))


class TwoHeads(nn.Module):
    """A dict of two outputs of other shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU())
        self.kind, self.place = nn.Linear(24, 4), nn.Conv2d(24, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.body(x)
        return {"kind": self.kind(x.mean((2, 3))), "map": self.place(x), "unused": None}


class TwoOutputs(nn.Module):
    """A tuple, which is no early exits; the first one is a tensor of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.a, self.b = nn.Linear(12, 32), nn.Linear(32, 3), nn.Linear(32, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.hidden(x).relu()
        return self.a(x).argmax(1), self.a(x), self.b(x)


class Sentences(Dataset[Any]):
    """Samples as `datasets` of Hugging Face give them."""

    def __init__(self, n: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.ids = torch.randint(1, 50, (n, 12), generator=generator)
        lengths = torch.randint(4, 13, (n,), generator=generator)
        self.mask = (torch.arange(12) < lengths[:, None]).long()
        self.ids = self.ids * self.mask
        self.labels = ((self.ids < 17) & (self.ids > 0)).sum(1) * 3 // (lengths + 1)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[i], "attention_mask": self.mask[i], "labels": self.labels[i]}


def _images(n: int, seed: int, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def _answered(model: nn.Module, *inputs: Any) -> Any:
    with torch.no_grad():
        return model.eval()(*inputs)


def two_inputs(**settings: Any) -> Task:
    model = TwoInputs()

    def data(seed: int, n: int) -> TensorDataset:
        x, facts = _images(n, seed), torch.randn(n, 5, generator=torch.Generator().manual_seed(seed + 100))
        return TensorDataset(x, facts, _answered(model, x, facts).argmax(1))

    return Task.classification(
        model, example_input=(torch.zeros(1, 3, 8, 8), torch.zeros(1, 5)), **_three(data, settings)
    )


def image_and_scalar(**settings: Any) -> Task:
    model = ImageAndScalar()

    def data(seed: int, n: int) -> list[Any]:
        x, age = _images(n, seed, 1), torch.rand(n, generator=torch.Generator().manual_seed(seed + 100))
        labels = _answered(model, x, age).argmax(1)
        rows = [slice(i, i + 32) for i in range(0, n, 32)]
        return [({"image": x[r], "age": age[r]}, labels[r]) for r in rows]

    example = {"image": torch.zeros(1, 1, 8, 8), "age": torch.zeros(1)}
    return Task.classification(model, example_input=example, **_three(data, settings))


def reader(**settings: Any) -> Task:
    example = {"input_ids": torch.ones(1, 12).long(), "attention_mask": torch.ones(1, 12).long()}
    return Task.classification(Reader(), example_input=example, **_three(lambda seed, n: Sentences(n, seed), settings))


def _heads_right(outputs: Any, targets: Any) -> Any:
    return (outputs["kind"].argmax(1) == targets["kind"]) - np.abs(outputs.map - targets["map"]).mean((1, 2, 3))


def two_heads(**settings: Any) -> Task:
    model = TwoHeads()

    def loss(outputs: Any, targets: Any) -> Tensor:
        return nn.functional.cross_entropy(outputs["kind"], targets["kind"]) + nn.functional.mse_loss(
            outputs.map, targets["map"]
        )

    def data(seed: int, n: int) -> list[Any]:
        x = _images(n, seed)
        answer = _answered(model, x)
        rows = [slice(i, i + 32) for i in range(0, n, 32)]
        return [(x[r], {"kind": answer["kind"].argmax(1)[r], "map": answer["map"][r]}) for r in rows]

    given = {"kind": "other", "loss": loss, "metric": Metric("right and near", _heads_right)}
    return Task(model, torch.zeros(1, 3, 8, 8), **given, **_three(data, settings))


def two_outputs(**settings: Any) -> Task:
    model = TwoOutputs()

    def loss(outputs: Any, targets: Any) -> Tensor:
        _, a, b = outputs
        return nn.functional.cross_entropy(a, targets[0]) + nn.functional.mse_loss(b, targets[1])

    def metric(outputs: Any, targets: Any) -> Any:
        return (outputs[0] == targets[0]) * 1.0

    def data(seed: int, n: int) -> list[Any]:
        x = torch.randn(n, 12, generator=torch.Generator().manual_seed(seed))
        best, _, b = _answered(model, x)
        rows = [slice(i, i + 32) for i in range(0, n, 32)]
        return [(x[r], (best[r], b[r])) for r in rows]

    given = {"kind": "other", "loss": loss, "metric": Metric("right", metric, unit="share")}
    return Task(model, torch.zeros(1, 12), **given, **_three(data, settings))


def _three(data: Callable[[int, int], Any], settings: dict[str, Any]) -> dict[str, Any]:
    return {"train": data(0, 160), "val": data(1, 96), "test": data(2, 96), **settings}


MANY: dict[str, Callable[..., Task]] = {
    "two inputs": two_inputs,
    "image and scalar": image_and_scalar,
    "ids and mask": reader,
    "two heads": two_heads,
    "tuple": two_outputs,
}


def many(name: str, **settings: Any) -> Task:
    """A task of `MANY`, always the same one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MANY[name](name=name, **settings)
