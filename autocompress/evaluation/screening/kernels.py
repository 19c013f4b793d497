"""Which kernels run, and what is in memory meanwhile, under which bit widths: learned from a few deployed graphs.

Which kernel runs at one place depends on the bit widths of a few layers around it (int8 data cross from one kernel to
the next only where both compute in int8). Which layers these are is learned: whenever two readings differ at a place
and agree in all layers known to matter there, the layer in which they differ and that is nearest in the graph is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress.compression.techniques import _usual as usual
from autocompress.evaluation.screening.knobs import Ints
from autocompress.evaluation.screening.shapes import Versions
from autocompress.graphs.quantizable import QuantizableLayer
from autocompress.runtimes.kernels import OpForm

_RANDOM_READINGS = 24
_MAX_READINGS = 200
_MAX_PATTERNS = 2000
_FAR = 10**6


class KernelSlot:
    """What is found at one place of the graph, by the int8-ness of the layers that matter there."""

    def __init__(self, near: Sequence[int]) -> None:
        self.near = near
        """All layers, nearest first."""
        self.matter: list[int] = []
        self.variants: dict[tuple[bool, ...], int] = {}
        self.seen: list[tuple[tuple[bool, ...], int]] = []

    def learn(self, int8: tuple[bool, ...], variant: int) -> None:
        """Take in one reading; where it contradicts another one, add a layer that matters."""
        self.seen.append((int8, variant))
        key = tuple(int8[i] for i in self.matter)
        while self.variants.setdefault(key, variant) != variant:
            other = next(o for o, v in self.seen if v != variant and tuple(o[i] for i in self.matter) == key)
            different = [i for i in self.near if other[i] != int8[i] and i not in self.matter]
            if not different:
                return
            self.matter.append(different[0])
            self.variants = {}
            for past, found in self.seen:
                self.variants.setdefault(tuple(past[i] for i in self.matter), found)
            key = tuple(int8[i] for i in self.matter)

    def unknown(self, int8: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which rows have a combination that no reading has shown."""
        known = np.array([_pack(np.array([key]))[0] for key in self.variants])
        return ~np.isin(_pack(int8[:, self.matter]), known)

    def rows(self, int8: NDArray[np.bool_]) -> list[tuple[int, Any]]:
        """Variants with the rows that have them; unknown combinations get the variant of the most similar known one."""
        if not self.matter:
            return [(variant, slice(None)) for variant in self.variants.values()]
        packed, where = np.unique(_pack(int8[:, self.matter]), return_inverse=True)
        known = {int(_pack(np.array([key]))[0]): variant for key, variant in self.variants.items()}
        found = [
            known[p] if p in known else known[min(known, key=lambda k: (k ^ p).bit_count())] for p in packed.tolist()
        ]
        variant_of = np.array(found)[where]
        return [(int(variant), np.flatnonzero(variant_of == variant)) for variant in np.unique(variant_of)]


class Kernels:
    """What runs on each path through one network, by which of its layers compute in int8.

    Args:
        versions: of the network.
        graph: the float graph.
        layers: those of it that can be quantised.
        recipe_names: what recipes call these layers.
        n_paths: ways through the network, one for each exit and one for the whole of it.
        rng: draws some of the readings.
    """

    def __init__(
        self,
        versions: Versions,
        graph: onnx.ModelProto,
        layers: Sequence[QuantizableLayer],
        recipe_names: Sequence[str],
        n_paths: int,
        rng: np.random.Generator,
    ) -> None:
        self._versions = versions
        self._names = recipe_names
        self._distance = _distances(graph, [layer.nodes for layer in layers])
        self._rng = rng
        self.forms: list[OpForm] = []
        self._indices: dict[OpForm, int] = {}
        self.kernels: list[dict[str, KernelSlot]] = [{} for _ in range(n_paths)]
        """For each path, the kernel that runs (an index into `forms`, or -1) by its name."""
        self.buffers: list[dict[tuple[str, str], KernelSlot]] = [{} for _ in range(n_paths)]
        """For each path, the bytes per element (or 0) of a tensor while a kernel runs."""
        self._readings: list[tuple[bool, ...]] = []

    def prepare(self, int8: NDArray[np.bool_]) -> None:
        """Read as many graphs as it takes to know these patterns, (N, layers), as far as there are not too many."""
        if not self._readings:
            self._first_readings(int8)
        patterns = np.unique(int8[:_MAX_PATTERNS], axis=0)
        for pattern in patterns:  # a layer in a format that no reading has shown may matter anywhere
            if not (np.array(self._readings) == pattern).any(0).all():
                self._read(tuple(pattern.tolist()))
        while len(self._readings) < _MAX_READINGS:
            tables: list[Mapping[Any, KernelSlot]] = [*self.kernels, *self.buffers]
            places = [place for table in tables for place in table.values() if place.matter]
            unknown = sum((place.unknown(patterns).astype(int) for place in places), np.zeros(len(patterns), int))
            if not unknown.any():
                break
            self._read(tuple(patterns[unknown.argmax()].tolist()))

    def _first_readings(self, int8: NDArray[np.bool_]) -> None:
        low: NDArray[np.bool_] = np.all(int8, axis=0)
        high: NDArray[np.bool_] = np.any(int8, axis=0)
        free = np.flatnonzero(low != high)
        patterns = [low, high]
        for i in free:
            for start in (low, high):
                flipped = start.copy()
                flipped[i] = not flipped[i]
                patterns.append(flipped)
        if len(free):
            draws = self._rng.random((_RANDOM_READINGS, len(low))) < 0.5
            patterns.extend(np.where(low == high, low, draw) for draw in draws)
        for pattern in dict.fromkeys(tuple(bool(x) for x in p) for p in patterns):
            self._read(pattern)

    def _read(self, int8: tuple[bool, ...]) -> None:
        """Deploy the narrow twin with these layers in int8, and note what runs and what is in memory where."""
        bits: dict[str, Any] = {name: 8 if on else 32 for name, on in zip(self._names, int8, strict=True)}
        deployment = self._versions.deploy(self._versions.narrow, usual.quantised(weight_bits=bits) if bits else None)
        for path, (kernels, buffers) in enumerate(zip(self.kernels, self.buffers, strict=True)):
            forms = self._versions.kernels(deployment, deployment.paths[path]).ops
            running = {form.name: self._index(replace(form, alive=())) for form in forms}
            living = {(form.name, name): itemsize for form in forms for name, itemsize in form.alive}
            self._note(kernels, int8, running, -1)
            self._note(buffers, int8, living, 0)
        self._readings.append(int8)

    def _index(self, form: OpForm) -> int:
        if form not in self._indices:
            self._indices[form] = len(self.forms)
            self.forms.append(form)
        return self._indices[form]

    def _note(
        self, places: dict[Any, KernelSlot], int8: tuple[bool, ...], found: Mapping[Any, int], nothing: int
    ) -> None:
        for name in found:
            if name not in places:
                places[name] = KernelSlot(self._nearest(name if isinstance(name, str) else name[0]))
                for past in self._readings:
                    places[name].learn(past, nothing)
        for name, place in places.items():
            place.learn(int8, found.get(name, nothing))

    def _nearest(self, name: str) -> list[int]:
        distance = self._distance(name)
        return sorted(range(len(self._names)), key=lambda i: distance.get(i, _FAR))


def _pack(bits: NDArray[np.bool_]) -> Ints:
    """One number per row of booleans; rows have fewer than 63."""
    powers = np.int64(1) << np.arange(bits.shape[1], dtype=np.int64)
    result: Ints = bits.astype(np.int64) @ powers
    return result


def _distances(graph: onnx.ModelProto, nodes: Sequence[Sequence[str]]) -> Callable[[str], dict[int, int]]:
    """For a tensor or node of any graph made from this one: steps in the float graph to each layer."""
    neighbours: dict[str, set[str]] = {}
    output_of: dict[str, str] = {}
    for node in graph.graph.node:
        output = node.output[0]
        output_of[node.name] = output
        for name in node.input:
            neighbours.setdefault(output, set()).add(name)
            neighbours.setdefault(name, set()).add(output)
    layer_of = {output: i for i, outputs in enumerate(nodes) for output in outputs}
    known: dict[str, dict[int, int]] = {}

    def distances(name: str) -> dict[int, int]:
        name = name.partition("#")[0].removesuffix(":layout")
        start = output_of.get(name, name)
        while start not in neighbours and "/" in start:
            start = start.rpartition("/")[0]
        if start not in known:
            found: dict[int, int] = {}
            seen, ring, step = {start}, {start}, 0
            while ring:
                for tensor in ring & layer_of.keys():
                    found.setdefault(layer_of[tensor], step)
                ring = {n for tensor in ring for n in neighbours.get(tensor, ())} - seen
                seen |= ring
                step += 1
            known[start] = found
        return known[start]

    return distances
