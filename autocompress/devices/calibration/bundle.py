"""Bundles: the plan as a folder for a device elsewhere, and its result back here."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import zipfile
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from autocompress.devices.calibration import _bundle_runner as runner
from autocompress.devices.calibration.measurements import Measurements
from autocompress.devices.calibration.micro_nets import extreme_model
from autocompress.devices.calibration.plan import PLAN_VERSION, plan, plan_digest
from autocompress.errors import DeviceError, InputError, MeasurementError
from autocompress.files import parse_json, read_file
from autocompress.runtimes import _timing
from autocompress.runtimes.adapters.onnxruntime import session
from autocompress.runtimes.base import Runtime, reference
from autocompress.runtimes.input_shapes import Shapes, fix_inputs
from autocompress.runtimes.timing import reference_model
from autocompress.runtimes.workload import Workload

RUNNER = "run.py"
TIMING, SESSION = "_timing.py", "session.py"
BASE_FILE = "base.onnx"
_HOLLOW_BYTES = 4096
_MAX_REFUSED = 0.25
_README = """Calibration bundle of autocompress.

On the device (Python 3.8 or newer):

    python -m pip install onnxruntime numpy
    python run.py

It takes about three minutes, more on slow devices, writes result.json, and goes on where it stopped if it is
interrupted. Then, where autocompress is installed:

    autocompress devices calibrate NAME --from result.json
"""


def write_bundle(
    folder: str | Path, base_model: str | Path | None = None, shapes: Shapes = MappingProxyType({})
) -> Path:
    """Write the plan, the runner and, if given, the user's own model into a new folder; returns it.

    The folder appears whole or not at all. Large weights of the plan are left out and made on the device. `shapes`
    are those of the inputs of the model, by name, that have free dimensions beside the batch.

    Raises:
        InputError: the folder exists and is not empty, or the model cannot be read.
    """
    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: a bundle needs a new or empty folder; choose another one or remove this one.")
    base = read_model(base_model, shapes)[0] if base_model is not None else b""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        _fill(temporary, base)
        temporary.chmod(0o755)
        temporary.replace(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _fill(folder: Path, base: bytes) -> None:
    models = plan()
    with zipfile.ZipFile(folder / runner.MODELS_FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        entries = [_store(archive, model.name, model.make()) for model in models]
        if base:
            (folder / BASE_FILE).write_bytes(base)
            entries.append({"name": runner.BASE, "file": BASE_FILE, "sha256": _sha256(base)})
        manifest = {
            "version": runner.MEASUREMENTS_VERSION,
            "plan_version": PLAN_VERSION,
            "plan_digest": plan_digest(models),
            "base_sha256": _sha256(base) if base else "",
            runner.REFERENCE: _store(archive, runner.REFERENCE, reference_model()),
            runner.EXTREME: _store(archive, runner.EXTREME, extreme_model()),
            "models": entries,
        }
        archive.writestr(runner.MANIFEST, json.dumps(manifest))
    shutil.copyfile(runner.__file__, folder / RUNNER)
    shutil.copyfile(_timing.__file__, folder / TIMING)
    shutil.copyfile(session.__file__, folder / SESSION)
    (folder / "README.txt").write_text(_README, encoding="utf-8")


def _store(archive: zipfile.ZipFile, name: str, content: bytes) -> dict[str, Any]:
    hollow, holes = hollow_out(content)
    archive.writestr(name, hollow)
    return {"name": name, "sha256": _sha256(hollow), "holes": holes}


def hollow_out(content: bytes) -> tuple[bytes, list[tuple[int, int, str, float]]]:
    """Cut large float32 and int8 weights out of an ONNX file.

    Returns:
        What is left, and for each cut its offset in it, the number of values, their type and the factor that gives
        `_bundle_runner.filler` about their spread.
    """
    pieces, holes, last, size = [], [], 0, 0
    for tensor in onnx.load_from_string(content).graph.initializer:
        dtype = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT8: "int8"}.get(tensor.data_type)
        if dtype is None or len(tensor.raw_data) < _HOLLOW_BYTES:
            continue
        offset = content.index(tensor.raw_data, last)
        pieces.append(content[last:offset])
        size += offset - last
        values = numpy_helper.to_array(tensor)
        deviation = float(np.std(values[: 2**16])) if dtype == "float32" else 1.0
        holes.append((size, values.size, dtype, deviation / float(np.std(runner.filler(2**16, "float32", 1.0)))))
        last = offset + len(tensor.raw_data)
    return b"".join([*pieces, content[last:]]), holes


def read_model(
    path: str | Path, shapes: Shapes = MappingProxyType({}), runtime: Runtime | None = None
) -> tuple[bytes, Workload]:
    """Return an ONNX file, with weights that lie in other files inside, and its kernel calls.

    `shapes` fixes inputs, by name; both results have them. The calls are those of a runtime, by default the reference.

    Raises:
        InputError: the file is missing or no ONNX model, or the size of an input is not known.
    """
    try:
        model = onnx.load(path)
        constants = {weight.name for weight in model.graph.initializer}
        fix_inputs([value for value in model.graph.input if value.name not in constants], shapes)
        return bytes(model.SerializeToString()), (runtime or reference()).kernels(model).workload()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # protobuf, onnx and its checks have no common base class
        raise InputError(f"{path}: not a usable ONNX model: {' '.join(str(error).split())[:200]}") from None


def base_workload(
    measurements: Measurements, base_model: str | Path | None, shapes: Shapes = MappingProxyType({})
) -> Workload | None:
    """Operators of the user's own model, if it was measured and is given again.

    Raises:
        DeviceError: the file is not the one that was measured, or none was.
    """
    if base_model is None:
        return None
    content, work = read_model(base_model, shapes)
    if _sha256(content) != measurements.base_sha256:
        raise DeviceError(f"{base_model}: this is not the model that was measured; give the file that the bundle got.")
    return work


def read_result(path: str | Path, accept_unsteady: bool = False) -> Measurements:
    """Read what `run.py` wrote and check that it can be trusted.

    Raises:
        DeviceError: not a result, changed since it was written, of another plan, or not complete.
        MeasurementError: the device throttled or was not steady, and `accept_unsteady` is not set.
    """
    try:
        data = parse_json(read_file(path, DeviceError))
    except ValueError:
        raise DeviceError(f"{path}: this is not JSON, or it was cut; copy result.json from the device again.") from None
    if not isinstance(data, dict) or "timings" not in data:
        raise DeviceError(f"{path}: this is not a result of run.py; give the result.json that it wrote.")
    if data.pop("checksum", None) != runner.checksum(data):
        raise DeviceError(
            f"{path}: the content does not match its checksum, so it was changed after the run; "
            "copy result.json from the device again."
        )
    measurements = Measurements.parse(data, str(path))
    models = plan()
    if measurements.plan_digest != plan_digest(models):
        raise DeviceError(
            f"{path}: measured with plan {measurements.plan_digest} (version {measurements.plan_version}), this "
            f"autocompress has {plan_digest(models)} (version {PLAN_VERSION}); write the bundle anew and run it again."
        )
    missing = {model.name for model in models} - {t.name for t in measurements.timings} - set(measurements.refused)
    if missing or not measurements.complete:
        raise DeviceError(
            f"{path}: the run was interrupted, {len(missing)} of {len(models)} models are missing; "
            "start run.py on the device again, it goes on where it stopped."
        )
    if len(measurements.refused) > _MAX_REFUSED * len(models):
        raise DeviceError(
            f"{path}: onnxruntime {measurements.runtime_version} on the device cannot run {len(measurements.refused)} "
            f"of {len(models)} models; install a newer one there, remove result.json and run again."
        )
    if measurements.unsteadiness and not accept_unsteady:
        raise MeasurementError(
            f"{path}: {measurements.unsteadiness}; stop other programs, cool the device, remove result.json and run "
            "again, or accept it with --accept-unsteady."
        )
    return measurements


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
