"""Train the uncompressed models of the examples and the benchmark.

python examples/train.py cifar10|fashion-mnist [--epochs N]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import datasets
import resnet
import torch
from datasets import Batches, TensorBatches
from torch import nn
from torch.nn import functional as F

CHECKPOINTS = Path(__file__).parent / "checkpoints"


@dataclass(frozen=True)
class Job:
    """A base model, its data and how long to train it."""

    model: Callable[[], nn.Module]
    batches: Callable[[], Batches]
    checkpoint: Path
    epochs: int
    peak_lr: float
    weight_decay: float


JOBS = {
    "cifar10": Job(
        resnet.cifar10_resnet,
        datasets.cifar10_batches,
        CHECKPOINTS / "cifar10_resnet.pt",
        epochs=20,
        peak_lr=0.2,
        weight_decay=5e-4,
    ),
    "fashion-mnist": Job(
        resnet.fashion_mnist_resnet,
        datasets.fashion_mnist_batches,
        CHECKPOINTS / "fashion_mnist_resnet.pt",
        epochs=80,
        peak_lr=0.1,
        weight_decay=1e-3,
    ),
}


def fast_dtype() -> torch.dtype | None:
    """Return bfloat16 where the processor multiplies it faster than float32, else None."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    fast = any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "amx_tile"))
    return torch.bfloat16 if fast else None


def trained(job: Job) -> nn.Module:
    """Return the job's model with the weights of its checkpoint."""
    if not job.checkpoint.exists():
        name = next(name for name, other in JOBS.items() if other is job)
        raise FileNotFoundError(f"{job.checkpoint} is missing; make it with: python examples/train.py {name}")
    model = job.model()
    model.load_state_dict(torch.load(job.checkpoint, map_location="cpu", weights_only=True))
    return model.eval()


def fit(model: nn.Module, batches: TensorBatches, job: Job, epochs: int) -> None:
    """Train with SGD (Nesterov), a one-cycle learning rate and label smoothing."""
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = epochs * len(batches)
    optimizer = torch.optim.SGD(
        model.parameters(), job.peak_lr, momentum=0.9, nesterov=True, weight_decay=job.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, job.peak_lr, total_steps=steps, pct_start=0.25)
    dtype = fast_dtype()
    for epoch in range(epochs):
        model.train()
        started, total = time.perf_counter(), 0.0
        for x, y in batches:
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                logits = model(x.to(memory_format=torch.channels_last))
                loss = F.cross_entropy(logits, y, label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - started
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(batches):.3f}, {seconds:.1f} s", flush=True)


@torch.inference_mode()
def accuracy(model: nn.Module, batches: TensorBatches) -> float:
    """Return the share of examples whose largest logit is at their label, computed in float32."""
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / len(batches.x)


def save(model: nn.Module, path: Path) -> None:
    """Save the weights as contiguous float32 tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    torch.save(state, path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a base model of the examples.")
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("--epochs", type=int, help="default: those of the job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--output", type=Path, help="default: the checkpoint that the task loads")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    job = JOBS[args.job]
    model, batches = job.model(), job.batches()
    fit(model, batches.train, job, args.epochs or job.epochs)
    output = args.output or job.checkpoint
    save(model, output)
    val, test = accuracy(model, batches.val), accuracy(model, batches.test)
    print(f"validation {val:.4f}, test {test:.4f}, in {output}")


if __name__ == "__main__":
    main()
