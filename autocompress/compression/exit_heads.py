"""Early exits as modules: heads, and the network that carries them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn


class ExitHead(nn.Module):
    """Turns the features at a place of the network into logits.

    Shapes: (N, C, H, W), (N, C, L) or (N, tokens, C) -> (N, n_classes). With `hidden` there is a strided
    3x3 convolution in front of the pooling (BranchyNet, Teerapittayanon et al., arXiv 1709.01686).
    """

    def __init__(self, channels: int, n_classes: int, layout: str, hidden: int = 0) -> None:
        super().__init__()
        self.layout = layout
        self.body: nn.Module = nn.Identity()
        if hidden and layout == "nchw":
            self.body = nn.Sequential(
                nn.Conv2d(channels, hidden, 3, 2, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()
            )
            channels = hidden
        self.classifier = nn.Linear(channels, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Pool over everything but batch and channels, then classify."""
        x = self.body(x)
        if self.layout == "nchw":
            x = x.mean((2, 3))
        elif self.layout == "ncl":
            x = x.mean(2)
        elif self.layout == "nlc":
            x = x.mean(1)
        logits: Tensor = self.classifier(x)
        return logits


class ExitOutputs(NamedTuple):
    """What a network with early exits returns; a plain tuple is the outputs of a network that has several."""

    exits: tuple[Tensor, ...]
    """Logits (N, n_classes) of each, in order of execution."""
    output: Tensor
    """Of the network itself."""


class MultiExit(nn.Module):
    """A network with exit heads at some of its modules.

    The features are caught by hooks that live only during a call, so that copies of the module stay independent.
    """

    def __init__(self, backbone: nn.Module, heads: Mapping[str, ExitHead]) -> None:
        super().__init__()
        self.backbone = backbone
        self.places = tuple(heads)
        self.heads = nn.ModuleList(heads.values())

    def forward(self, *inputs: Tensor) -> ExitOutputs:
        """Return (N, n_classes) for each exit in order of execution, and the network's own output."""
        features: dict[str, Tensor] = {}
        hooks = [self._catch(place, features) for place in self.places]
        try:
            output = self.backbone(*inputs)
        finally:
            for hook in hooks:
                hook.remove()
        exits = (head(features[place]) for head, place in zip(self.heads, self.places, strict=True))
        return ExitOutputs(tuple(exits), output)

    def _catch(self, place: str, features: dict[str, Tensor]) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            features[place] = output

        return self.backbone.get_submodule(place).register_forward_hook(hook)
