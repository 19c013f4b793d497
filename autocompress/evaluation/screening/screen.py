"""Latency, size and memory of tens of thousands of recipes a second, without building one of them.

A network is read once, through the same deployment and the same reader as every finished file: how the shape of each
tensor follows from the channels that each group keeps (`shapes`), which kernels run under which bit widths (`kernels`)
and what a file stores (`files`). After that a recipe is a row of numbers, channels per group and bits per layer
(`knobs`): its costs are looked up and added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.compression.candidate import Candidate
from autocompress.compression.stage import Stage
from autocompress.devices import cost_model
from autocompress.errors import CandidateError
from autocompress.evaluation.evaluator import Evaluator, layers_left
from autocompress.evaluation.screening.files import Files
from autocompress.evaluation.screening.kernels import Kernels, KernelSlot
from autocompress.evaluation.screening.knobs import COMPUTES_INT8, STORES_INTEGERS, Ints, Knobs, Rows
from autocompress.evaluation.screening.shapes import Lookup, Positions, Shape, Shapes, Versions, count
from autocompress.graphs.quantizable import LOOK_UP, quantizable_layers
from autocompress.recipes.domains import Value
from autocompress.recipes.space import SearchSpace
from autocompress.runtimes.kernels import OpForm

Floats = NDArray[np.float64]

_MOST_VARIANTS = 32
_DRAWS = 256
"""Random settings in which variants are counted."""


@dataclass(frozen=True)
class Costs:
    """Predicted costs of N recipes."""

    best_case_ms: Floats
    """(N,) latency when every sample leaves at the first exit."""
    worst_case_ms: Floats
    """(N,) latency when none leaves early."""
    size_bytes: Floats
    """(N,) of the file."""
    peak_memory_bytes: Floats
    """(N,) weights as the kernels read them, and activations."""
    capacity: Floats
    """(N,) see `Forecast.capacity`."""


class Screen:
    """Predicts the costs of recipes of one space, given as columns of knob values.

    Raises:
        CandidateError: the network cannot be read this way; use `Evaluator.forecast`.
    """

    def __init__(self, evaluator: Evaluator, space: SearchSpace, seed: int = 0) -> None:
        self.evaluator = evaluator
        self.space = space
        self._rng = np.random.default_rng(seed)
        self._knobs = Knobs(evaluator, space)
        self._networks: dict[str, _Network] = {}
        self._bases: dict[str, Candidate] = {}
        self._refuse_many_variants()

    def _refuse_many_variants(self) -> None:
        """Reading a network takes seconds; where nearly every setting has one of its own, forecasts take less."""
        shares = np.random.default_rng(0).random(_DRAWS)
        knobs = self.space.knobs(self._knobs.outline)
        drawn = {
            name: [domain.at(float(share)) for share in np.roll(shares, i)]
            for i, (name, domain) in enumerate(knobs.items())
        }
        n = len(set(self._rows(drawn).variants))
        if n > _MOST_VARIANTS:
            raise CandidateError(
                f"screening: the space has {n} variants of the network or more, which is too many to read"
            )

    def costs(self, settings: Mapping[str, Sequence[Value] | NDArray[Any]]) -> Costs:
        """Costs of N settings of the space.

        Args:
            settings: N values for each knob (see `SearchSpace.knobs`); those of stages that are off are ignored.

        Raises:
            CandidateError: a setting cannot be applied to this network.
        """
        rows = self._rows(settings)
        result: Floats = np.zeros((4, len(rows.widths)))
        for key, chosen in _by_variant(rows):
            network = self._network(key, rows.stages[key])
            result[:, chosen] = network.costs(rows.widths[chosen], rows.codes[chosen])
        return Costs(result[0], result[1], result[2], result[3], self._capacity(rows))

    def macs(self, settings: Mapping[str, Sequence[Value] | NDArray[Any]]) -> Floats:
        """Multiply-accumulates of N settings through the whole network, (N,), in a fraction of the time."""
        rows = self._rows(settings)
        result: Floats = np.zeros(len(rows.widths))
        for key, chosen in _by_variant(rows):
            network = self._network(key, rows.stages[key])
            result[chosen] = network.macs(rows.widths[chosen])
        return result

    def capacity(self, settings: Mapping[str, Sequence[Value] | NDArray[Any]]) -> Floats:
        """`Costs.capacity` of N settings alone, in a fraction of the time."""
        return self._capacity(self._rows(settings))

    def _rows(self, settings: Mapping[str, Sequence[Value] | NDArray[Any]]) -> Rows:
        return self._knobs.rows({name: np.asarray(values) for name, values in settings.items()})

    def _capacity(self, rows: Rows) -> Floats:
        shares: Floats = np.log(rows.widths / np.maximum(1, self._knobs.full))
        result: Floats = np.zeros(len(shares))
        for key, chosen in _by_variant(rows):
            base, names = self._base(key, rows.stages[key]), [group.name for group in self._knobs.groups]
            there = ~np.isin(names, base.gone(names))
            channels = (shares[chosen] * there).mean(1) if names else 0.0
            result[chosen] = channels + layers_left(base, self._knobs.analysis)
        return result

    def _network(self, key: str, stages: Sequence[Stage]) -> _Network:
        if key not in self._networks:
            self._networks[key] = _Network(self.evaluator, self._base(key, stages), self._knobs, self._rng)
        return self._networks[key]

    def _base(self, key: str, stages: Sequence[Stage]) -> Candidate:
        """The untrained, unpruned network of a variant."""
        if key not in self._bases:
            base = Candidate(self.evaluator.task.model)
            for stage in stages:
                base = stage.apply(base, self.evaluator.context)
            self._bases[key] = base
        return self._bases[key]


class _Network:
    """One variant of the network, such as one with certain exits: its costs as functions of widths and bits.

    Args:
        evaluator: of the network.
        base: the variant, untrained and unpruned.
        knobs: groups and layers, in the order of the rows.
        rng: draws some of the graphs that are read.
    """

    def __init__(self, evaluator: Evaluator, base: Candidate, knobs: Knobs, rng: np.random.Generator) -> None:
        self._device = evaluator.device
        n_paths = len(base.exits) + 1
        self._n_tests = [min(path + 1, n_paths - 1) for path in range(n_paths)]
        """Of confidence, on each path."""
        graph = evaluator.deployer.float_graph(base)
        layers = quantizable_layers(graph)
        names = [base.own_name(layer.name) for layer in layers]
        stages = [base.stage_of(layer.name, knobs.analysis) for layer in layers]
        parts = zip(names, stages, strict=True)
        self._columns = [knobs.parts.index(part if part in knobs.parts else ("", part[1])) for part in parts]
        """Of each quantisable layer, its column in the codes."""
        versions = Versions(evaluator, base, knobs)
        self._tables = [i for i, layer in enumerate(layers) if layer.op_type == LOOK_UP]
        weight_of = {f"{node}/w": layer.weight for layer in layers for node in layer.nodes}
        self._shapes = Shapes(versions, weight_of)
        self._kernels = Kernels(versions, graph, layers, names, n_paths, rng)
        self._files = Files(evaluator, versions, self._shapes, layers)

    def costs(self, widths: Ints, codes: Ints) -> Floats:
        """(4, N): best and worst case in ms, size and peak memory in bytes."""
        of_layers = codes[:, self._columns]
        int8: NDArray[np.bool_] = COMPUTES_INT8[of_layers]
        int8[:, self._tables] = STORES_INTEGERS[of_layers[:, self._tables]]
        self._kernels.prepare(int8)
        positions = self._shapes.positions(widths)
        paths = [self._path(path, int8, positions) for path in range(len(self._n_tests))]
        return np.stack([paths[0][0], paths[-1][0], self._files.sizes(of_layers, positions), paths[-1][1]])

    def macs(self, widths: Ints) -> Floats:
        """(N,) multiply-accumulates of the whole network, whatever its bits."""
        positions, total = self._shapes.positions(widths), np.zeros(len(widths))
        in_float = np.zeros((1, len(self._columns)), bool)
        for place in self._kernels.kernels[-1].values():
            for index, _ in place.rows(in_float):
                if index >= 0:
                    form = self._kernels.forms[index]
                    (macs,) = self._shapes.tabulate(("macs", index), _tensors(form), positions, partial(_macs, form))
                    total += macs(slice(None))
        return total

    def _path(self, path: int, int8: NDArray[np.bool_], positions: Positions) -> tuple[Floats, Floats]:
        """(N,) latency in ms and (N,) peak memory in bytes of one path."""
        device = self._device
        total_us = np.full(len(int8), device.run_overhead_us + self._n_tests[path] * device.if_overhead_us)
        weights, read = np.zeros(len(int8)), np.zeros(len(int8))
        for place in self._kernels.kernels[path].values():
            for index, rows in place.rows(int8):
                if index >= 0:
                    time_us, weight_bytes, read_bytes = self._kernel(self._kernels.forms[index], positions)
                    total_us[rows] += time_us(rows)
                    weights[rows] += weight_bytes(rows)
                    read[rows] += read_bytes(rows)
        peak = self._peak(self._kernels.buffers[path], int8, positions)
        if device.cache_bytes is not None:
            total_us += device.us_per_mb_beyond_cache * np.maximum(0, read + peak - device.cache_bytes) / 1e6
        return total_us / 1e3, peak if device.weights_in_flash else weights + peak

    def _kernel(self, form: OpForm, positions: Positions) -> list[Lookup]:
        """Functions from rows to the time in us, the weight bytes and those read of one kernel."""

        def measured(shape: Shape) -> tuple[Any, Any, Any]:
            op = form.sized(shape)
            return cost_model.op_us(self._device, op)[0], op.bytes_weights, op.bytes_read_weights

        return self._shapes.tabulate(form, _tensors(form), positions, measured)

    def _peak(
        self, buffers: Mapping[tuple[str, str], KernelSlot], int8: NDArray[np.bool_], positions: Positions
    ) -> Floats:
        """(N,) the most bytes of activations in memory at one time."""
        steps: dict[str, Floats] = {}
        for (step, name), place in buffers.items():
            alive = steps.setdefault(step, np.zeros(len(int8)))
            (elements,) = self._shapes.tabulate(("elements", name), [name], positions, partial(_elements, name))
            for itemsize, rows in place.rows(int8):
                if itemsize:
                    alive[rows] += itemsize * elements(rows)
        peak = np.zeros(len(int8))
        for alive in steps.values():
            np.maximum(peak, alive, out=peak)
        return peak


def _by_variant(rows: Rows) -> Iterator[tuple[str, Any]]:
    """The key of each variant of the network that occurs, with its rows."""
    several = len(set(rows.variants)) > 1
    for key in dict.fromkeys(rows.variants):
        yield key, np.flatnonzero([key == other for other in rows.variants]) if several else slice(None)


def _tensors(form: OpForm) -> list[str]:
    """Those whose shapes decide what a kernel costs."""
    return [name for name, _ in (*form.reads, *form.writes, *form.weights)] + list(form.product or ())


def _macs(form: OpForm, shape: Shape) -> tuple[Any]:
    return (form.sized(shape).macs,)


def _elements(name: str, shape: Shape) -> tuple[Any]:
    return (count(shape(name)),)
