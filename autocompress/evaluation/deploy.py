"""From a trained candidate to the bytes of the file that ships, and what is known about it without running it."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx
from torch import nn

from autocompress import __version__
from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.finetuning import fit_and_keep_best
from autocompress.compression.fingerprint import architecture
from autocompress.compression.quantize import Quantize
from autocompress.compression.training import Distillation, Schedule
from autocompress.devices import cost_model
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError
from autocompress.evaluation.inventory import FileLayer, inventory, layer_names
from autocompress.given.network import GraphNetwork
from autocompress.graphs import export, nested_if, qdq
from autocompress.graphs.equalize import equalize
from autocompress.graphs.observe import ActivationRange, observe
from autocompress.graphs.qat import build_twin
from autocompress.graphs.quantizable import FEWEST_WEIGHTS, QuantPlan, QuantSpec, plan, quantizable_layers, small_layers
from autocompress.graphs.repair import repair
from autocompress.recipes.recipe import Recipe
from autocompress.runtimes.base import Runtime, executor, pieces
from autocompress.runtimes.conversion import converted
from autocompress.runtimes.input_shapes import note_usual_shapes
from autocompress.runtimes.workload import Op, Workload
from autocompress.tasks.interface import Arrays, Tensors, arrays, n_samples, take, tensors
from autocompress.tasks.torch_utils import outputs_of

_NAMED = 4
"""Layers that a note names at most."""
_KEPT_TEMPLATES = 16
_COMPARED = 4
"""Samples on which the file of a runtime is compared with its graph."""
_MIN_AGREEMENT = 0.98  # of predictions, file against the fake-quantised twin it was written from


@dataclass(frozen=True)
class Deployment:
    """A finished graph with all its outputs, before it is cut into exits."""

    proto: onnx.ModelProto
    outputs: tuple[str, ...]
    """Those of the early exits, in order of execution, then the network's own."""
    n_exits: int = 0
    layers: Mapping[str, str] = field(default_factory=dict)
    """What the user's network calls the layer of each node with weights."""
    parity: float | None = None
    """How far file and torch model agree, from 0 to 1 (see `Deployer.build`, `TaskKind.agreement`)."""
    notes: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The outputs computed on each path: up to each exit, and all of them."""
        return (*(self.outputs[: i + 1] for i in range(self.n_exits)), self.outputs)


@dataclass(frozen=True)
class Artifact:
    """What ships."""

    graph: onnx.ModelProto
    """With nested exits, recipe and provenance."""
    file: bytes
    """The same as the device's runtime takes it."""


@dataclass(frozen=True)
class Cost:
    """Predicted on the device, from the graph that will be deployed."""

    path_ms: tuple[float, ...]
    """Latency of a sample that leaves at each exit; the last is the whole network."""
    in_domain: bool
    doubts: tuple[str, ...] = ()
    """Why it is not in domain, each in one clause."""
    layer_ms: Mapping[str, float] = field(default_factory=dict)
    macs: int = 0
    peak_memory_bytes: int = 0
    """Of the whole network; see `Workload.peak_memory_bytes`."""
    workloads: tuple[Workload, ...] = ()
    """The kernel calls on each path, tests of confidence included."""


class Deployer:
    """Builds files for one task on one device; keeps the exported graph of every architecture it has seen."""

    def __init__(self, context: Context, device: DeviceProfile) -> None:
        self.context = context
        self.device = device
        self.runtime = executor(device.runtime)
        """Executes the files here."""
        self.exports = 0
        """How many networks were exported, which takes seconds; others have their weights put into a graph that is
        there."""
        self._templates: OrderedDict[str, tuple[onnx.ModelProto, export.BatchNormPairs]] = OrderedDict()
        self._latest: tuple[nn.Module, nn.Module, onnx.ModelProto] | None = None

    def build(self, candidate: Candidate, *, final: bool = True) -> Deployment:
        """Fold, export, quantise.

        Args:
            candidate: its `quantization` stage is carried out here.
            final: False to learn shapes, size and latency only: nothing is observed or trained, and the ranges
                in the graph are placeholders.

        `parity` compares the file with the torch model it was written from: the network itself, or the
        fake-quantised twin after quantisation-aware training; after a post-training quantisation it is the
        agreement of the quantised file with the unquantised network.

        Raises:
            CandidateError: the candidate cannot be exported, or file and torch disagree.
        """
        folded, proto = self._float(candidate)
        layers, names = _layer_of_nodes(proto, candidate), _names_of_outputs(proto)
        stage = candidate.quantization
        if stage is None:
            graph = export.strip(proto)
            parity = self._agreement(graph, folded) if final else None
            return Deployment(graph, names, len(candidate.exits), layers, parity)
        if not final:
            return Deployment(self._placeholder(proto, candidate, stage), names, len(candidate.exits), layers)
        if stage.training:
            return self._trained(candidate, folded, stage, *stage.training)
        graph, told = self._quantized(proto, candidate, stage)
        parity, notes = self._agreement(graph, folded), (*self._left_in_float(graph, proto, candidate, stage), *told)
        return Deployment(graph, names, len(candidate.exits), layers, parity, notes)

    def float_graph(self, candidate: Candidate) -> onnx.ModelProto:
        """The exported graph before quantisation; its nodes still know the layers that they come from.

        Raises:
            CandidateError: the candidate cannot be exported.
        """
        return self._float(candidate)[1]

    def cost(self, deployment: Deployment) -> Cost:
        """Predict the latency of every path through the graph, and the memory it needs."""
        workloads = paths(deployment, self.runtime)
        estimates = [cost_model.predict(self.device, workload) for workload in workloads]
        whole = workloads[-1]
        layer_ms: dict[str, float] = {}
        for node, ms in cost_model.per_op_ms(self.device, whole):
            if layer := deployment.layers.get(node):
                layer_ms[layer] = layer_ms.get(layer, 0.0) + ms
        return Cost(
            path_ms=tuple(estimate.latency_ms for estimate in estimates),
            in_domain=all(estimate.in_domain for estimate in estimates),
            doubts=tuple(dict.fromkeys(doubt for estimate in estimates for doubt in estimate.reasons)),
            layer_ms=layer_ms,
            macs=whole.macs,
            peak_memory_bytes=whole.peak_memory_bytes(weights_in_flash=self.device.weights_in_flash),
            workloads=workloads,
        )

    def finish(
        self,
        deployment: Deployment,
        thresholds: Sequence[float],
        recipe: Recipe,
        provenance: Mapping[str, Any],
    ) -> Artifact:
        """The file: exits nested, recipe and provenance in its metadata.

        Raises:
            CandidateError: the device's runtime has no file for this graph.
        """
        proto = onnx.ModelProto()
        proto.CopyFrom(deployment.proto)
        if deployment.n_exits:
            proto = nested_if.to_nested_if(proto, deployment.outputs, thresholds)
        proto.producer_name, proto.producer_version = "autocompress", __version__
        entries = {
            "autocompress.recipe": json.dumps(recipe.to_dict(), separators=(",", ":")),
            "autocompress.provenance": json.dumps(dict(provenance), separators=(",", ":")),
        }
        for key, value in entries.items():
            proto.metadata_props.add(key=key, value=value)
        return Artifact(proto, self.runtime.convert(proto))

    def _float(self, candidate: Candidate) -> tuple[nn.Module, onnx.ModelProto]:
        """The folded model and its graph; kept for the next candidate, which often differs in number formats only."""
        if isinstance(candidate.model, GraphNetwork):
            return candidate.model, candidate.model.graph
        if self._latest is None or self._latest[0] is not candidate.model:
            folded, key = self._folded(candidate)
            self._latest = (candidate.model, folded, self._float_graph(candidate, folded, key))
        return self._latest[1:]

    def _folded(self, candidate: Candidate) -> tuple[nn.Module, str]:
        """The model with BatchNorm folded, and the key of its architecture but for widths."""
        key = architecture(candidate.model)
        if key not in self._templates:
            samples = self._probe()
            pairs = export.batchnorm_pairs(candidate.model, samples)
            folded = export.fold_batchnorm(candidate.model, pairs)
            exported = self._export(folded, candidate)
            self._templates[key] = (exported.proto, pairs)
            while len(self._templates) > _KEPT_TEMPLATES:
                self._templates.popitem(last=False)
            return folded, key
        self._templates.move_to_end(key)
        return export.fold_batchnorm(candidate.model, self._templates[key][1]), key

    def _float_graph(self, candidate: Candidate, folded: nn.Module, key: str) -> onnx.ModelProto:
        proto = export.rebind(self._templates[key][0], folded)
        if self._error(proto, folded) <= export.TOLERANCE:
            return proto
        proto = self._export(folded, candidate).proto
        error = self._error(proto, folded)
        if error > export.TOLERANCE:
            raise CandidateError(
                f"the exported file disagrees with the torch model: relative error {error:.2g}, allowed "
                f"{export.TOLERANCE:g}; an operator of the model is exported wrongly"
            )
        return proto

    def _error(self, proto: onnx.ModelProto, folded: nn.Module) -> float:
        """How far file and torch model are apart on the probe, and on a smaller one where axes are free."""
        probe, free = self._probe(), self.context.task.free
        smaller = dict(probe)
        for name, axes in free.items():
            for k in axes:
                smaller[name] = smaller[name].narrow(k, 0, -(-smaller[name].shape[k] // 2))
        samples = [probe, smaller] if any(free.values()) else [probe]
        return max(export.disagreement(proto, folded, each) for each in samples)

    def _export(self, folded: nn.Module, candidate: Candidate) -> export.Exported:
        self.exports += 1
        task = self.context.task
        exported = export.export(folded, self._probe(), self._outputs(candidate), task.free)
        if any(task.free.values()):
            shapes = {name: (1, *tensor.shape[1:]) for name, tensor in task.inputs.items()}
            note_usual_shapes(exported.proto.graph.input, shapes)
        return exported

    def _outputs(self, candidate: Candidate) -> tuple[str, ...]:
        """What the outputs of the exported graph are to be called."""
        return (*(f"exit{i}" for i in range(len(candidate.exits))), *self.context.task.outputs.names)

    def _probe(self) -> Tensors:
        """Two samples to export with and to compare torch and file on; twice the same one where there is one only."""
        return self.context.task.probe(self.context.seed)

    def _first_batch(self) -> Arrays:
        """Two samples of the training data, or one where it comes in batches of one."""
        return self.context.task.calibration_batches(2, self.context.seed)[0]

    def _spec(self, proto: onnx.ModelProto, candidate: Candidate, stage: Quantize) -> QuantSpec:
        weights: dict[str, int] = {}
        activations: dict[str, int] = {}
        names, analysis = [layer.name for layer in quantizable_layers(proto)], self.context.analysis
        own, stages = [*map(candidate.own_name, names)], [*dict.fromkeys(analysis.layers.values())]
        # A table whose rows are known beforehand, such as those of all positions, is no layer of the graph.
        small = map(candidate.own_name, small_layers(proto))
        stage.check_layers(own, stages, [*candidate.gone(analysis.layers), *analysis.tables, *small])
        for name in names:
            weights[name], activations[name] = stage.bits(candidate.own_name(name), candidate.stage_of(name, analysis))
        return QuantSpec(weights, activations, reduce_range=self.device.int8_arithmetic == "saturating")

    def _left_in_float(
        self, graph: onnx.ModelProto, proto: onnx.ModelProto, candidate: Candidate, stage: Quantize
    ) -> tuple[str, ...]:
        layers = inventory(graph, self.runtime, layer_names(proto))

        def asked(name: str) -> int:
            return stage.bits(candidate.own_name(name), candidate.stage_of(name, self.context.analysis))[0]

        return _left_in_float(stage, layers, asked)

    def _plan(
        self, proto: onnx.ModelProto, candidate: Candidate, stage: Quantize
    ) -> tuple[QuantPlan, dict[str, ActivationRange], list[str]]:
        spec = plan(proto, self._spec(proto, candidate, stage))
        notes: list[str] = []
        return spec, observe(proto, spec, self._calibration(stage), stage.observer, notes), notes

    def _quantized(
        self, proto: onnx.ModelProto, candidate: Candidate, stage: Quantize
    ) -> tuple[onnx.ModelProto, list[str]]:
        """The graph without training, and notes."""
        repairs, batches = stage.repairs, self._calibration(stage)
        graph = equalize(proto, batches) if repairs.equalize else proto
        spec, ranges, told = self._plan(graph, candidate, stage)
        repaired, weights = repair(
            graph, spec, ranges, batches, rounding=repairs.rounding, bias_correction=repairs.bias_correction
        )
        return export.strip(qdq.write_qdq(repaired, spec, ranges, weights)), told

    def _calibration(self, stage: Quantize) -> list[Arrays]:
        return self.context.task.calibration_batches(stage.observer_samples, self.context.seed)

    def _placeholder(self, proto: onnx.ModelProto, candidate: Candidate, stage: Quantize) -> onnx.ModelProto:
        """Quantised as the final graph will be, with ranges that nobody observed."""
        spec = plan(proto, self._spec(proto, candidate, stage))
        ranges = {tensor: ActivationRange(1.0, 0) for tensor in (a.tensor for a in spec.activations)}
        return export.strip(qdq.write_qdq(proto, spec, ranges))

    def _trained(
        self, candidate: Candidate, folded: nn.Module, stage: Quantize, schedule: Schedule, distillation: Distillation
    ) -> Deployment:
        """Quantisation-aware training on the twin of the exported graph."""
        exported = self._export(folded, candidate)
        if not exported.dynamic_batch and n_samples(self._first_batch()) > 1:
            raise CandidateError(
                "quantisation-aware training trains the exported graph, and that of this network takes one sample at a "
                "time; quantise without training, or use training data in batches of one"
            )
        spec, ranges, told = self._plan(exported.proto, candidate, stage)
        twin = build_twin(exported.program, exported.proto, spec, ranges)
        rate = schedule.learning_rate
        groups = [
            {"params": list(twin.weight_parameters()), "lr": rate},
            {"params": list(twin.scale_parameters()), "lr": rate / 100, "weight_decay": 0.0},
        ]
        trained = fit_and_keep_best(
            twin.module,
            self.context,
            schedule,
            distillation,
            parameters=groups,
            title="quantisation-aware training",
        )
        proto, ranges, weights = twin.extract()
        graph = export.strip(qdq.write_qdq(proto, spec, ranges, weights))
        agreement = self._agreement(graph, twin.module)
        if agreement < _MIN_AGREEMENT:
            raise CandidateError(
                f"the quantised file agrees with its training twin on {agreement:.1%} of the samples only, "
                f"at least {_MIN_AGREEMENT:.0%} are needed"
            )
        notes = (*self._left_in_float(graph, exported.proto, candidate, stage), *told)
        notes += (f"{stage.technique}: not trained: {', '.join(twin.skipped)}",) if twin.skipped else ()
        notes += (f"{stage.technique}: no better than before: undone",) if trained.kept == "start" else ()
        layers = _layer_of_nodes(exported.proto, candidate)
        return Deployment(graph, _names_of_outputs(graph), len(candidate.exits), layers, agreement, notes)

    def _agreement(self, graph: onnx.ModelProto, model: nn.Module) -> float:
        """How far file and torch model agree, as the kind of task counts it.

        The graph is run as the device's runtime runs it. None of these samples has set a range.

        Raises:
            CandidateError: the runtime has no file for this graph, or the file computes something else.
        """
        task = self.context.task
        batches = task.parity_batches(self.context.seed)
        _, file = converted(self.runtime, graph, take(batches[0], slice(_COMPARED)))
        same, count = 0.0, 0
        for batch in batches:
            for piece in pieces(file, batch):
                n, n_outputs = n_samples(piece), len(task.outputs.names)
                theirs = [*file(piece).values()][-n_outputs:]
                ours = arrays(outputs_of(model, tensors(piece)))[-n_outputs:]
                same += n * task.traits.agreement(task.own(theirs), task.own(ours))
                count += n
        return same / max(1, count)


def paths(deployment: Deployment, runtime: Runtime) -> tuple[Workload, ...]:
    """What is executed when a sample leaves at each exit; the last is the whole network."""
    workloads = []
    for i, outputs in enumerate(deployment.paths):
        workload = runtime.kernels(deployment.proto, outputs).workload()
        tests = tuple(Op("if", "float32", f"if_{k}") for k in range(min(i + 1, deployment.n_exits)))
        workloads.append(replace(workload, ops=workload.ops + tests))
    return tuple(workloads)


def _names_of_outputs(graph: onnx.ModelProto) -> tuple[str, ...]:
    return tuple(value.name for value in graph.graph.output)


def _layer_of_nodes(proto: onnx.ModelProto, candidate: Candidate) -> dict[str, str]:
    """For each node that has weights, what the user's network calls their layer."""
    return {node: candidate.own_name(name) for node, name in layer_names(proto).items()}


def _left_in_float(stage: Quantize, layers: Sequence[FileLayer], asked: Callable[[str], int]) -> tuple[str, ...]:
    """A note on the layers that should have fewer bits and have not, because nothing here can quantise their kind."""
    left = [x for x in layers if x.weight_bits >= 32 and asked(x.name) < 32]
    small = all(x.weight_bytes < 4 * FEWEST_WEIGHTS for x in left) and len(left) < len(layers)
    if not left or small:
        return ()
    share = sum(x.weight_bytes for x in left) / sum(x.weight_bytes for x in layers)
    named = ", ".join(f"{x.name} ({x.kind})" for x in left[:_NAMED]) + (", ..." if len(left) > _NAMED else "")
    if len(left) == len(layers):
        return (f"{stage.technique}: nothing was quantised; weights stay float32 in {named}",)
    return (f"{stage.technique}: weights stay float32 in {named}: {share:.0%} of the bytes of all weights",)
