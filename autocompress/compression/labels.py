"""Finds out which channels of a network belong together, by running it once on labels instead of numbers.

Every output channel of every layer gets a label of its own. Whatever the network does to a tensor without mixing its
channels (reshape, permute, concatenate, pad, flip, pool, ...) is done to the tensor of its labels in the same way, so
that a layer that reads it is known to read this label in that column. Where two labels meet, as in a sum, their
channels can only be removed together. An operation without a rule fixes the channels that it reads, no others.

The dependency graph is that of G. Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023,
arXiv 2301.12900; it is read off the data instead of the operators' index arithmetic, so that no path is walked twice:
time and memory are those of a few forward passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from autocompress.tasks.interface import Inputs, values
from autocompress.tasks.torch_utils import evaluating, in_known_operators, tensors_in

Ints = NDArray[np.int64]
Axis = tuple[str, int]
"""Name of a parameter or buffer, and one of its axes."""

FREE, FIXED = 0, 1
"""Labels of what is no channel (a constant, padding), and of channels that must stay."""

OUTPUT = "output of the network"
"""The reason why what makes an output stays."""


@dataclass(frozen=True)
class Channels:
    """What belongs together, for each axis along which a parameter can be cut."""

    component: dict[Axis, Ints]
    """For each index along the axis the number of the component it belongs to."""
    known: NDArray[np.bool_]
    """Of each component, whether channels of a layer are in it."""
    fixed: dict[int, str]
    """Components that must stay, with the reason."""
    heads: set[int]
    """Components in which queries met keys: heads of attention."""
    reads: set[Axis]
    """Axes along which a layer reads its input."""
    produces: set[Axis]
    """Axes along which a layer has the channels of its output."""


def trace_channels(model: nn.Module, example: Inputs) -> Channels:
    """Run the model in evaluation mode on labels.

    Args:
        model: not changed.
        example: inputs, each (N, ...).

    Raises:
        Exception: whatever the model raises when it is run.
    """
    mode = _Labelling(model, example)
    hooks = [m.register_forward_pre_hook(mode.enter, with_kwargs=True) for m in mode.attentions]
    hooks += [m.register_forward_hook(mode.leave, with_kwargs=True) for m in mode.attentions]
    try:
        with torch.no_grad(), evaluating(model), in_known_operators(), mode:
            output = model(*values(example))
    finally:
        for hook in hooks:
            hook.remove()
    for tensor in tensors_in(output):
        mode.fix(OUTPUT, mode.labels_of(tensor))
    return mode.channels()


@dataclass
class _Nodes:
    """Numbers given to channels, and which of them were found to belong together."""

    count: int = 2
    pairs: list[Ints] = field(default_factory=list)
    fixed: list[tuple[Ints, str]] = field(default_factory=list)

    def new(self, n: int) -> Tensor:
        """Return n labels, shape (n,)."""
        self.count += n
        return torch.arange(self.count - n, self.count, dtype=torch.float64)

    def join(self, a: Tensor, b: Tensor) -> None:
        """Let equally placed labels of two tensors, which can be broadcast, belong together."""
        pairs = torch.stack(torch.broadcast_tensors(a, b)).reshape(2, -1)  # type: ignore[no-untyped-call]
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs[0] != FREE) & (pairs[1] != FREE)]
        if pairs.numel():
            self.pairs.append(np.unique(pairs.numpy().astype(np.int64), axis=1))


class _Labelling(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the labels of every tensor through the operations on it."""

    def __init__(self, model: nn.Module, example: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nodes = _Nodes()
        self.names: dict[int, str] = {}
        self.keep = [*model.named_parameters(), *model.named_buffers()]
        for name, tensor in self.keep:
            if tensor.is_floating_point() and tensor.dim() > 0:
                self.names.setdefault(id(tensor), name)
        self.attentions = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
        self.axes: dict[Axis, Tensor] = {}
        self.elements: dict[str, Tensor] = {}
        self.reads: set[Axis] = set()
        self.produces: set[Axis] = set()
        self.head_labels: list[Ints] = []
        self._inside = 0
        self._labels = WeakTensorKeyDictionary()
        self._matrices = WeakTensorKeyDictionary()
        for tensor in values(example):
            self._set(tensor, torch.full((1,) * tensor.dim(), FIXED, dtype=torch.float64).expand(tensor.shape))

    # -- the state

    def labels_of(self, tensor: Tensor) -> Tensor:
        """Labels of a tensor, of its shape; those of a parameter are one for each element until it is known better."""
        if tensor in self._labels:
            return self._labels[tensor]  # type: ignore[no-any-return]
        name = self.names.get(id(tensor))
        if name is None:
            return torch.zeros((1,) * tensor.dim(), dtype=torch.float64).expand(tensor.shape)
        if name not in self.elements:
            self.elements[name] = self.nodes.new(tensor.numel()).reshape(tensor.shape)
        return self.elements[name]

    def has_labels(self, tensor: object) -> bool:
        """Whether there can be a label on the tensor."""
        return isinstance(tensor, Tensor) and (tensor in self._labels or id(tensor) in self.names)

    def axis(self, name: str, axis: int, size: int) -> Tensor:
        """Labels along an axis of a parameter that a layer multiplies with."""
        if (name, axis) not in self.axes:
            self.axes[name, axis] = self.nodes.new(size)
        return self.axes[name, axis]

    def fix(self, reason: str, *labels: Tensor) -> None:
        """Let the channels stay."""
        for tensor in labels:
            found = np.unique(_compact(tensor).numpy().astype(np.int64))
            if (found := found[found != FREE]).size:
                self.nodes.fixed.append((found, reason))

    def constant(self, labels: Tensor, dims: Sequence[int]) -> Tensor:
        """Labels without some dimensions, which become 1; those that differ along them belong together."""
        for dim in dims:
            if labels.shape[dim] == 1 or labels.stride(dim) == 0:
                labels = labels.narrow(dim, 0, 1)
                continue
            most = labels.amax(dim, keepdim=True)
            self.nodes.join(labels, most)
            labels = most
        return labels

    def _set(self, tensor: object, labels: Tensor) -> None:
        if isinstance(tensor, Tensor):
            self._labels[tensor] = labels if labels.shape == tensor.shape else labels.expand(tensor.shape)

    # -- the operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and its rule on the labels."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self._inside:
            return output
        name = func.overloadpacket.__name__.rstrip("_")
        if name in ("t", "transpose", "permute", "alias", "detach") and isinstance(args[0], Tensor):
            self._remember_matrix(name, args, output)
        inputs = [t for t in _flat((args, kwargs)) if self.has_labels(t)]
        if not inputs or name in _IGNORED or (isinstance(output, Tensor) and output in self._matrices):
            return output
        if rule := _RULES.get(name):
            rule(self, func, args, kwargs, output)
        elif torch.Tag.pointwise in func.tags or name in _POINTWISE:
            self._pointwise(inputs, output)
        else:
            self.fix(f"no rule for the operation {name}", *(self.labels_of(t) for t in inputs if t in self._labels))
        return output

    def _remember_matrix(self, name: str, args: Any, output: Tensor) -> None:
        """Know a transposed parameter as such: that is what F.linear multiplies with."""
        source = args[0]
        own = self.names.get(id(source))
        known = self._matrices.get(source) or ((own, (0, 1)) if own and source.dim() == 2 else None)  # type: ignore[no-untyped-call]
        if known:
            self._matrices[output] = known if name in ("alias", "detach") else (known[0], known[1][::-1])

    def matrix(self, tensor: Tensor) -> tuple[str, tuple[int, int]] | None:
        """The parameter that a matrix is, with the axes of it that are its rows and its columns."""
        if tensor in self._matrices:
            return self._matrices[tensor]  # type: ignore[no-any-return]
        name = self.names.get(id(tensor))
        return (name, (0, 1)) if name and tensor.dim() == 2 else None

    def _pointwise(self, inputs: Sequence[Tensor], output: Any) -> None:
        found = [self.labels_of(t) for t in inputs]
        first, *others = [labels for labels in found if not _is_for_all(labels, found)]
        for other in others:
            a, b = _together(first, other)
            self.nodes.join(a, b)
            first = torch.maximum(*torch.broadcast_tensors(a, b)).expand(  # type: ignore[no-untyped-call]
                torch.broadcast_shapes(first.shape, other.shape)  # type: ignore[no-untyped-call]
            )
        for tensor in tensors_in(output):
            self._set(tensor, first)

    # -- nn.MultiheadAttention: width and heads share one number, `embed_dim`, so that both shrink together

    def enter(self, module: nn.MultiheadAttention, args: Any, kwargs: Any) -> None:
        """Stop following."""
        self._inside += 1

    def leave(self, module: nn.MultiheadAttention, args: Any, kwargs: Any, output: Any) -> None:
        """Channel i of the width goes with channel i of queries, keys and values, in every head."""
        self._inside -= 1
        if self._inside:
            return
        streams = [t for t in (*args[:3], kwargs.get("query"), kwargs.get("key"), kwargs.get("value")) if t is not None]
        labels = [self.constant(self.labels_of(t), range(t.dim() - 1)).reshape(-1) for t in streams]
        out = self.names.get(id(module.out_proj.weight))
        if module.in_proj_weight is None or out is None or module.bias_k is not None or not module._qkv_same_embed_dim:
            return self.fix("attention with widths of its own", *labels)
        name, width = self.names[id(module.in_proj_weight)], module.embed_dim
        inner = self.axis(name, 0, 3 * width).view(3, module.num_heads, -1)
        self.nodes.join(inner, inner[:1, :1])
        columns, rows = self.axis(name, 1, width), self.axis(out, 0, width)
        for other in (columns, rows, self.axis(out, 1, width), *labels):
            self.nodes.join(inner[0].reshape(-1), other)
        for bias, weight in ((module.in_proj_bias, inner.reshape(-1)), (module.out_proj.bias, rows)):
            if bias is not None:
                self.nodes.join(self.labels_of(bias), weight)
        self.reads |= {(name, 1), (out, 1)}
        self.produces |= {(out, 0)}
        result = output[0] if isinstance(output, tuple) else output
        self._set(result, rows.expand(result.shape))

    # -- the end

    def channels(self) -> Channels:
        """Join what belongs together."""
        component, n = self._components()
        reasons: dict[int, str] = {}
        for nodes, reason in sorted(self.nodes.fixed, key=lambda pair: pair[1] != OUTPUT):
            for c in np.unique(component[nodes[nodes != FIXED]]).tolist():
                reasons.setdefault(c, reason)
        reasons.setdefault(int(component[FIXED]), "it meets the input of the network")
        parts = {axis: component[_ints(labels)] for axis, labels in self.axes.items()}
        produced = [parts[axis] for axis in self.produces if axis in parts]
        known = np.zeros(n, bool)
        known[np.concatenate([np.zeros(0, np.int64), *produced])] = True
        for name, labels in self.elements.items():
            own = component[_ints(labels)]
            if not known[own].any():
                continue
            axis = _varying_axis(own)
            if axis is None:
                for c in np.unique(own[known[own]]).tolist():
                    reasons.setdefault(c, f"{name} cannot be cut along one axis")
            else:
                parts.setdefault((name, axis), np.moveaxis(own, axis, 0).reshape(own.shape[axis], -1)[:, 0])
        heads = {c for labels in self.head_labels for c in component[labels[labels > FIXED]].tolist()}
        return Channels(parts, known, reasons, heads, self.reads, self.produces)

    def _components(self) -> tuple[Ints, int]:
        pairs = np.concatenate([np.zeros((2, 0), np.int64), *self.nodes.pairs], axis=1)
        ones = np.ones(pairs.shape[1], np.int8)
        n, component = connected_components(coo_array((ones, (pairs[0], pairs[1])), shape=(self.nodes.count,) * 2))
        return component.astype(np.int64), int(n)


def _ints(labels: Tensor) -> Ints:
    return labels.numpy().astype(np.int64)


def _varying_axis(values: Ints) -> int | None:
    """The only axis along which values differ; the longest one where none does."""
    varying = [a for a in range(values.ndim) if (values != values.take([0], a)).any()]
    if len(varying) > 1:
        return None
    return varying[0] if varying else int(np.argmax(values.shape))


def _flat(value: Any) -> Iterator[Any]:
    """All that is in nested lists, tuples and dicts."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _flat(item)
    elif isinstance(value, dict):
        yield from _flat(list(value.values()))
    else:
        yield value


def _compact(labels: Tensor) -> Tensor:
    """Without repetitions that take no memory."""
    for dim in range(labels.dim()):
        if labels.shape[dim] > 1 and labels.stride(dim) == 0:
            labels = labels.narrow(dim, 0, 1)
    return labels


def _repeating(labels: Tensor) -> Tensor:
    """The same labels; where they do not change along a dimension, the repetition takes no memory."""
    shape = labels.shape
    for dim in range(labels.dim()):
        one = labels.narrow(dim, 0, 1)
        if labels.shape[dim] > 1 and (labels.stride(dim) == 0 or bool((labels == one).all())):
            labels = one
    return labels.expand(shape)


def _is_for_all(labels: Tensor, others: Sequence[Tensor]) -> bool:
    """Whether a part of the input, such as a mask, is one number for all channels of something that it meets."""
    if not bool((_compact(labels) == FIXED).all()):
        return False
    for other in others:
        varying = [d for d in range(-other.dim(), 0) if _compact(other).shape[d] > 1]
        if varying and all(-d > labels.dim() or labels.shape[d] == 1 for d in varying):
            return True
    return False


def _together(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors of labels without the dimensions along which both of them repeat."""
    n = max(a.dim(), b.dim())
    a, b = (t.reshape(*(1,) * (n - t.dim()), *t.shape) if t.dim() < n else t for t in (a, b))
    for dim in range(n):
        if all(t.shape[dim] == 1 or t.stride(dim) == 0 for t in (a, b)):
            a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
    return a, b


# -- rules: what an operation does to labels


def _same(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    mode._set(next(tensors_in(output)), mode.labels_of(args[0]))


def _replayed(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Moves elements about: do the same to their labels."""
    name = func.overloadpacket.__name__

    def labels(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(map(labels, value))
        floating = isinstance(value, Tensor) and (value.is_floating_point() or mode.has_labels(value))
        return mode.labels_of(value) if floating else value

    if name in ("view", "_unsafe_view"):
        result = labels(args[0]).reshape(output.shape)
    elif name in ("index", "index_select", "gather"):  # what else is given are places
        result = func(labels(args[0]), *args[1:], **kwargs)
    elif name == "constant_pad_nd":
        result = func(labels(args[0]), args[1], FREE)
    else:
        result = func(*(labels(a) for a in args), **kwargs)
    for tensor, own in zip(tensors_in(output), tensors_in(result), strict=True):
        mode._set(tensor, _repeating(own))


def _pooled(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    """Works on each channel alone, along the last 1, 2 or 3 dimensions."""
    name = func.overloadpacket.__name__
    n = next((int(c) for c in name if c in "123"), 2)
    n = 2 if "nearest2d" in name or "bilinear2d" in name else n
    labels = mode.labels_of(args[0])
    first = next(tensors_in(output))
    mode._set(first, mode.constant(labels, range(labels.dim() - n, labels.dim())))


_REDUCED_DIM = {"linalg_vector_norm": 2}


def _reduced(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    """A sum or the like; across channels, nothing is left that could be removed."""
    labels = mode.labels_of(args[0])
    at = _REDUCED_DIM.get(func.overloadpacket.__name__, 1)
    given = args[at] if len(args) > at else kwargs.get("dim")
    dims = list(range(labels.dim())) if given is None or given == [] else list(_flat(given))
    dims = [d % labels.dim() for d in dims]
    for dim in dims:
        most = labels.narrow(dim, 0, 1) if labels.stride(dim) == 0 else labels.amax(dim, keepdim=True)
        constant = bool(((labels == most) | (labels == FREE)).all())
        labels = most if constant else torch.zeros_like(most)
    for tensor in tensors_in(output):
        own = labels if tensor.dim() == labels.dim() else labels.squeeze(tuple(dims))
        mode._set(tensor, own)


def _along_dim(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    """A softmax or the like: what it runs along must not change."""
    labels = mode.labels_of(args[0])
    dim = next((a for a in args[1:] if isinstance(a, int)), kwargs.get("dim", -1)) % labels.dim()
    one = labels.narrow(dim, 0, 1)
    if labels.stride(dim) != 0 and not bool((labels == one).all()):
        mode.fix(f"{func.overloadpacket.__name__} runs along channels", labels)
        one = labels
    for tensor in tensors_in(output):
        if tensor.dim() == one.dim() and (one.shape[dim] == 1 or one.shape == tensor.shape):
            mode._set(tensor, one)


def _batch_norm(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    labels = mode.labels_of(args[0])
    own = mode.constant(labels, [d for d in range(labels.dim()) if d != 1])
    for tensor in args[1:5]:
        if mode.has_labels(tensor):
            mode.nodes.join(own.reshape(-1), mode.labels_of(tensor))
    mode._set(output[0], own)


def _layer_norm(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    mode._pointwise([t for t in args[:4] if isinstance(t, Tensor)], next(tensors_in(output)))


def _group_norm(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    labels = mode.labels_of(args[0])
    own = mode.constant(labels, [d for d in range(labels.dim()) if d != 1])
    groups = own.reshape(args[6], -1)
    mode.nodes.join(groups, groups[:1])
    for tensor in args[1:3]:
        if mode.has_labels(tensor):
            mode.nodes.join(own.reshape(-1), mode.labels_of(tensor))
    mode._set(output[0], own)


def _glu(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    first, second = mode.labels_of(args[0]).chunk(2, args[1] if len(args) > 1 else -1)
    mode.nodes.join(first, second)
    mode._set(output, first)


def _embedding(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Tensor) -> None:
    name = mode.names.get(id(args[0]))
    if name is not None:
        mode.produces.add((name, 1))
        mode._set(output, mode.axis(name, 1, args[0].shape[1]))


def _convolution(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Tensor) -> None:
    x, weight, bias, transposed, groups = args[0], args[1], args[2], args[6], args[8]
    labels = mode.labels_of(x)
    own = mode.constant(labels, [d for d in range(labels.dim()) if d != 1]).reshape(-1)
    name = mode.names.get(id(weight))
    if name is None or (transposed and groups > 1):
        mode.fix("its weights are computed" if name is None else "a transposed convolution in groups", own)
        return mode.fix("its weights are computed", *(mode.labels_of(t) for t in (weight,) if mode.has_labels(t)))
    into, out = (0, 1) if transposed else (1, 0)
    rows = mode.axis(name, out, weight.shape[out])
    if groups > 1 and weight.shape[1] == 1:  # depthwise: one input channel for each group
        mode.nodes.join(own.view(groups, 1), rows.view(groups, -1))
    else:
        columns = mode.axis(name, into, weight.shape[into])
        mode.nodes.join(own.view(groups, -1), columns)
        mode.nodes.join(rows.view(groups, -1), rows.view(groups, -1)[:1])
        mode.reads.add((name, into))
    mode.produces.add((name, out))
    if mode.has_labels(bias):
        mode.nodes.join(mode.labels_of(bias), rows)
    mode._set(output, rows.view(1, -1, *(1,) * (output.dim() - 2)))


def _matmul(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Tensor) -> None:
    """Matrix products, with a parameter (a layer) or of two activations (attention)."""
    *bias, a, b = args[:3] if func.overloadpacket.__name__ in ("addmm", "baddbmm", "addmv") else args[:2]
    right, left = (mode.matrix(b), mode.matrix(a)) if a.dim() == b.dim() == 2 else (None, None)
    if right is not None:
        own = _layer(mode, mode.labels_of(a), *right, b)
    elif left is not None:
        own = _layer(mode, mode.labels_of(b).t(), left[0], left[1][::-1], a.t()).t()
    else:
        own = _product(mode, mode.labels_of(a), mode.labels_of(b))
    mode._set(output, own)
    if bias and mode.has_labels(bias[0]):
        mode._pointwise([output, bias[0]], output)


def _layer(mode: _Labelling, labels: Tensor, name: str, axes: tuple[int, int], weight: Tensor) -> Tensor:
    """Rows of labels (n, inputs) into a layer; returns those of its outputs, shape (1, outputs)."""
    mode.nodes.join(mode.constant(labels, [0]).reshape(-1), mode.axis(name, axes[0], weight.shape[0]))
    mode.reads.add((name, axes[0]))
    mode.produces.add((name, axes[1]))
    return mode.axis(name, axes[1], weight.shape[1]).view(1, -1)


def _product(mode: _Labelling, a: Tensor, b: Tensor) -> Tensor:
    """Labels (..., m, k) and (..., k, n) of two activations: what is multiplied in attention is a head as a whole."""
    mixed = [a, b]
    if all(bool((t == t.narrow(dim, 0, 1)).all()) for t, dim in ((a, -1), (b, -2))):
        rows, columns = a.narrow(-1, 0, 1), b.narrow(-2, 0, 1)
        mode.nodes.join(rows, columns)
        return torch.maximum(rows, columns)
    heads = [mode.constant(t, (t.dim() - 1, t.dim() - 2)) for t in mixed]
    mode.nodes.join(*heads)
    mode.head_labels.append(np.unique(_ints(heads[0])))
    return torch.maximum(*heads)


def _attention(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Any) -> None:
    heads = [mode.constant(mode.labels_of(t), (t.dim() - 1, t.dim() - 2)) for t in args[:3]]
    for i in (1, 2):
        if heads[i].shape[1] != heads[0].shape[1]:  # heads that share their keys and values
            heads[i] = heads[i].repeat_interleave(heads[0].shape[1] // heads[i].shape[1], 1)
        mode.nodes.join(heads[0], heads[i])
    mode.head_labels.append(np.unique(_ints(heads[0])))
    mode._set(next(tensors_in(output)), heads[0])


def _unfolded(mode: _Labelling, func: Any, args: Any, kwargs: Any, output: Tensor) -> None:
    own = mode.constant(mode.labels_of(args[0]), (2, 3)).squeeze(-1)
    mode._set(output, own.repeat_interleave(output.shape[1] // own.shape[1], 1))


Rule = Callable[[_Labelling, Any, Any, Any, Any], None]
_RULES: dict[str, Rule] = {
    **dict.fromkeys(("clone", "detach", "alias", "_to_copy", "contiguous", "native_dropout", "lift_fresh"), _same),
    **dict.fromkeys(
        (
            *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "expand", "slice", "select", "unbind"),
            *("split", "split_with_sizes", "unsqueeze", "squeeze", "flip", "roll", "repeat", "cat", "stack", "index"),
            *("constant_pad_nd", "index_select", "gather", "unfold", "pixel_shuffle", "pixel_unshuffle", "diagonal"),
            *("native_channel_shuffle", "channel_shuffle", "rot90", "narrow", "unsafe_split", "as_strided"),
            *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
        ),
        _replayed,
    ),
    **dict.fromkeys(
        (
            *(f"max_pool{n}d_with_indices" for n in (2, 3)),
            *(f"avg_pool{n}d" for n in (1, 2, 3)),
            *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
            *(f"adaptive_max_pool{n}d" for n in (2, 3)),
            *(f"upsample_nearest{n}d" for n in (1, 2, 3)),
            *("upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d"),
            *("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "grid_sampler_2d"),
        ),
        _pooled,
    ),
    **dict.fromkeys(
        ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "linalg_vector_norm", "logsumexp", "argmax"),
        _reduced,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "cumsum", "sort", "topk"), _along_dim),
    **dict.fromkeys(
        ("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit"), _batch_norm
    ),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), _layer_norm),
    "native_group_norm": _group_norm,
    "glu": _glu,
    "embedding": _embedding,
    "convolution": _convolution,
    **dict.fromkeys(("mm", "addmm", "bmm", "baddbmm"), _matmul),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
        ),
        _attention,
    ),
    "im2col": _unfolded,
}
_POINTWISE = ("_prelu_kernel", "prelu", "hardswish", "log_sigmoid_forward", "rsub", "floor_divide")
_IGNORED = ("new_zeros", "new_ones", "new_empty", "new_full", "zeros_like", "ones_like", "empty_like", "full_like")
