"""A network that gives each token of a text a class, and texts for it in batches of several lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from autocompress.tasks.task import Task

Batch = dict[str, Tensor]


class Tagger(nn.Module):
    """Token ids and a mask to logits (N, L, 3): each token and the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(40, 16, padding_idx=0), nn.Conv1d(16, 32, 3, padding=1)
        self.head = nn.Linear(32, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.words(input_ids) * attention_mask[..., None].to(torch.float32)
        return self.head(self.encoder(x.transpose(1, 2)).relu().transpose(1, 2))


def texts(seed: int, lengths: tuple[int, ...] = (6, 9, 12)) -> list[Batch]:
    """As a collator pads them: 0 for no word, -100 for no class."""
    generator = torch.Generator().manual_seed(seed)
    return [_batch(length, generator) for length in lengths]


def _batch(length: int, generator: torch.Generator) -> Batch:
    ids = torch.randint(1, 40, (32, length), generator=generator)
    mask = torch.arange(length) < torch.randint(2, length + 1, (32, 1), generator=generator)
    before = torch.cat([torch.zeros(32, 1, dtype=torch.long), ids[:, :-1]], 1)
    labels = (ids % 2 + before % 2).masked_fill(~mask, -100)
    return {"input_ids": ids * mask, "attention_mask": mask.long(), "labels": labels}


def tagging(**settings: Any) -> Task:
    """A task whose network has learned a little."""
    torch.manual_seed(0)
    model, data = Tagger(), texts(0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for batch in data * 30:
        logits = model(batch["input_ids"], batch["attention_mask"])
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"]).backward()
        optimizer.step()
    example = {"input_ids": torch.ones(1, 12).long(), "attention_mask": torch.ones(1, 12).long()}
    given = {"train": data, "val": texts(1), "test": texts(2), "free_axes": (1,), **settings}
    return Task.token_classification(model.eval(), example_input=example, **given)
