"""Which library does a docstring come from? A small BERT-like classifier of texts that are installed anyway.

Two inputs, word ids and a mask, of texts of any length; four fifths of its bytes are a table of embeddings. Texts of
one file are in one split. The first call reads the libraries and trains, which takes some minutes, and keeps both in
the cache.

autocompress search examples/docstrings.py:task --space ptq-only --device raspberry-pi-4 --out study
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from datasets import cache_folder
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autocompress import Task

CLASSES = ("python", "torch", "numpy", "sympy", "networkx", "sqlalchemy")
LENGTH, WIDTH = 64, 64
"""Words of a text that are read, and channels."""
WORDS = 8_000
"""Entries of the vocabulary: 0 fills texts up, 1 is any other word."""
SIZES = {"train": 2_000, "val": 400, "test": 600}
"""Texts of each class."""
EPOCHS = 4


class TextClassifier(nn.Module):
    """Words and places, two layers of a transformer encoder, the mean over the words: (N, L) and (N, L) to logits."""

    def __init__(self, width: int = WIDTH, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, width, padding_idx=0), nn.Embedding(LENGTH, width)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(0.2)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.head = nn.Linear(width, len(CLASSES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.dropout(self.norm(self.words(input_ids) + self.places(torch.arange(input_ids.shape[1]))))
        for layer in self.layers:
            x = layer(x, attention_mask)
        weights = attention_mask[..., None].to(x.dtype)
        return self.head((x * weights).sum(1) / weights.sum(1))


class Layer(nn.Module):
    """Attention and two linear layers, each normalised after its sum with what goes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2, self.dropout = nn.LayerNorm(width), nn.LayerNorm(width), nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length = mask.shape
        q, k, v = (f(x).view(n, length, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        found = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :].bool())
        x = self.norm1(x + self.dropout(self.out(found.transpose(1, 2).reshape(n, length, -1))))
        return self.norm2(x + self.dropout(self.down(nn.functional.gelu(self.up(x)))))


def texts(library: str) -> Iterator[tuple[str, list[str]]]:
    """Split of its file and words of the docstrings of a library, in an order by chance."""
    origin = find_spec(library)
    root = Path(
        sysconfig.get_paths()["stdlib"]
        if library == "python"
        else str(origin and origin.origin and Path(origin.origin).parent)
    )
    names = (path.relative_to(root) for path in root.rglob("*.py"))
    kept = (name for name in names if not {"site-packages", "test", "tests"} & {*name.parts})
    for digest, name in sorted((hashlib.sha256(str(name).encode()).digest(), name) for name in kept):
        split = "val" if digest[0] < 40 else "test" if digest[0] < 100 else "train"
        try:
            tree = ast.parse((root / name).read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        documented = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.Module))]
        for text in filter(None, map(ast.get_docstring, documented)):
            words = [word for word in re.findall(r"[a-z]+|[^\sa-z]", text.lower()) if word not in CLASSES]
            if sum(map(str.isalpha, words)) >= 8:
                yield split, words[:LENGTH]


class Texts(Dataset[dict[str, Tensor]]):
    """Samples as data sets of Hugging Face give them."""

    def __init__(self, ids: Tensor, labels: Tensor) -> None:
        self.ids, self.labels = ids, labels

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[i], "attention_mask": (self.ids[i] > 0).long(), "labels": self.labels[i]}


def padded(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch, as long as its longest text."""
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    longest = int(batch["attention_mask"].sum(1).max())
    return {key: values[:, :longest] if values.dim() > 1 else values for key, values in batch.items()}


def loader(data: Texts, *, shuffle: bool = False) -> DataLoader[dict[str, Tensor]]:
    """Batches of 64."""
    return DataLoader(data, 64, shuffle=shuffle, drop_last=shuffle, collate_fn=padded)


def splits() -> dict[str, Texts]:
    """All texts as ids, read once."""
    cached = cache_folder() / "docstrings.pt"
    if not cached.exists():
        torch.save(_read(), cached)
    return {split: Texts(*tensors) for split, tensors in torch.load(cached, weights_only=True).items()}


def _read() -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, list[tuple[list[str], int]]] = {split: [] for split in SIZES}
    for label, library in enumerate(CLASSES):
        left = Counter(SIZES)
        for split, words in texts(library):
            if left[split] > 0:
                left[split] -= 1
                found[split].append((words, label))
            elif not +left:
                break
    counts = Counter(word for words, _ in found["train"] for word in words)
    numbers = {word: i + 2 for i, (word, _) in enumerate(counts.most_common(WORDS - 2))}
    result = {}
    for split, samples in found.items():
        ids = torch.zeros(len(samples), LENGTH, dtype=torch.long)
        for row, (words, _) in zip(ids, samples, strict=True):
            row[: len(words)] = torch.tensor([numbers.get(word, 1) for word in words])
        result[split] = ids, torch.tensor([label for _, label in samples])
    return result


def trained(data: Texts) -> TextClassifier:
    """The classifier, trained once."""
    torch.manual_seed(0)
    model, cached = TextClassifier(), cache_folder() / "docstrings_model.pt"
    if not cached.exists():
        batches = loader(data, shuffle=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=EPOCHS * len(batches))
        for batch in (batch for _ in range(EPOCHS) for batch in batches):
            labels = batch.pop("labels")
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(**batch), labels).backward()
            optimizer.step()
            schedule.step()
        torch.save(model.state_dict(), cached)
    model.load_state_dict(torch.load(cached, weights_only=True))
    return model.eval()


def task() -> Task:
    """The task of this example."""
    data = splits()
    example = {name: torch.ones(1, LENGTH, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    return Task.classification(
        trained(data["train"]),
        example_input=example,
        free_axes=(1,),
        train=loader(data["train"], shuffle=True),
        val=loader(data["val"]),
        test=loader(data["test"]),
        name="docstrings",
        classes=CLASSES,
        preprocessing=f"up to {LENGTH} words of a docstring as numbers of a vocabulary, without the names of libraries",
    )
