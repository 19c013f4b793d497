"""Runs a network as if some of its channels did not exist, without removing them: what pruning is compared with.

The channels are set to not-a-number (NaN) where they are made, and NaN follows them through whatever the network does.
Where a layer reads a channel that is NaN throughout, the channel is left out of the sum, which is the same as setting
it to zero behind its last activation (zero in front of a sigmoid would not be). This knows nothing of the layout of
channels: if pruning took other columns than those that the channels feed, the outputs differ.

Two kinds of operation depend on the number of channels, whatever their values: LayerNorm, GroupNorm and RMSNorm, whose
mean and variance are those of the remaining channels, and attention's 1 / sqrt(width of a head). There, "as if they did
not exist" is not "zero" but the statistics of the rest, which is what a narrower network computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from autocompress.tasks.torch_utils import in_known_operators

Mark = tuple[str, int, NDArray[np.int64]]
"""Channels where they are made: name of a parameter, axis, indices along it."""


@contextmanager
def absent(model: nn.Module, marks: Iterable[Mark]) -> Iterator[None]:
    """Let the channels be absent from the model; it is as it was afterwards."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved: dict[str, Tensor] = {}
    with torch.no_grad():
        try:
            for name, axis, indices in marks:
                saved.setdefault(name, tensors[name].detach().clone())
                tensors[name].data.index_fill_(axis, torch.from_numpy(indices), math.nan)
            _rescale_attention(model, saved)
            with in_known_operators(), _LeftOut():  # type: ignore[no-untyped-call]
                yield
        finally:
            for name, values in saved.items():
                tensors[name].data.copy_(values)


def _rescale_attention(model: nn.Module, saved: dict[str, Tensor]) -> None:
    """Queries of a head that lost channels are divided by the square root of the channels left."""
    for path, module in model.named_modules():
        name = f"{path}.in_proj_weight".lstrip(".")
        if not isinstance(module, nn.MultiheadAttention) or name not in saved:
            continue
        weight, width = module.in_proj_weight.data, module.embed_dim
        left = int((~weight[:width].isnan().any(1)).sum())
        weight[:width] *= math.sqrt(width / max(left, 1))
        bias = f"{path}.in_proj_bias".lstrip(".")
        if module.in_proj_bias is not None:
            saved.setdefault(bias, module.in_proj_bias.detach().clone())
            module.in_proj_bias.data[:width] *= math.sqrt(width / max(left, 1))


class _LeftOut(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Leaves NaN out of sums over channels."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func.overloadpacket.__name__)
        if rule is None:
            return func(*args, **(kwargs or {}))
        return rule(func, args, kwargs or {})


def _gone(x: Tensor, dims: Any) -> Tensor:
    """Where all along some dimensions is NaN, or NaN beside padding with zeros."""
    empty = x.isnan()
    return empty.any(dims, keepdim=True) & (empty | (x == 0)).all(dims, keepdim=True) if empty.any() else empty[:0]


def _convolution(func: Any, args: Any, kwargs: Any) -> Any:
    x = args[0]
    gone = _gone(x, [d for d in range(x.dim()) if d != 1])
    return func(x.masked_fill(gone, 0) if gone.numel() else x, *args[1:], **kwargs)


def _product(func: Any, args: Any, kwargs: Any) -> Any:
    *bias, a, b = args
    if not (a.isnan().any() or b.isnan().any()):
        return func(*args, **kwargs)
    gone = _all_nan(a, -2).squeeze(-2) | _all_nan(b, -1).squeeze(-1)
    gone &= ~gone.all(-1, keepdim=True)
    a, b = a.masked_fill(gone.unsqueeze(-2), 0), b.masked_fill(gone.unsqueeze(-1), 0)
    return func(*bias, a, b, **kwargs)


def _all_nan(x: Tensor, dim: int) -> Tensor:
    empty = x.isnan()
    return empty.any(dim, keepdim=True) & (empty | (x == 0)).all(dim, keepdim=True)


def _attention(func: Any, args: Any, kwargs: Any) -> Any:
    q, k, *others = args
    gone = _all_nan(q, -2) | _all_nan(k, -2) if q.shape[:2] == k.shape[:2] else _all_nan(q, -2)
    gone &= ~gone.all(-1, keepdim=True)
    return func(q.masked_fill(gone, 0), k.masked_fill(gone, 0) if k.shape[:2] == q.shape[:2] else k, *others, **kwargs)


def _layer_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, shape, weight, bias, eps = args
    if not x.isnan().any():
        return func(*args, **kwargs)
    dims = tuple(range(-len(shape), 0))
    mean = x.nanmean(dims, keepdim=True)
    rstd = ((x - mean) ** 2).nanmean(dims, keepdim=True).add(eps).rsqrt()
    return _affine((x - mean) * rstd, weight, bias), mean, rstd


def _rms_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, shape, weight, eps = args
    if not x.isnan().any():
        return func(*args, **kwargs)
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    rstd = (x**2).nanmean(tuple(range(-len(shape), 0)), keepdim=True).add(eps).rsqrt()
    return _affine(x * rstd, weight, None), rstd


def _group_norm(func: Any, args: Any, kwargs: Any) -> Any:
    x, weight, bias, n, channels, _, groups, eps = args
    if not x.isnan().any():
        return func(*args, **kwargs)
    y = x.reshape(n, groups, -1)
    mean = y.nanmean(-1, keepdim=True)
    rstd = ((y - mean) ** 2).nanmean(-1, keepdim=True).add(eps).rsqrt()
    shape = (1, channels, *(1,) * (x.dim() - 2))
    own = [None if t is None else t.reshape(shape) for t in (weight, bias)]
    return _affine(((y - mean) * rstd).reshape(x.shape), *own), mean.squeeze(-1), rstd.squeeze(-1)


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _sum(func: Any, args: Any, kwargs: Any) -> Any:
    """A sum counts absent channels as zero, and is absent where all are; a mean divides by all, as with zeros."""
    x = args[0]
    if not x.isnan().any():
        return func(*args, **kwargs)
    share = func(x.isnan().to(x.dtype), *args[1:], **kwargs)
    most = func(torch.ones_like(x), *args[1:], **kwargs)
    return func(x.nan_to_num(0.0), *args[1:], **kwargs).masked_fill(share == most, math.nan)


def _recurrent(func: Any, args: Any, kwargs: Any) -> Any:
    return func(args[0].nan_to_num(0.0), *args[1:], **kwargs)


_RULES = {
    "convolution": _convolution,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _product),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
        ),
        _attention,
    ),
    "native_layer_norm": _layer_norm,
    "_fused_rms_norm": _rms_norm,
    "native_group_norm": _group_norm,
    **dict.fromkeys(("mean", "sum"), _sum),
    "mkldnn_rnn_layer": _recurrent,
}
