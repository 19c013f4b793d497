"""How many recipes a second does the screen cost, and how far is it from the graph-based forecast?

    python benchmarks/screening.py [--n 50000] [--checked 40]

The network is a residual one of ResNet-18's shape (11 million parameters, 3x224x224, untrained: costs do not depend on
the weights); the space prunes every group by its own ratio and gives every layer 4 or 8 bits. One thread, CPU time, the
best of five batches; the one-off reading of the network is timed beside it. The record goes to results/records/.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from autocompress import DeviceProfile, SearchSpace, Task
from autocompress.controller.plan import Fixed, now, versions
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.screening import Screen
from autocompress.recipes.domains import Choice, Domain

SPACE = {
    "version": 1,
    "stages": [
        {
            "technique": "prune",
            "ratio": {"per": "layer", "low": 0.0, "high": 0.75, "step": 0.0625},
            "round_to": 8,
        },
        {"technique": "ptq", "weight_bits": {"per": "layer", "choice": [8, 4]}, "activation_bits": 8},
    ],
}


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut: nn.Module = nn.Identity() if same else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def network() -> nn.Module:
    """ResNet-18 (He et al., arXiv 1512.03385)."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    width = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(width, outputs, stride), Block(outputs, outputs, 1)]
        width = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)]
    return nn.Sequential(*layers).eval()


def resnet18() -> Evaluator:
    """An evaluator of the network, on a Raspberry Pi 4, in one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    example = torch.zeros(1, 3, 224, 224)
    data = TensorDataset(torch.randn(8, 3, 224, 224), torch.randint(0, 1000, (8,)))
    task = Task.classification(network(), train=data, val=data, example_input=example, name="resnet18")
    return Evaluator(task, DeviceProfile.load("raspberry-pi-4"))


def draw(domain: Domain, rng: np.random.Generator, n: int) -> np.ndarray:
    """N values of one knob."""
    if isinstance(domain, Choice):
        return np.array(domain.values)[rng.integers(len(domain.values), size=n)]
    steps = np.array([domain.at(fraction) for fraction in np.linspace(0, 1, 65)])
    return steps[rng.integers(len(steps), size=n)]


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--checked", type=int, default=40)
    arguments = parser.parse_args()
    evaluator = resnet18()
    space, outline = SearchSpace.parse(SPACE), evaluator.analysis.outline
    rng = np.random.default_rng(0)
    started = time.process_time()
    screen = Screen(evaluator, space)
    settings = {name: draw(domain, rng, arguments.n) for name, domain in space.knobs(outline).items()}
    few = {name: values[: arguments.checked] for name, values in settings.items()}
    costs = screen.costs(few)
    reading_s = time.process_time() - started
    errors = []
    for i in range(arguments.checked):
        recipe = space.sample(Fixed({name: v[i].item() for name, v in few.items()}), outline)
        forecast = evaluator.forecast(recipe)
        exact = np.array([forecast.worst_case_ms, forecast.size_bytes, forecast.cost.peak_memory_bytes])
        screened = np.array([costs.worst_case_ms[i], costs.size_bytes[i], costs.peak_memory_bytes[i]])
        errors.append(screened / exact - 1)
    seconds = []
    for _ in range(5):
        settings = {name: draw(domain, rng, arguments.n) for name, domain in space.knobs(outline).items()}
        started = time.process_time()
        screen.costs(settings)
        seconds.append(time.process_time() - started)
    largest = np.abs(errors).max(0)
    record = {
        "benchmark": "screening", "at": now(), "versions": versions(), "n": arguments.n, "knobs": len(settings),
        "candidates_per_second": round(arguments.n / min(seconds)), "batch_cpu_s": [round(s, 3) for s in seconds],
        "reading_cpu_s": round(reading_s, 1), "checked": arguments.checked,
        "largest_relative_difference": dict(zip(("latency", "size", "memory"), map(float, largest), strict=True)),
    }  # fmt: skip
    print(json.dumps(record, indent=1))
    path = Path("results/records/screening.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
