from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from helpers.tasks import make_workshop
from helpers.zoo import ZOO
from torch import Tensor, nn
from torch.nn import functional as F

from autocompress.compression import channels
from autocompress.compression.analysis import analyze, count_macs
from autocompress.compression.candidate import Context
from autocompress.tasks.metric import Metric
from autocompress.tasks.task import Task

Get = Callable[[str], Context]


@pytest.mark.parametrize("name", sorted(ZOO))
def test_layers_groups_and_places_come_in_order_of_execution(name: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    analysis, model = context.analysis, context.task.model
    executed: list[str] = []
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    hooks = [
        m.register_forward_hook(lambda *_, n=n: executed.append(n))
        for n, m in model.named_modules()
        if isinstance(m, kinds)
    ]
    with torch.no_grad():
        model(context.task.example_input)
    for hook in hooks:
        hook.remove()
    order = list(dict.fromkeys(executed))
    assert list(analysis.layers) == order
    assert list(analysis.groups) == sorted(analysis.groups, key=order.index)
    assert [p.fraction for p in analysis.places] == sorted(p.fraction for p in analysis.places)
    stages = [int(s.removeprefix("stage")) for s in analysis.layers.values()]
    assert stages == sorted(stages) and stages[0] == 1
    assert not set(analysis.groups) & set(analysis.unprunable) and analysis.groups


@pytest.mark.parametrize("name", sorted(ZOO))
def test_places_have_the_stated_shape(name: str, workshop_of: Get) -> None:
    context = workshop_of(name)
    for place in context.analysis.places:
        caught: list[Tensor] = []
        hook = context.task.model.get_submodule(place.name).register_forward_hook(lambda m, i, o, c=caught: c.append(o))
        with torch.no_grad():
            context.task.model(context.task.example_input)
        hook.remove()
        shape = caught[0].shape
        assert len(caught) == 1 and len(shape) == {"nchw": 4, "ncl": 3, "nlc": 3}[place.layout]
        assert place.channels == shape[-1 if place.layout == "nlc" else 1]
        assert 0.05 <= place.fraction <= 0.9


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("resnet", {"stem.2": "nchw", "blocks.0": "nchw", "blocks.1": "nchw"}),
        ("vit", {"blocks.0": "nlc"}),
        ("audio1d", {"features.2": "ncl", "features.5": "ncl"}),
        ("shared", {"left": "nchw", "right": "nchw"}),  # no block fits: any module will do
        ("mlp", {}),
    ],
)
def test_places_of_known_networks(name: str, places: dict[str, str], workshop_of: Get) -> None:
    assert {p.name: p.layout for p in workshop_of(name).analysis.places} == places


def test_unprunable_parts_are_reported_with_the_reason(workshop_of: Get) -> None:
    assert workshop_of("resnet").analysis.unprunable == {"fc": "output of the network"}
    vit = workshop_of("vit").analysis.unprunable
    assert set(vit) == {"patch_embed", "blocks.0.attn.qkv", "blocks.1.attn.qkv", "head"}
    assert "shape" in vit["blocks.0.attn.qkv"]
    assert set(workshop_of("shared").analysis.unprunable) == {"fc", "left", "right"}


def test_heads_are_prunable_where_shapes_follow_the_weights(workshop_of: Get) -> None:
    analysis = workshop_of("vit_matmul").analysis
    assert analysis.widths["blocks.0.attn.qkv"] == 4  # heads, not channels
    assert analysis.widths["patch_embed"] == 32 and analysis.widths["blocks.1.mlp.fc1"] == 64


def test_macs_of_a_network_counted_by_hand(workshop_of: Get) -> None:
    model, example = ZOO["mlp"]()
    assert count_macs(model, example) == 24 * 64 + 64 * 32 + 32 * 4 == workshop_of("mlp").analysis.macs
    audio = 8 * 9 * 128 + 16 * 8 * 5 * 64 + 32 * 16 * 5 * 32 + 32 * 4
    assert workshop_of("audio1d").analysis.macs == audio
    grouped = (16 * 27 + 16 * 32 + 32 * 8 * 9 + 32 * 16) * 256 + 32 * 8 * 9 * 64 + 32 * 4
    assert workshop_of("grouped").analysis.macs == grouped


class Windows(nn.Module):
    """A linear layer on 4 windows of 16 tokens each, folded into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.reshape(-1, 16, 8)).reshape(x.shape[0], 64, 4)


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (Windows(), (64, 8), 64 * 8 * 4),
        (nn.Conv3d(3, 8, 3), (3, 8, 8, 8), 8 * 6**3 * 3 * 27),
        (nn.ConvTranspose2d(4, 6, 2, 2, groups=2), (4, 5, 5), 4 * 25 * 3 * 4),
    ],
    ids=["windows", "3-D", "transposed"],
)
def test_macs_of_unusual_layers_counted_by_hand(model: nn.Module, shape: tuple[int, ...], macs: int) -> None:
    assert count_macs(model, torch.zeros(2, *shape)) == macs


def test_shared_layers_count_once_per_call(workshop_of: Get) -> None:
    analysis = workshop_of("shared").analysis
    once = (3 * 9 * 12 + 12 * 8 + 12 * 9 * 8 + 16 * 9 * 24) * 256 + 24 * 4
    assert analysis.macs == once + 2 * 12 * 12 * 9 * 256


def test_dissecting_leaves_the_model_as_it_was() -> None:
    model, example = ZOO["resnet"]()
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    analyze(Task.classification(model, example_input=example, val=[]))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(m.training and not m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("error", [ZeroDivisionError("float division"), KeyError(3), AssertionError()])
def test_errors_of_the_analysis_are_reported_not_raised(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(channels, "trace_channels", fail)
    analysis = make_workshop("mlp").analysis
    assert not analysis.groups and list(analysis.layers) == ["0", "3", "6"]
    reason = analysis.unprunable["(whole network)"]
    assert reason.startswith(f"its structure cannot be followed: {type(error).__name__}")


def test_no_exits_for_other_tasks_than_classifications() -> None:
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
            self.out = nn.Conv2d(16, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(self.out(self.body(x)), scale_factor=2)

    metric = Metric("x", lambda o, t: o.mean((1, 2, 3)))
    task = Task(Segmenter().eval(), torch.zeros(1, 3, 16, 16), val=[], kind="other", metric=metric)
    analysis = analyze(task)
    assert analysis.places == () and set(analysis.groups) == {"body.0", "body.2"}
    assert analysis.unprunable == {"out": "output of the network"}


def test_squeeze_and_excitation_belongs_to_the_stage_around_it() -> None:
    class Squeeze(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.down = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 4, 1)
            self.up, self.conv2 = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 3, 1, 1)
            self.conv3, self.fc = nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x)
            x = self.conv2(x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))))
            return self.fc(self.conv3(x).mean((2, 3)))

    analysis = analyze(Task.classification(Squeeze().eval(), example_input=torch.zeros(1, 3, 8, 8), val=[]))
    assert [analysis.layers[n] for n in ("conv1", "down", "up", "conv2", "conv3")] == ["stage1"] * 4 + ["stage2"]
