"""The stages that the package itself compares with, tries or puts in: nothing outside this folder names a technique."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocompress.compression.quantize import Quantize
from autocompress.compression.stage import Stage
from autocompress.compression.structure import NetworkStructure
from autocompress.compression.techniques.distill import Distill
from autocompress.compression.techniques.early_exit import EarlyExit
from autocompress.compression.techniques.prune import Prune
from autocompress.compression.techniques.ptq import Ptq

_RATIOS = (0.25, 0.5, 0.75)
"""Of the pipelines that people put together by hand."""


def baselines() -> Mapping[str, tuple[Stage, ...]]:
    """What every study is compared with."""
    return {"fp32": (), "fp16": (quantised(weight_bits=16, activation_bits=32),), "int8": (quantised(),)}


def quantised(**settings: Any) -> Quantize:
    """The stage of a network in other number formats, without training: int8 if nothing else is said."""
    return Ptq.model_validate(settings)


def shrunk(ratio: float, round_to: int) -> Stage:
    """The stage of a network that has lost a share of the channels of every group, the least important ones."""
    return Prune(ratio=ratio, round_to=round_to)


def narrowed(ratios: Mapping[str, float], round_to: int) -> Stage:
    """The stage of a network with fewer channels, whichever they are: for its shapes."""
    return Prune(ratio=dict(ratios), importance="l1", round_to=round_to)


def exits(**settings: Any) -> Stage:
    """The stage that attaches early exits: one, if nothing else is said."""
    return EarlyExit.model_validate(settings)


def repair() -> Stage:
    """What every change of the structure needs."""
    return Distill().repair()


def pipelines(
    usual: Sequence[Stage], network: NetworkStructure, *, trainable: bool
) -> list[tuple[str, tuple[Stage, ...]]]:
    """What people put together by hand: the same ratio everywhere, trained as long as usual, int8.

    Args:
        usual: stages of a search; their number of epochs, learning rate and step of widths are used.
        network: its parts.
        trainable: whether the task brings training data.
    """
    training = next((stage for stage in usual if isinstance(stage, Distill)), Distill())
    round_to = next((stage.round_to for stage in usual if isinstance(stage, Prune)), 8)
    kinds = {"no training": training.repair()}
    if trainable:
        kinds = {"fine-tuning": training.model_copy(update={"weight": 0.0}), "distillation": training}
    int8, also = ((quantised(),), " + int8") if network.layers else ((), "")
    made: list[tuple[str, tuple[Stage, ...]]] = [
        (f"prune {ratio:.0%} + {name}{also}", (Prune(ratio=ratio, round_to=round_to), stage, *int8))
        for ratio in (_RATIOS if network.groups else ())
        for name, stage in kinds.items()
    ]
    if network.places and network.groups and trainable:
        stages = (EarlyExit(), Prune(ratio=0.5, round_to=round_to), training, *int8)
        made.append((f"exit + prune 50% + distillation{also}", stages))
    return made
