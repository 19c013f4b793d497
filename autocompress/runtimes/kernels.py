"""The kernel calls that a runtime makes of a graph, before and after their sizes are known.

A runtime's reader gives the forms of the kernels (which tensors they read and write, in which format) and the shapes of
the tensors. Shapes of many candidates at once, as arrays, give the sizes of all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from autocompress.runtimes.workload import Op, Workload

Dims = tuple[Any, ...]
"""Shape of a tensor; each entry a number, or an array with one value per candidate."""
Buffer = tuple[str, int]
"""Tensor and the bytes of one of its elements."""


@dataclass(frozen=True, slots=True)
class OpForm:
    """One kernel call before its sizes are known."""

    kind: str
    dtype: str
    name: str
    reads: tuple[Buffer, ...] = ()
    writes: tuple[Buffer, ...] = ()
    weights: tuple[Buffer, ...] = ()
    product: tuple[str, str, str] | None = None
    """Data, weights and result of a convolution or matrix product; data and both weights of a recurrent layer."""
    equation: str = ""
    """Of an Einsum."""
    groups: int = 1
    transposed: bool = False
    alive: tuple[Buffer, ...] = ()
    """Tensors in memory while it runs."""

    def sized(self, shape: Callable[[str], Dims]) -> Op:
        """The kernel call for some shapes; with arrays in them, the fields of the result are arrays."""
        facts: dict[str, Any] = {}
        if self.product is not None:
            facts = _MEASURES.get(self.kind, _conv_facts)(self, *map(shape, self.product))
        return Op(
            self.kind,
            self.dtype,
            self.name,
            bytes_in=_bytes(self.reads, shape),
            bytes_out=_bytes(self.writes, shape),
            bytes_weights=_bytes(self.weights, shape),
            **facts,
        )

    def alive_bytes(self, shape: Callable[[str], Dims]) -> Any:
        """Bytes of activations in memory while it runs."""
        return _bytes(self.alive, shape)


@dataclass(frozen=True, slots=True)
class Forms:
    """All kernel calls of a graph, and the shapes of its tensors."""

    ops: tuple[OpForm, ...]
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    assumptions: tuple[str, ...] = ()

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor; empty where it is not known."""
        return self.shapes.get(name, (0,))

    def workload(self) -> Workload:
        """The calls with the sizes that they have in this graph."""
        peak = max((form.alive_bytes(self.shape) for form in self.ops), default=0)
        return Workload(tuple(form.sized(self.shape) for form in self.ops), peak, self.assumptions)


def with_lives(
    ops: Sequence[OpForm], inputs: Sequence[str], outputs: Sequence[str], buffer: Callable[[str], Buffer]
) -> list[OpForm]:
    """Note for every call which tensors are in memory: from their first use to their last.

    Args:
        ops: in the order in which they run.
        inputs: of the graph.
        outputs: of the graph, which stay to the end.
        buffer: says how large the elements of a tensor are.
    """
    last = {name: step for step, form in enumerate(ops) for name, _ in (*form.reads, *_new(form))}
    last |= dict.fromkeys(outputs, len(ops))
    alive = dict.fromkeys(name for name in inputs if name in last)
    result = []
    for step, form in enumerate(ops):
        alive |= dict.fromkeys(name for name, _ in _new(form))
        result.append(replace(form, alive=tuple(map(buffer, alive))))
        alive = dict.fromkeys(name for name in alive if last.get(name, -1) > step)
    return result


def _new(form: OpForm) -> tuple[Buffer, ...]:
    """Tensors that the call brings into memory; a change of layout and an epilogue count as in place."""
    return () if form.kind in {"layout", "epilogue"} else form.writes


def _bytes(buffers: Sequence[Buffer], shape: Callable[[str], Dims]) -> Any:
    return sum(elements(shape(name)) * itemsize for name, itemsize in buffers)


def _conv_facts(form: OpForm, data: Dims, weight: Dims, out: Dims) -> dict[str, Any]:
    cin = (weight[0] // form.groups if form.transposed else weight[1]) if len(weight) > 1 else 1
    cout = out[1] if len(out) > 1 else 1
    pixels = elements(out[:1] + out[2:])
    window = elements(data[:1] + data[2:]) if form.transposed else pixels
    kernel = tuple(weight[2:]) or (1,)
    depthwise = form.kind == "depthwise"
    return {
        "macs": window * cout * cin * elements(kernel),
        "cin": cout if depthwise else cin,
        "cout": cout,
        "kernel": kernel,
        "groups": cout if depthwise else form.groups,
        "out_hw": pixels,
    }


def _product_facts(form: OpForm, a: Dims, b: Dims, out: Dims) -> dict[str, Any]:
    inner = a[0] if form.transposed else (a[-1] if a else 1)
    columns = out[-1] if out else 1
    batched = form.kind == "attention" and len(b) > 2
    groups = elements(out[:-2]) if batched else 1
    rows = elements(out[-2:-1] if batched else out[:-1])
    return {
        "macs": groups * rows * inner * columns,
        "cin": inner,
        "cout": columns,
        "groups": groups,
        "out_hw": rows,
    }


def _recurrent_facts(form: OpForm, data: Dims, weight: Dims, state: Dims) -> dict[str, Any]:
    """`weight` is [directions, gates * hidden, inputs], `state` [directions, gates * hidden, hidden]."""
    steps = elements(data[:2])
    return {
        "macs": steps * elements(weight[:2]) * (weight[2] + state[2]),
        "cin": weight[2],
        "cout": state[2],
        "groups": weight[0],
        "out_hw": steps,
    }


def _einsum_facts(form: OpForm, a: Dims, b: Dims, out: Dims) -> dict[str, Any]:
    """One multiplication for each combination of all indices."""
    terms, _, result = form.equation.replace(" ", "").partition("->")
    sizes: dict[str, Any] = {}
    for term, dims in zip((*terms.split(","), result), (a, b, out), strict=True):
        head, ellipsis, tail = term.partition("...")
        sizes |= zip(head, dims, strict=False)
        sizes |= zip(reversed(tail), reversed(dims), strict=False)
        if ellipsis:
            sizes["..."] = elements(dims[len(head) : len(dims) - len(tail)])
    return {"macs": elements(list(sizes.values()))}


_MEASURES = {
    "linear": _product_facts,
    "attention": _product_facts,
    "lstm": _recurrent_facts,
    "gru": _recurrent_facts,
    "rnn": _recurrent_facts,
    "other": _einsum_facts,
}
"""How the sizes of a kernel follow from three shapes; all other kinds that have them are convolutions."""


def elements(dims: Sequence[Any]) -> Any:
    """How many numbers a tensor of this shape holds."""
    count: Any = 1
    for dim in dims:
        count = count * dim
    return count
