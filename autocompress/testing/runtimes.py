"""Conformance checks for runtimes: what every one of them must do, for their authors to run in a test.

    from autocompress.testing.runtimes import CHECKS, Case

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_conforms(check):
        check(Case("my-runtime", task))

Each check raises AssertionError with the rule that was broken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocompress.compression.candidate import Candidate
from autocompress.compression.quantize import Quantize
from autocompress.compression.techniques._usual import exits as early_exits
from autocompress.compression.techniques._usual import quantised
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import CandidateError
from autocompress.evaluation.deploy import Artifact, Deployment
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.timing import ways_through
from autocompress.graphs.nested_if import EXIT_INDEX
from autocompress.recipes.recipe import Recipe
from autocompress.runtimes.base import Runtime, get, pieces, reference
from autocompress.runtimes.timing import TimingProtocol, measure
from autocompress.runtimes.workload import KINDS
from autocompress.tasks.interface import joined
from autocompress.tasks.task import Task
from autocompress.testing._rules import is_refused, require, require_docstrings

FLOAT_ERROR = 1e-3
"""Largest difference of outputs from the reference, relative to the largest output, where all is computed in floats."""
INTEGER_ERROR = 0.1
"""The same where layers compute in integers: roundings of other sums, not other scales."""
_BRIEF = TimingProtocol(rounds=2, runs=2, warm_up=1, pause_s=0.0, max_seconds=0.05)


@dataclass(frozen=True)
class Case:
    """A runtime under test."""

    name: str
    task: Task
    """A small one; where the runtime executes exits, of a network that has places for them."""

    @property
    def runtime(self) -> Runtime:
        """It."""
        return get(self.name)

    @cached_property
    def evaluator(self) -> Evaluator:
        """Builds files for a device with this runtime."""
        device = DeviceProfile.load("raspberry-pi-4")
        return Evaluator(self.task, device.model_copy(update={"name": "conformance", "runtime": self.name}))

    @cached_property
    def samples(self) -> dict[str, NDArray[Any]]:
        """One sample."""
        return {name: array[:1] for name, array in self.task.calibration_batches(1, 0)[0].items()}

    def deployment(self, stage: Quantize | None = None, *, exits: bool = False) -> Deployment:
        """The network, quantised or with one early exit on demand."""
        candidate = Candidate(self.task.model)
        if exits:
            candidate = early_exits(hidden=8).apply(candidate, self.evaluator.context)
        return self.evaluator.deployer.build(candidate.evolve(quantization=stage))

    def file(self, stage: Quantize | None = None, *, exits: bool = False) -> Artifact:
        """The same as a file."""
        deployment = self.deployment(stage, exits=exits)
        return self.evaluator.deployer.finish(deployment, [0.5] * (len(deployment.outputs) - 1), Recipe(), {})


def is_found_by_its_name(case: Case) -> None:
    """Check that profiles can name it, and that it says what it is."""
    runtime = case.runtime
    require(runtime.name == case.name, f"it is called {runtime.name!r}, and found as {case.name!r}")
    require(
        runtime.suffix.startswith(".") and bool(runtime.title), "it has no suffix that starts with a dot, or no title"
    )
    require(bool(runtime.version()), "its library has no version")
    can = runtime.capabilities
    require(all((can.way, can.weight_bits, can.activation_bits)), "its capabilities are empty")


def is_documented(case: Case) -> None:
    """Check that module, class and methods have docstrings."""
    cls = type(case.runtime)
    require_docstrings(cls, {method: getattr(cls, method).__doc__ for method in ("convert", "open", "kernels")})


def writes_the_same_file_every_time(case: Case) -> None:
    """Check that a graph is converted to the same bytes, and not changed: files are known by their digests."""
    graph = case.file().graph
    before = graph.SerializeToString(deterministic=True)
    require(case.runtime.convert(graph) == case.runtime.convert(graph), "a second conversion gives another file")
    require(graph.SerializeToString(deterministic=True) == before, "the graph was changed")


def keeps_names(case: Case) -> None:
    """Check that inputs and outputs are called as in the graph, and that one sample fits."""
    artifact = case.file()
    model, graph = case.runtime.load(artifact.file), artifact.graph.graph
    require(list(model.inputs) == [v.name for v in graph.input], f"its inputs are {list(model.inputs)}")
    require(list(model.outputs) == [v.name for v in graph.output], f"its outputs are {list(model.outputs)}")
    for name, value in case.samples.items():
        spec = model.inputs[name]
        fits = all(not isinstance(size, int) or size == n for size, n in zip(spec.shape, value.shape, strict=True))
        require(
            fits and spec.dtype == str(value.dtype), f"input {name!r} is {spec}, a sample {value.shape}, {value.dtype}"
        )
    require(list(model(case.samples)) == list(model.outputs), "it does not return what `outputs` names")


def loads_files_by_their_path(case: Case) -> None:
    """Check that a file on disk is the same as its bytes."""
    import tempfile
    from pathlib import Path

    artifact = case.file()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{case.runtime.suffix}"
        path.write_bytes(artifact.file)
        found = case.runtime.load(path)(case.samples)
    expected = case.runtime.load(artifact.file)(case.samples)
    require(all(np.array_equal(found[n], expected[n]) for n in expected), "a file on disk gives other outputs")


def refuses_what_it_cannot_run(case: Case) -> None:
    """Check that damaged files and wrong inputs are errors of the candidate."""
    require(
        is_refused(lambda: case.runtime.load(b"no model"), CandidateError), "a damaged file raises no CandidateError"
    )
    model, wrong = case.runtime.load(case.file().file), {n: v[:, :-1] for n, v in case.samples.items()}
    require(is_refused(lambda: model(wrong), CandidateError), "inputs of a wrong shape raise no CandidateError")


def computes_what_the_file_says(case: Case) -> None:
    """Check every number format that it claims to execute against the reference."""
    can = case.runtime.capabilities
    for bits in sorted(can.weight_bits):
        for activations in sorted(can.activation_bits) if bits <= 8 else [32]:
            stage = None if bits == 32 else quantised(weight_bits=bits, activation_bits=activations)
            allowed = INTEGER_ERROR if bits <= 8 and activations == 8 else FLOAT_ERROR
            error = _error(case, case.file(stage))
            require(
                error <= allowed, f"weights of {bits}, activations of {activations} bits: relative error {error:.2g}"
            )


def leaves_at_each_exit(case: Case) -> None:
    """Check that each early exit can be forced, and answers as in the reference."""
    if not case.runtime.capabilities.early_exits:
        return
    artifact = case.file(exits=True)
    ours, theirs = (
        [model(inputs) for model, inputs in ways_through(runtime, file, 1, case.samples)]
        for runtime, file in ((case.runtime, artifact.file), (reference(), artifact.graph.SerializeToString()))
    )
    left = [int(outputs[EXIT_INDEX]) for outputs in ours]
    require(left == list(range(len(theirs))), f"forced out at exits 0 to {len(theirs) - 1}, it left at {left}")
    for a, b in zip(ours, theirs, strict=True):
        require(_difference(a, b) <= FLOAT_ERROR, "an exit answers otherwise than in the reference")


def reads_kernels(case: Case) -> None:
    """Check that a graph becomes kernel calls of known kinds, fewer bytes of weights where they are int8."""
    plain, int8 = (case.runtime.kernels(case.file(stage).graph).workload() for stage in (None, quantised()))
    require(plain.macs > 0 and plain.macs == int8.macs, "the multiply-accumulates are not counted")
    require({op.kind for op in (*plain.ops, *int8.ops)} <= set(KINDS), "an operator has a kind that is not known")
    require(int8.weight_bytes < plain.weight_bytes, "int8 weights take as many bytes as floats")
    if case.runtime.capabilities.early_exits:
        several = case.deployment(exits=True)
        first, whole = (case.runtime.kernels(several.proto, several.outputs[:n]).workload() for n in (1, 2))
        require(first.macs < whole.macs, "the way to the first exit costs as much as the whole network")


def can_be_timed(case: Case) -> None:
    """Check that the timing protocol gives a latency."""
    (timing,) = measure([(case.runtime.load(case.file().file), case.samples)], case.runtime, protocol=_BRIEF)
    require(timing.latency_ms > 0, "a run takes no time")


CHECKS: tuple[Callable[[Case], None], ...] = (
    is_found_by_its_name,
    is_documented,
    writes_the_same_file_every_time,
    keeps_names,
    loads_files_by_their_path,
    refuses_what_it_cannot_run,
    computes_what_the_file_says,
    leaves_at_each_exit,
    reads_kernels,
    can_be_timed,
)
"""All of them; each takes a `Case`."""


def _error(case: Case, artifact: Artifact) -> float:
    """Largest relative difference from the reference over some samples."""
    ours, theirs = case.runtime.load(artifact.file), reference().load(artifact.graph.SerializeToString())
    batch = case.task.parity_batches(0)[0]
    found, expected = (joined([model(piece) for piece in pieces(model, batch)]) for model in (ours, theirs))
    return max(float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max()) for name in expected)


def _difference(a: Any, b: Any) -> float:
    return max(float(np.abs(a[name] - b[name]).max() / max(1.0, np.abs(b[name]).max())) for name in b)
