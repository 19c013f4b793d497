"""Times the models of a calibration bundle on the device where it is started.

Usage: python run.py [--seconds 180] [--threads 1] [--out result.json]

Needs Python 3.8 or newer, numpy and onnxruntime, nothing else. It can be interrupted at any time: the same
command goes on where it stopped. Stop other programs first, and let the device cool between two runs.

(It runs alone on devices, beside `_timing.py`, the timing protocol, and `session.py`, which loads a file: hence it
keeps to Python 3.8 and to these two packages, and repeats a few lines that autocompress has elsewhere.)
"""

from __future__ import annotations

import argparse
import datetime
import glob
import hashlib
import json
import os
import platform
import signal
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

try:
    import numpy as np
except ImportError:
    raise SystemExit("error: numpy is missing; install it with: python -m pip install numpy onnxruntime") from None

if __package__:
    from autocompress.runtimes._timing import Model, TimingProtocol, example_inputs, spread, time_together
else:  # alone on a device, beside its copy
    from _timing import Model, TimingProtocol, example_inputs, spread, time_together  # type: ignore

if TYPE_CHECKING:
    Source = Callable[[], bytes]
    Load = Callable[[bytes, int], Model]
    Report = Callable[[list[dict[str, Any]], str], None]

MEASUREMENTS_VERSION = 1
MODELS_FILE = "models.zip"
MANIFEST = "manifest.json"
REFERENCE = "reference"
EXTREME = "int8-extreme"
BASE = "base"
"""Name of the timing of the user's own model."""

BATCH = 12
_MIX = 31
"""Models so many places apart are timed together the second time."""
_AGAIN_SHARE = 0.15
_AGAIN_SPREAD = 0.05
_AGAIN_SLOWDOWN = 1.1
_BLOCK_SIZE = 65521
_FLAGS = (
    *("avx", "avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"),
    *("asimd", "asimddp", "fphp", "asimdhp", "i8mm", "sve", "sve2"),
)


# ------------------------------------------------------------------------------------------------ the machine


def cpu_flags() -> tuple[str, ...]:
    """Instruction-set flags of this processor that matter for the kernels; empty where unknown."""
    present = set()
    for line in _text("/proc/cpuinfo").splitlines():
        if line.lower().startswith(("flags", "features")):
            present.update(line.partition(":")[2].split())
    return tuple(flag for flag in _FLAGS if flag in present)


def processor_name() -> str:
    """Name of this processor, or of the board, as the system states it."""
    for line in _text("/proc/cpuinfo").splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    board = _text("/proc/device-tree/model").strip("\0 \n")
    return board or platform.processor() or platform.machine() or "unknown"


def int8_saturates(extreme_model: bytes, load: Load) -> bool:
    """Tell by test whether uint8 x int8 products overflow 16-bit sums: 255 x 127, summed, is not exact."""
    model = load(extreme_model, 1)
    ((name, spec),) = model.inputs.items()
    rows, columns = map(int, spec.shape)  # type: ignore[arg-type]
    (result,) = model({name: np.full((rows, columns), 255, np.uint8)}).values()
    return bool((result != 255 * 127 * columns).any())  # all weights are 127


def machine_facts(extreme_model: bytes, load: Load) -> dict[str, Any]:
    """Return what the measurements must say about this machine."""
    return {
        "processor": processor_name(),
        "instruction_set": list(cpu_flags()),
        "int8_saturates": int8_saturates(extreme_model, load),
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }


def throttle_events() -> int:
    """Count of thermal interventions that the system reports; a higher count later means throttling.

    Sources: the throttle counters of x86 processors, cooling devices of Linux that lower the clock, and the
    firmware of the Raspberry Pi (frequency capped, throttled, soft temperature limit).
    """
    pattern = "/sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count"
    count = sum(int(_text(path) or 0) for path in glob.glob(pattern))
    for path in glob.glob("/sys/class/thermal/cooling_device*"):
        if "cpufreq" in _text(path + "/type"):
            count += int(_text(path + "/cur_state") or 0)
    firmware = _text("/sys/devices/platform/soc/soc:firmware/get_throttled")
    return count + bin(int(firmware or "0", 16) & 0b1110).count("1")


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


# ------------------------------------------------------------------------------------------ measuring a plan


def filler(count: int, dtype: str, scale: float) -> Any:
    """Pseudo-random weights: small integers, times `scale` unless the type is int8 (which keeps to 7 bits)."""
    block = np.random.RandomState(0).randint(-63, 64, _BLOCK_SIZE).astype(dtype)
    values = np.resize(block, count)
    return values if dtype == "int8" else values * values.dtype.type(scale)


def measure_models(
    sources: Mapping[str, Source],
    reference: Source,
    load: Load,
    threads: int,
    seconds: float,
    report: Report,
    done: Sequence[Mapping[str, Any]] = (),
    elapsed_s: float = 0.0,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Time models twice, in batches that each hold the reference net; unsteady ones again in what is left of the time.

    Other work on the machine, or on its host, can slow a whole batch. The second time comes a minute later and in
    other company; the faster one counts.

    Args:
        sources: name and maker of each model.
        reference: maker of the reference net.
        load: loads an ONNX file for a number of threads.
        threads: 1 counts CPU time of the thread, more count wall time.
        seconds: wall time to spend; every model is measured whatever it is.
        report: called after every batch with all timings so far and a few words.
        done: timings of an earlier, interrupted run; their models are not timed again.
        elapsed_s: seconds that the earlier run took.

    Returns:
        One timing per model (name, latency_ms, reference_ms of its batch, spread, at_s), and the names of models
        that the runtime refuses, for example because it is too old.
    """
    found = _Measured(sources, reference, load, threads, done, elapsed_s)
    missing = [name for name in sources if name not in found.timings]
    for names, n_left in _batches(missing):
        found.time_batch(names, (1 - _AGAIN_SHARE) / 2 * seconds, n_left)
        report(list(found.timings.values()), "")
    mixed = [name for k in range(_MIX) for name in missing[k::_MIX] if name not in found.refused]
    for names, n_left in _batches(mixed):
        found.time_batch(names, (1 - _AGAIN_SHARE) * seconds, n_left)
        report(list(found.timings.values()), ", a second time")
    for names, n_left in _batches(found.restless()):
        if found.took_s() < 0.95 * seconds:
            found.time_batch(names, seconds, n_left)
            report(list(found.timings.values()), ", unsteady ones again")
    return [found.timings[name] for name in sources if name in found.timings], found.refused


def _batches(names: Sequence[str]) -> Iterator[tuple[Sequence[str], int]]:
    """Cut a list into batches; the second value counts the names from this batch on."""
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH], len(names) - start


class _Measured:
    """What is known of the models so far; the arguments are those of `measure_models`."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        reference: Source,
        load: Load,
        threads: int,
        done: Sequence[Mapping[str, Any]],
        elapsed_s: float,
    ) -> None:
        self._sources, self._load, self._threads, self._elapsed_s = sources, load, threads, elapsed_s
        self._started = time.perf_counter()
        self._reference = load(reference(), threads)
        self.timings = {str(row["name"]): dict(row) for row in done}
        """By name; of a model that was timed more than once the fastest."""
        self.refused: list[str] = []

    def took_s(self) -> float:
        """Wall time of this run, without earlier ones."""
        return time.perf_counter() - self._started

    def time_batch(self, names: Sequence[str], until_s: float, n_left: int) -> None:
        """Time some models together, in their share of what is left until `until_s` for `n_left` models."""
        models = {}
        for name in names:
            content = self._sources[name]()
            try:
                models[name] = self._load(content, self._threads)
            except Exception:  # runtimes have no common base class for their errors
                self.refused.append(name)
        share_s = 0.8 * max(0.0, until_s - self.took_s()) / (n_left + n_left / BATCH + 1)
        passes = 2 if self._threads == 1 else 1  # long bursts leave time for one
        protocol = TimingProtocol(20, 400, passes, 3, 0.0, max(0.004, share_s))
        pairs = [(model, example_inputs(model)) for model in [*models.values(), self._reference]]
        *watches, own = time_together(pairs, self._threads, protocol)
        for name, watch in zip(models, watches):
            row = {
                "name": name,
                "latency_ms": min(watch.smallest_ns) / 1e6,
                "reference_ms": min(own.smallest_ns) / 1e6,
                "spread": round(spread(watch, own), 5),
                "at_s": round(self._elapsed_s + self.took_s(), 2),
            }
            known = self.timings.get(name)
            if known is None or row["latency_ms"] < known["latency_ms"]:
                self.timings[name] = row

    def restless(self) -> list[str]:
        """Models whose timing is worth repeating, the worst first."""
        unrest = {name: _unrest(row, self.timings) for name, row in self.timings.items()}
        return [name for name in sorted(unrest, key=lambda n: unrest[n], reverse=True) if unrest[name] > 0]


def _unrest(row: Mapping[str, Any], timings: Mapping[str, Mapping[str, Any]]) -> float:
    """How far a timing is beyond what a steady machine shows; 0 for one that need not be repeated."""
    best_ms = np.percentile([t["reference_ms"] for t in timings.values()] or [row["reference_ms"]], 10)
    slowdown = row["reference_ms"] / best_ms
    return float(max(0.0, row["spread"] - _AGAIN_SPREAD) + max(0.0, slowdown - _AGAIN_SLOWDOWN))


# ------------------------------------------------------------------------------------------------- the bundle


class Bundle:
    """The models beside this script: ONNX files whose large weights were cut out, as numbers do not matter."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._archive = zipfile.ZipFile(os.path.join(folder, MODELS_FILE))
        self.manifest = json.loads(self._archive.read(MANIFEST).decode("utf-8"))

    def model(self, entry: Mapping[str, Any]) -> bytes:
        """Return a whole ONNX file: the pieces, with weights between them."""
        if "file" in entry:
            with open(os.path.join(self._folder, entry["file"]), "rb") as file:
                content = file.read()
        else:
            content = self._archive.read(entry["name"])  # zipfile checks its CRC
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise SystemExit("error: {} is damaged; copy the bundle again".format(entry.get("file", MODELS_FILE)))
        parts, last = [], 0
        for offset, count, dtype, scale in entry.get("holes", ()):
            parts += [content[last:offset], filler(count, dtype, scale).tobytes()]
            last = offset
        return b"".join([*parts, content[last:]])

    def sources(self) -> dict[str, Source]:
        """Name and maker of every model that is timed."""
        return {entry["name"]: self._source(entry) for entry in self.manifest["models"]}

    def _source(self, entry: Mapping[str, Any]) -> Source:
        return lambda: self.model(entry)


def checksum(result: Mapping[str, Any]) -> str:
    """Digest of everything in a result but its checksum."""
    content = {key: value for key, value in result.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode("utf-8")).hexdigest()


def write_result(path: str, result: dict[str, Any]) -> None:
    """Write the result, all or nothing."""
    result["checksum"] = checksum(result)
    temporary = path + ".part"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _earlier(path: str, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Result of an interrupted run of the same bundle on the same machine, or an empty mapping."""
    try:
        result = json.loads(_text(path))
        same = ("plan_digest", "threads", "runtime_version", "machine", "base_sha256")
        usable = result["checksum"] == checksum(result) and all(result[key] == fresh[key] for key in same)
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(result) if usable else {}


def run(folder: str, out: str, threads: int, seconds: float, say: Callable[[str, bool], None]) -> None:
    """Measure the bundle in `folder` and write the result to `out`, after every batch."""
    from session import load, version  # type: ignore

    bundle = Bundle(folder)
    manifest = bundle.manifest
    begin = time.perf_counter()
    result: dict[str, Any] = {
        "version": MEASUREMENTS_VERSION,
        "plan_version": manifest["plan_version"],
        "plan_digest": manifest["plan_digest"],
        "base_sha256": manifest["base_sha256"],
        "runtime": "onnxruntime",
        "runtime_version": version(),
        "threads": threads,
        "machine": machine_facts(bundle.model(manifest[EXTREME]), load),
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "seconds": 0.0,
        "complete": False,
        "throttled": False,
        "refused": [],
        "timings": [],
    }
    earlier = _earlier(out, result)
    result.update(earlier)
    sources = bundle.sources()
    if result["complete"]:
        say(f"{out} holds a complete result already; remove it to measure again", True)
        return
    if earlier:
        say("going on after {} of {} models".format(len(earlier["timings"]), len(sources)), True)
    before_s, events, n_before = result["seconds"], throttle_events(), len(result["timings"])

    def report(timings: list[dict[str, Any]], words: str) -> None:
        took = time.perf_counter() - begin
        n, reference_ms = len(timings), [row["reference_ms"] for row in timings]
        left_s = int(max(seconds - took, took / max(1, n - n_before) * (len(sources) - n)))
        result["throttled"] = result["throttled"] or throttle_events() > events
        result.update(timings=timings, seconds=round(before_s + took, 2))
        write_result(out, result)
        slow = reference_ms[-1] / min(reference_ms)
        heat = ", the device is throttling" if result["throttled"] else ""
        text = "{} of {} models, about {}:{:02} left, clock {:.0%} of the best{}{}"
        say(text.format(n, len(sources), left_s // 60, left_s % 60, 1 / slow, words, heat), False)

    reference = manifest[REFERENCE]
    seconds_left = max(5.0, seconds - before_s)
    timings, refused = measure_models(
        sources, lambda: bundle.model(reference), load, threads, seconds_left, report, result["timings"], before_s
    )
    result.update(
        timings=timings, refused=refused, complete=True, seconds=round(before_s + time.perf_counter() - begin, 2)
    )
    write_result(out, result)
    if refused:
        say(f"onnxruntime {version()} cannot run {len(refused)} of the models: they are left out", True)
    say(f"wrote {out}", True)


def _say(text: str, stays: bool) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\033[K" + text + ("\n" if stays else ""))
    else:
        sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Run the command line; returns the exit code: 0 done, 1 impossible, 130 interrupted."""
    folder = os.path.dirname(os.path.abspath(__file__))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=180.0, help="time to spend; slow devices take longer")
    parser.add_argument("--threads", type=int, default=1, help="threads of one inference")
    parser.add_argument("--out", default=os.path.join(folder, "result.json"), help="file to write")
    options = parser.parse_args()
    if options.threads < 1 or not options.seconds > 0:
        parser.error("--threads and --seconds must be above 0")
    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        signal.signal(number, _interrupt)
    try:
        run(folder, options.out, options.threads, options.seconds, _say)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on where it stopped", True)
        return 130
    except ImportError as error:
        _say(f"error: {error}; install it with: python -m pip install onnxruntime", True)
        return 3
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        _say(f"error: the bundle beside this script cannot be used ({error}); copy it again", True)
        return 1
    except Exception as error:  # onnxruntime has no common base class for its errors
        _say(f"error: this onnxruntime cannot run the models; take a newer one ({error})", True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
