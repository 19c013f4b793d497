"""Latency, size and memory of tens of thousands of recipes a second, without building one of them.

A network is read once, through the same deployment and the same reader as every finished file: how the shape of each
tensor follows from the channels that each group keeps, and which kernels run under which bit widths. After that a
recipe is a row of numbers: channels per group and bits per layer. Its costs are looked up and added.

Which kernel runs at one place depends on the bit widths of a few layers around it (int8 data cross from one kernel to
the next only where both compute in int8). Which layers these are is learned: whenever two readings differ at a place
and agree in all layers known to matter there, the layer in which they differ and that is nearest in the graph is added.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from autocompress._workload_reader import Dims, OpForm, read_forms
from autocompress.candidate import Candidate
from autocompress.domains import Value
from autocompress.errors import CandidateError
from autocompress.evaluate import Evaluator
from autocompress.graph.channels import ChannelGroup, ChannelPruner, channels_to_keep, output_layers
from autocompress.graph.quantizable import quantizable_layers
from autocompress.latency import linear
from autocompress.recipe import Recipe, Stage, lookup
from autocompress.space import SearchSpace, StageSpace
from autocompress.techniques.early_exit import EarlyExit
from autocompress.techniques.prune import Prune
from autocompress.techniques.ptq import Ptq

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_FORMATS = ((32, 32), (16, 32), (8, 32), (4, 32), (8, 8), (4, 8))
"""Bits of weights and activations of a layer; a code is an index into this."""
_INT8 = np.array([activations == 8 for _, activations in _FORMATS])
_RANDOM_READINGS = 24
_MAX_READINGS = 200
_MAX_PATTERNS = 2000
_MANY_CODES = 2**62
_BACKBONE = "backbone."


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
    """(N,) mean logarithm of the share of channels that each group keeps."""


class Screen:
    """Predicts the costs of recipes of one space, given as columns of knob values.

    Raises:
        CandidateError: the network cannot be read this way; use `Evaluator.forecast`.
    """

    def __init__(self, evaluator: Evaluator, space: SearchSpace, seed: int = 0) -> None:
        self.evaluator = evaluator
        self.space = space
        self._rng = np.random.default_rng(seed)
        self._knobs = _Knobs(evaluator, space)
        self._readers: dict[str, _Reader] = {}

    def costs(self, settings: Mapping[str, Sequence[Value] | NDArray[Any]]) -> Costs:
        """Costs of N settings of the space.

        Args:
            settings: N values for each knob (see `SearchSpace.knobs`); those of stages that are off are ignored.

        Raises:
            CandidateError: a setting cannot be applied to this network.
        """
        columns = {name: np.asarray(values) for name, values in settings.items()}
        rows = self._knobs.rows(columns)
        result: Floats = np.zeros((4, len(rows.widths)))
        for key in dict.fromkeys(rows.exits):
            chosen = np.flatnonzero([key == other for other in rows.exits]) if len(set(rows.exits)) > 1 else slice(None)
            reader = self._reader(key, rows.stages[key])
            result[:, chosen] = reader.costs(rows.widths[chosen], rows.codes[chosen], rows.head_codes[chosen])
        shares = rows.widths / np.maximum(1, self._knobs.full)
        capacity = np.log(shares).mean(1) if shares.shape[1] else np.zeros(len(rows.widths))
        return Costs(result[0], result[1], result[2], result[3], capacity)

    def _reader(self, key: str, stage: Stage | None) -> _Reader:
        if key not in self._readers:
            self._readers[key] = _Reader(self.evaluator, stage, self._knobs, self._rng)
        return self._readers[key]


@dataclass(frozen=True)
class _Rows:
    """Settings as numbers."""

    widths: Ints
    """(N, groups): channels (heads) kept."""
    codes: Ints
    """(N, layers): index into `_FORMATS`."""
    head_codes: Ints
    """(N,): the same for the heads of early exits."""
    exits: list[str]
    """N keys into `stages`."""
    stages: dict[str, Stage | None]


class _Knobs:
    """Turns columns of knob values into channels per group and bits per layer."""

    def __init__(self, evaluator: Evaluator, space: SearchSpace) -> None:
        self.anatomy = evaluator.anatomy
        self.outline = evaluator.anatomy.outline
        self.space = space
        task = evaluator.task
        model, example = copy.deepcopy(task.model), task.example_input[:1]
        pruner = ChannelPruner(model, example, output_layers(model, example), tuple(self.anatomy.layers))
        by_name = {group.name: group for group in pruner.groups}
        self.groups: list[ChannelGroup] = [by_name[name] for name in self.anatomy.groups]
        self.full: Ints = np.array([group.n_units for group in self.groups], np.int64)

    def rows(self, columns: Mapping[str, NDArray[Any]]) -> _Rows:
        n = max((len(column) for column in columns.values()), default=1)
        widths = np.tile(self.full, (n, 1))
        codes = np.zeros((n, len(self.anatomy.layers)), np.int64)
        head_codes = np.zeros(n, np.int64)
        exits, stages = [""] * n, dict[str, Stage | None]()
        for slot in self.space.slots:
            for alternative in slot.alternatives:
                on = np.ones(n, bool)
                if slot.switch:
                    switch = columns[slot.name]
                    on = np.array([slot.chosen(str(v)) is alternative for v in np.unique(switch)])[
                        np.unique(switch, return_inverse=True)[1]
                    ]
                if not on.any():
                    continue
                if alternative.technique == "prune":
                    widths[on] = self._widths(alternative, columns, n)[on]
                elif alternative.technique in ("ptq", "qat"):
                    found, heads = self._codes(alternative, columns, n)
                    codes[on], head_codes[on] = found[on], heads[on]
                elif alternative.technique == "early_exit":
                    self._exits(alternative, columns, on, exits, stages)
        if "" in exits:
            stages[""] = None
        return _Rows(widths, codes, head_codes, exits, stages)

    def _table(self, space: StageSpace, name: str, columns: Mapping[str, NDArray[Any]], default: Any) -> Any:
        """A field's table, or its one value, with columns in place of the values that are drawn."""
        key = f"{space.technique}.{name}"
        if name in space.domains:
            per = space.domains[name].per
            if per == "model":
                return columns[key]
            return {part: columns[f"{key}[{part}]"] for part in self.outline.parts(name, per)}
        if name in space.tables:
            return {**space.fixed.get(name, {}), **{p: columns[f"{key}[{p}]"] for p in space.tables[name]}}
        return space.fixed.get(name, default)

    def _widths(self, space: StageSpace, columns: Mapping[str, NDArray[Any]], n: int) -> Ints:
        ratio = self._table(space, "ratio", columns, Prune().ratio)
        round_to = np.broadcast_to(self._table(space, "round_to", columns, Prune().round_to), n)
        widths = np.empty((n, len(self.groups)), np.int64)
        for k, group in enumerate(self.groups):
            ratios = np.broadcast_to(lookup(ratio, group.name, self.anatomy.groups[group.name], 0.0), n)
            pairs, where = np.unique(
                np.stack([ratios.astype(float), round_to.astype(float)]), axis=1, return_inverse=True
            )
            kept = [
                channels_to_keep(group.n_units, float(r), 1 if group.n_heads else int(step), group.n_parts)
                for r, step in pairs.T
            ]
            widths[:, k] = np.array(kept)[where.ravel()]
        return widths

    def _codes(self, space: StageSpace, columns: Mapping[str, NDArray[Any]], n: int) -> tuple[Ints, Ints]:
        weights = self._table(space, "weight_bits", columns, 8)
        activations = self._table(space, "activation_bits", columns, 8)

        def code(name: str, stage: str) -> Ints:
            own = np.broadcast_to(lookup(weights, name, stage, 8), n).astype(np.int64)
            data = np.where(own > 8, 32, np.broadcast_to(lookup(activations, name, stage, 8), n))
            result = np.zeros(n, np.int64)
            for k, (w, a) in enumerate(_FORMATS):
                result[(own == w) & (data == a)] = k
            return result

        layers = [code(name, stage) for name, stage in self.anatomy.layers.items()]
        return np.stack(layers, 1) if layers else np.zeros((n, 0), np.int64), code("", "exits")

    def _exits(
        self,
        space: StageSpace,
        columns: Mapping[str, NDArray[Any]],
        on: NDArray[np.bool_],
        exits: list[str],
        stages: dict[str, Stage | None],
    ) -> None:
        names = [name for name, _ in space.knobs(self.outline)]
        known: dict[tuple[Any, ...], str] = {}
        for i in np.flatnonzero(on):
            values = tuple(columns[name][i].item() for name in names)
            if values not in known:
                stage = space.build(dict(zip(names, values, strict=True)), self.outline)
                assert isinstance(stage, EarlyExit)
                places = [place.name for place in stage.places_in(self.anatomy)]
                key = json.dumps([places, stage.head, stage.hidden if stage.head == "conv" else 0])
                known[values] = key
                stages.setdefault(key, stage)
            exits[i] = known[values]


class _Place:
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


class _Reader:
    """One network with certain exits: its shapes, kernels and file as functions of widths and bits."""

    def __init__(self, evaluator: Evaluator, stage: Stage | None, knobs: _Knobs, rng: np.random.Generator) -> None:
        self.evaluator = evaluator
        self.knobs = knobs
        self.rng = rng
        base = Candidate(evaluator.task.model)
        self.base = stage.apply(base, evaluator.workshop) if stage else base
        self.n_paths = len(self.base.exits) + 1
        float_graph = evaluator.deployer.float_graph(self.base)
        self.layers = quantizable_layers(float_graph)
        names = [layer.name.removeprefix(_BACKBONE) if self.base.exits else layer.name for layer in self.layers]
        order = {name: k for k, name in enumerate(knobs.anatomy.layers)}
        self.column = [order.get(name, -1) for name in names]
        """Of each quantisable layer, its column in the codes; -1: a head of an exit."""
        self.slopes: dict[str, dict[int, NDArray[np.float64]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._weight_of = {f"{node}/w": layer.weight for layer in self.layers for node in layer.nodes}
        self._learn_shapes()
        self._distance = _distances(float_graph, [layer.nodes for layer in self.layers])
        self.forms: list[OpForm] = []
        self._indices: dict[OpForm, int] = {}
        self.kernels: list[dict[str, _Place]] = [{} for _ in range(self.n_paths)]
        """For each path, the kernel that runs (an index into `forms`, or -1) by its name."""
        self.buffers: list[dict[tuple[str, str], _Place]] = [{} for _ in range(self.n_paths)]
        """For each path, the bytes per element (or 0) of a tensor while a kernel runs."""
        self.readings: list[tuple[bool, ...]] = []
        self.narrow = self._narrow()
        self.layer_bytes: dict[int, list[list[tuple[str, float]]]] = {}
        self.overhead: dict[int, float] = {}

    # -- shapes

    def _pruned(self, ratios: Mapping[str, float], round_to: int = 8) -> Candidate:
        return Prune(ratio=dict(ratios), importance="l1", round_to=round_to).apply(self.base, self.evaluator.workshop)

    def _narrow(self) -> Candidate:
        """A small twin with the same kernels: quick to quantise."""
        names = [group.name for group in self.knobs.groups]
        return self._pruned(dict.fromkeys(names, 0.75)) if names else self.base

    def _learn_shapes(self) -> None:
        """How every dimension of every tensor falls with the channels of each group: exactly linear, or not at all."""
        self.shapes = self._all_shapes(self.base)
        for k, group in enumerate(self.knobs.groups):
            candidate = self._pruned({group.name: 0.5}, round_to=1)
            lost = self._lost(candidate)[k]
            if not lost:
                continue
            for name, dims in self._all_shapes(candidate).items():
                before = self.shapes.get(name)
                if before is None or len(before) != len(dims):
                    raise CandidateError(f"screening: tensor {name!r} changes its rank with the width of {group.name}")
                change = (np.array(dims) - np.array(before)) / lost
                if change.any():
                    self.slopes.setdefault(name, {})[k] = change

    def _all_shapes(self, candidate: Candidate) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors of the float graph and of the graph with all layers in int8."""
        build = self.evaluator.deployer.build
        shapes: dict[str, tuple[int, ...]] = {}
        for stage in (None, Ptq()):
            shapes |= read_forms(build(candidate.evolve(quantization=stage), final=False).proto).shapes
        return shapes

    def _lost(self, candidate: Candidate) -> list[int]:
        lost = []
        for group in self.knobs.groups:
            removed = len(candidate.removed.get(candidate.path_of(group.name), ()))
            lost.append(removed)
        return lost

    def _groups_of(self, names: Sequence[str]) -> list[int]:
        return sorted({k for name in names for k in self.slopes.get(self._known(name), ())})

    def _known(self, name: str) -> str:
        """The tensor with a known shape that a tensor of a quantised graph was made from."""
        if name not in self.shapes:
            name = self._weight_of.get(name, name)
        while name not in self.shapes and "/" in name:
            name = name.rpartition("/")[0]
        return name

    def _shape(self, widths: Mapping[int, Ints]) -> Callable[[str], Dims]:
        """Shapes for some widths, by group."""

        def shape(name: str) -> Dims:
            known = self._known(name)
            dims: list[Any] = list(self.shapes.get(known, (0,)))
            for k, slope in self.slopes.get(known, {}).items():
                lost = self.knobs.full[k] - widths[k]
                for axis in np.flatnonzero(slope):
                    dims[axis] = dims[axis] + np.rint(slope[axis] * lost).astype(np.int64)
            return tuple(dims)

        return shape

    # -- kernels

    def _read(self, int8: tuple[bool, ...]) -> None:
        """Deploy the narrow twin with these layers in int8, and note what runs and what is in memory where."""
        pairs = zip(self.layers, int8, strict=True)
        bits: dict[str, Any] = {layer.name.removeprefix(_BACKBONE): 8 if on else 32 for layer, on in pairs}
        stage = Ptq(weight_bits=bits) if bits else None
        deployment = self.evaluator.deployer.build(self.narrow.evolve(quantization=stage), final=False)
        for path, (kernels, buffers) in enumerate(zip(self.kernels, self.buffers, strict=True)):
            forms = read_forms(deployment.proto, deployment.outputs[: path + 1]).ops
            running = {form.name: self._index(replace(form, alive=())) for form in forms}
            living = {(form.name, name): itemsize for form in forms for name, itemsize in form.alive}
            self._note(kernels, int8, running, -1)
            self._note(buffers, int8, living, 0)
        self.readings.append(int8)

    def _index(self, form: OpForm) -> int:
        if form not in self._indices:
            self._indices[form] = len(self.forms)
            self.forms.append(form)
        return self._indices[form]

    def _note(self, places: dict[Any, _Place], int8: tuple[bool, ...], found: Mapping[Any, int], nothing: int) -> None:
        for name in found:
            if name not in places:
                places[name] = _Place(self._nearest(name if isinstance(name, str) else name[0]))
                for past in self.readings:
                    places[name].learn(past, nothing)
        for name, place in places.items():
            place.learn(int8, found.get(name, nothing))

    def _nearest(self, name: str) -> list[int]:
        distance = self._distance(name)
        return sorted(range(len(self.layers)), key=lambda i: distance.get(i, 10**6))

    def _prepare(self, codes: Ints) -> NDArray[np.bool_]:
        """Read what these codes, (N, layers of the graph), need; returns which layers compute in int8."""
        int8: NDArray[np.bool_] = _INT8[codes]
        if not self.readings:
            self._first_readings(int8)
        patterns = np.unique(int8[:_MAX_PATTERNS], axis=0)
        while len(self.readings) < _MAX_READINGS:
            tables: list[Mapping[Any, _Place]] = [*self.kernels, *self.buffers]
            places = [place for table in tables for place in table.values() if place.matter]
            unknown = sum((place.unknown(patterns).astype(int) for place in places), np.zeros(len(patterns), int))
            if not unknown.any():
                break
            self._read(tuple(patterns[unknown.argmax()].tolist()))
        return int8

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
            draws = self.rng.random((_RANDOM_READINGS, len(low))) < 0.5
            patterns.extend(np.where(low == high, low, draw) for draw in draws)
        for pattern in dict.fromkeys(tuple(bool(x) for x in p) for p in patterns):
            self._read(pattern)

    # -- costs

    def costs(self, widths: Ints, codes: Ints, head_codes: Ints) -> Floats:
        """(4, N): best and worst case in ms, size and peak memory in bytes."""
        own = np.stack([codes[:, c] if c >= 0 else head_codes for c in self.column], 1) if self.layers else codes[:, :0]
        int8 = self._prepare(own)
        device = self.evaluator.device
        indices = [np.unique(widths[:, k], return_inverse=True) for k in range(widths.shape[1])]
        path_ms, memory = [], np.zeros(len(widths))
        for path, (kernels, buffers) in enumerate(zip(self.kernels, self.buffers, strict=True)):
            total_us = np.full(len(widths), device.run_overhead_us)
            total_us += min(path + 1, self.n_paths - 1) * device.if_overhead_us
            weights = np.zeros(len(widths))
            for place in kernels.values():
                for index, rows in place.rows(int8):
                    if index >= 0:
                        time_us, weight_bytes = self._kernel(self.forms[index], indices)
                        total_us[rows] += time_us(rows)
                        weights[rows] += weight_bytes(rows)
            peak = self._peak(buffers, int8, indices)
            if device.cache_bytes is not None:
                beyond = np.maximum(0, weights + peak - device.cache_bytes) / 1e6
                total_us += device.us_per_mb_beyond_cache * beyond
            path_ms.append(total_us / 1e3)
            memory = peak if device.weights_in_flash else weights + peak
        return np.stack([path_ms[0], path_ms[-1], self._sizes(own, widths, indices), memory])

    def _kernel(self, form: OpForm, indices: Sequence[tuple[Ints, Ints]]) -> list[Callable[[Any], Any]]:
        """Functions from rows to the time in us and the weight bytes of one kernel."""
        names = [name for name, _ in (*form.reads, *form.writes, *form.weights)] + list(form.product or ())

        def measured(shape: Callable[[str], Dims]) -> tuple[Any, Any]:
            op = form.sized(shape)
            return linear.op_us(self.evaluator.device, op)[0], op.bytes_weights

        return self._tabulate(self._groups_of(names), indices, measured)

    def _peak(
        self, buffers: Mapping[tuple[str, str], _Place], int8: NDArray[np.bool_], indices: Sequence[tuple[Ints, Ints]]
    ) -> Floats:
        """(N,) the most bytes of activations in memory at one time."""
        steps: dict[str, Floats] = {}
        for (step, name), place in buffers.items():
            alive = steps.setdefault(step, np.zeros(len(int8)))
            (elements,) = self._tabulate(self._groups_of([name]), indices, partial(_counts, name))
            for itemsize, rows in place.rows(int8):
                if itemsize:
                    alive[rows] += itemsize * elements(rows)
        peak = np.zeros(len(int8))
        for alive in steps.values():
            np.maximum(peak, alive, out=peak)
        return peak

    def _tabulate(
        self,
        groups: list[int],
        indices: Sequence[tuple[Ints, Ints]],
        compute: Callable[[Callable[[str], Dims]], tuple[Any, ...]],
    ) -> list[Callable[[Any], Any]]:
        """Compute for every combination of the widths of these groups that occurs; look up by row."""
        if not groups:
            return [partial(_constant, value) for value in compute(self._shape({}))]
        sizes = [len(indices[k][0]) for k in groups]
        place: Ints
        if math.prod(sizes) < _MANY_CODES:
            code = np.zeros_like(indices[groups[0]][1])
            for k, size in zip(groups, sizes, strict=True):
                code = code * size + indices[k][1]
            if math.prod(sizes) <= 4 * len(code):
                used, place = np.indices(sizes).reshape(len(sizes), -1), code
            else:
                packed, place = np.unique(code, return_inverse=True)
                used = np.array(np.unravel_index(packed, sizes))
        else:
            used, place = np.unique(np.stack([indices[k][1] for k in groups]), axis=1, return_inverse=True)
        widths = {k: indices[k][0][row] for k, row in zip(groups, used, strict=True)}
        tables = [np.broadcast_to(value, used.shape[1]) for value in compute(self._shape(widths))]
        return [partial(_looked_up, table, place.ravel()) for table in tables]

    # -- size of the file

    def _sizes(self, codes: Ints, widths: Ints, indices: Sequence[tuple[Ints, Ints]]) -> Floats:
        for code in np.unique(codes).tolist() if codes.size else [0]:
            if code not in self.layer_bytes:
                self._learn_file(code)
        base = float(np.mean([self.overhead[c] for c in self.overhead])) if not self.layers else 0.0
        total = np.full(len(widths), base)
        for i in range(len(self.layers)):
            for code in np.unique(codes[:, i]):
                chosen = np.flatnonzero(codes[:, i] == code)
                items = self.layer_bytes[int(code)][i]
                groups = self._groups_of([name for name, _ in items])

                def stored(shape: Callable[[str], Dims], items: Sequence[tuple[str, float]] = items) -> tuple[Any]:
                    return (sum(-(-_count(shape(name)) * bits // 8) for name, bits in items),)

                (size,) = self._tabulate(groups, indices, stored)
                total[chosen] += size(chosen) + self.overhead[int(code)] / len(self.layers)
        return total

    def _learn_file(self, code: int) -> None:
        """What each layer stores in this format, and the rest of such a file, from one deployed file."""
        bits: Any = dict(zip(("weight_bits", "activation_bits"), _FORMATS[code], strict=True))
        stage = Ptq(**bits)
        candidate = self.narrow.evolve(quantization=stage if code else None)
        deployment = self.evaluator.deployer.build(candidate, final=False)
        thresholds = [0.5] * len(candidate.exits)
        recipe = Recipe(stages=(stage,)) if code else Recipe()
        file = self.evaluator.deployer.finish(deployment, thresholds, recipe, self.evaluator.provenance())
        stored = {i.name: i for i in deployment.proto.graph.initializer}
        shape = self._shape({k: self.knobs.full[k] - np.int64(n) for k, n in enumerate(self._lost(self.narrow))})
        known = 0
        self.layer_bytes[code] = []
        for layer in self.layers:
            items = self._stored_by(layer.weight, layer.nodes, stored, shape)
            self.layer_bytes[code].append(items)
            known += int(sum(-(-_count(shape(name)) * bits // 8) for name, bits in items))
        self.overhead[code] = float(len(file) - known)

    def _stored_by(
        self, weight: str, nodes: Sequence[str], stored: Mapping[str, Any], shape: Callable[[str], Dims]
    ) -> list[tuple[str, float]]:
        """Tensors whose elements the file holds for a layer, with the bits of each element."""
        items: list[tuple[str, float]] = []
        for name, tensor in stored.items():
            mine = name == weight or name.startswith(f"{weight}/") or any(name.startswith(f"{n}/") for n in nodes)
            if not mine:
                continue
            count = math.prod(tensor.dims)
            bits = {1: 32, 6: 32, 10: 16, 22: 4}.get(tensor.data_type, 8)
            like = weight if count == _count(shape(weight)) else nodes[0]
            if count != _count(shape(like)):
                pixels = _count(shape(like)) // max(1, count)
                items.append((like, bits / max(1, pixels)))
            else:
                items.append((like, bits))
        return items


def _constant(value: Any, rows: Any) -> Any:
    return value


def _looked_up(table: NDArray[Any], place: Ints, rows: Any) -> Any:
    return table[place[rows]]


def _counts(name: str, shape: Callable[[str], Dims]) -> tuple[Any]:
    return (_count(shape(name)),)


def _count(dims: Dims) -> Any:
    total: Any = 1
    for dim in dims:
        total = total * dim
    return total


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
            seen, ring, step = {start}, [start], 0
            while ring:
                for tensor in ring:
                    if tensor in layer_of:
                        found.setdefault(layer_of[tensor], step)
                ring = [n for tensor in ring for n in neighbours.get(tensor, ()) if n not in seen and not seen.add(n)]  # type: ignore[func-returns-value]
                step += 1
            known[start] = found
        return known[start]

    return distances
