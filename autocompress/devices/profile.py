"""`DeviceProfile`: what a target device can do and how long its runtime needs, as data.

A profile belongs to one device, one runtime and version, and one thread count; its coefficients come from
`autocompress.devices.calibration.fit` (this machine) or `hardware_profiles/fit_public_data.py` (public data).
Neither torch nor onnx nor onnxruntime is imported here.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema, field_validator

from autocompress.errors import DeviceError
from autocompress.files import read_yaml, write_atomically
from autocompress.runtimes import base as runtimes
from autocompress.runtimes.capabilities import ELSEWHERE, FORMER_NAMES, Support
from autocompress.validation import Data

HOST = "host"
"""Name of the profile of the machine that runs the search, with the default runtime (see `host_name`)."""

PROFILE_VERSION = 1
HOME_VARIABLE = "AUTOCOMPRESS_HOME"
"""Environment variable: folder that replaces ~/.config/autocompress."""

FILE_RUNTIME = "onnxruntime"
"""Runtime of the files that a search makes for a device that is named without one."""
_PREFERRED = (FILE_RUNTIME, "ncnn", "litert", "paddle-lite")
"""Which profile of a device stands for it: ONNX Runtime's own, or else that with the most data."""
_SUGGESTIONS = 6
ANY = "any"
"""Key of `DeviceProfile.latency`: the cost of every operator kind that has no entry of its own."""

_SCHEMA = "# yaml-language-server: $schema=../docs/schemas/device.json\n"
"""First line of the shipped profiles: editors complete and check them."""

Dtype = Literal["float32", "int8"]
Degree = Literal["none", "one", "few", "full"]
DeviceClass = Literal["board", "phone", "computer", "gpu", "npu", "mcu", "fpga"]
"""Where a network runs; board, phone and computer stand for their CPU."""
_NonNegative = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
"""No time, cost or power of a device comes near the upper bound: ten days in microseconds, a gigawatt in mW."""
_Positive = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
_Bytes = Annotated[int, Field(gt=0, le=2**53)]


def _runtimes() -> dict[str, Any]:
    """The schema of a runtime's name: ours are proposed, any other one is that of an installed package."""
    return {"anyOf": [{"enum": sorted({*runtimes.own_names(), *ELSEWHERE})}, {"type": "string"}]}


class OpCost(Data):
    """Linear cost of one operator kind in one number format; every coefficient is >= 0.

    `t_us = overhead_us + us_per_mmac * padded MACs / 1e6 + us_per_mb_in * bytes read / 1e6 + us_per_mb_out *
    bytes written / 1e6 + us_per_mb_weights * weight bytes / 1e6 + us_per_mb_patches * im2col bytes / 1e6`.
    """

    overhead_us: _NonNegative = 0.0
    us_per_mmac: _NonNegative = 0.0
    us_per_mb_in: _NonNegative = 0.0
    us_per_mb_out: _NonNegative = 0.0
    us_per_mb_weights: _NonNegative = 0.0
    us_per_mb_patches: _NonNegative = 0.0
    us_per_mstep: _NonNegative = 0.0
    """Per million passes of the innermost loop, each for up to 6 outputs in up to 4 blocks of channels; of int8
    kernels, per million places of windows whose channels are gathered, or rows of windows that are copied; of recurrent
    layers, per million steps."""
    us_per_mmac_edge: _NonNegative = 0.0
    """Per million padded MACs divided by the side of the output: the share of outputs at the border."""
    us_per_mmac_lone: _NonNegative = 0.0
    """Per million padded MACs in a last block of channels that has no neighbours to share its loads with; of recurrent
    layers, per million MACs with the state, which wait for the step before."""


class Calibration(Data):
    """How the coefficients were fitted and how far off they are on graphs that were not fitted."""

    degree: Degree = "none"
    """How much was measured on the very device and runtime; "none" is public data."""
    points: Annotated[int, Field(ge=1)]
    """Measured graphs, held-out ones included."""
    held_out: Annotated[int, Field(ge=0)] = 0
    median_error: _Share
    """Median of |predicted - measured| / measured over the held-out graphs."""
    p90_error: _Share
    """Half width of the 90 % interval: it reaches from the prediction divided by 1 + this to that times 1 + this."""
    p90_by_format: dict[Dtype, _Share] = Field(default_factory=dict)
    """The same for graphs whose products are all in one number format, where they differ."""
    coverage: dict[str, tuple[_Share, Annotated[int, Field(ge=1)]]] = Field(default_factory=dict)
    """Kind of network -> share of its held-out graphs inside an interval found without them, and how many they are."""
    date: str
    """ISO date of the measurement (host) or of the newest data (public)."""
    seconds: _NonNegative = 0.0
    """Wall time the calibration took; 0 for public data."""
    split: str = "held-out graphs"
    """What was held out, for example "leave one network out"."""
    held_out_ms: dict[str, tuple[_Positive, _NonNegative]] = Field(default_factory=dict)
    """Held-out graph -> its latency measured, and predicted by a fit that did not see it, in ms."""


class Provenance(Data):
    """Where the figures come from."""

    kind: Literal["measured", "datasheet"]
    """Of the latency coefficients."""
    source: str
    licence: str = ""
    """Of the data, if they are somebody else's."""
    datasheet: str = ""
    """What in the profile is a data sheet's and was not measured, for example the memory sizes."""


class DeviceProfile(Data):
    """A device, its runtime and its latency coefficients; immutable and serialisable.

    `load` and `save` read and write YAML (`yaml.safe_load`); every error is a `DeviceError` of one sentence.
    """

    version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    description: str = ""
    device_class: DeviceClass = "computer"
    processor: str = ""
    runtime: Annotated[str, WithJsonSchema(_runtimes())] = "onnxruntime"
    """Runtime that executes the artefact on the device, and whose times these are unless `transferred_from` says
    otherwise; `support` says what it can execute."""
    runtime_version: str = ""
    measured_with: str = "onnxruntime"
    """Program and version behind the measurements, as their source names it."""
    transferred_from: str = ""
    """Runtime that was measured, if it is not `runtime`: the costs were moved by `devices.transfer`."""
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    float_format: Literal["float32", "float16"] = "float32"
    """Format in which float32 graphs were computed when this was measured."""
    chip: str = ""
    """What the names of all profiles of the chip have in common, where it has several."""
    int8_gain: _Positive | None = None
    """Latency of a float network by that of the same one in int8, median over those that were timed in both."""
    instruction_set: tuple[str, ...] = ()
    int8_arithmetic: Literal["exact", "saturating"] = "exact"
    """"saturating": 8-bit weights overflow 16-bit sums (x86 without VNNI), so use 7-bit weights."""
    flash_bytes: _Bytes | None = None
    """Largest file the device can hold, or None for no limit."""
    ram_bytes: _Bytes | None = None
    """Largest `Workload.peak_memory_bytes`, or None for no limit."""
    active_power_mw: _Positive | None = None
    """Power while a network runs, of the whole board; energy_mj = latency_ms * active_power_mw / 1000."""
    channel_block: Annotated[int, Field(ge=1, le=4096)] = 8
    """Convolution kernels work on blocks of so many channels; MACs are counted with rounded-up channels."""
    cache_bytes: _Bytes | None = None
    """Cache left to a net, as found by calibration; larger nets fetch weights from memory at every call."""
    us_per_mb_beyond_cache: _NonNegative = 0.0
    """Cost of each megabyte by which weights and peak activations of a net exceed `cache_bytes`."""
    run_overhead_us: _NonNegative = 0.0
    """Fixed cost of one inference call."""
    if_overhead_us: _NonNegative = 0.0
    """Extra cost of one nested `If` (early exit test) on the executed path."""
    reference_ms: _Positive | None = None
    """Latency of `runtimes.timing.reference_model()` in this runtime when this was calibrated."""
    latency: dict[str, dict[Dtype, OpCost]]
    """Operator kind, or "any" -> number format -> cost."""
    calibration: Calibration | None = None
    provenance: Provenance
    caveats: tuple[str, ...] = ()
    """What the profile cannot know."""

    @field_validator("runtime", "transferred_from", mode="before")
    @classmethod
    def _is_called_as_today(cls, value: Any) -> Any:
        return FORMER_NAMES.get(value, value) if isinstance(value, str) else value

    @field_validator("runtime")
    @classmethod
    def _has_a_known_runtime(cls, value: str) -> str:
        if rule := runtimes.broken_rule(value):
            raise ValueError(rule)
        return value

    @field_validator("latency")
    @classmethod
    def _has_costs(cls, value: dict[str, dict[Dtype, OpCost]]) -> dict[str, dict[Dtype, OpCost]]:
        if not any(value.values()):
            raise ValueError("must hold the coefficients of at least one operator kind")
        return value

    @property
    def is_this_machine(self) -> bool:
        """True for the profiles that `host_name` names: their artefacts can be measured here, not only predicted."""
        return self.name == host_name(self.runtime)

    @property
    def transfer_note(self) -> str:
        """One sentence for the user of a profile that was not measured under its runtime, with what helps; or ""."""
        return next((caveat for caveat in self.caveats if "moved to it" in caveat), "")

    @property
    def degree(self) -> Degree:
        """How much was measured on the very device and runtime."""
        return "none" if self.calibration is None else self.calibration.degree

    @property
    def expected_error(self) -> float:
        """Half width of the prediction interval as a share: the calibration's p90 error, 0.5 if unknown."""
        return 0.5 if self.calibration is None else max(self.calibration.p90_error, 0.02)

    def error_of(self, dtype: Dtype) -> float:
        """`expected_error` of a graph whose products are all in this number format."""
        own = {} if self.calibration is None else self.calibration.p90_by_format
        return max(own[dtype], 0.02) if dtype in own else self.expected_error

    @property
    def weights_in_flash(self) -> bool:
        """Whether weights are read where they are stored, as on microcontrollers, and so take no RAM."""
        return self.device_class == "mcu"

    @property
    def dtypes(self) -> frozenset[str]:
        """Number formats for which the profile has coefficients."""
        return frozenset(dtype for costs in self.latency.values() for dtype in costs)

    @property
    def support(self) -> Support:
        """What the runtime of the device can execute."""
        return runtimes.support(self.runtime)

    @property
    def weight_bits(self) -> frozenset[int]:
        """Bits of weights that can be executed here.

        A number format without coefficients counts as one that the device cannot execute, but for small weights that
        the runtime can unpack to floats.
        """
        computed = {*self.dtypes, *({"int8"} if 32 in self.support.activation_bits else ())}
        return frozenset(b for b in self.support.weight_bits if ("int8" if b <= 8 else "float32") in computed)

    def digest(self) -> str:
        """Stable 16-digit id of everything in the profile."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def parse(cls, data: Any, source: str = "device profile") -> DeviceProfile:
        """Build a profile from plain data; raises DeviceError that starts with `source`."""
        if not isinstance(data, dict):
            raise DeviceError(
                f"{source}: a device profile must be a mapping, got {type(data).__name__}; "
                "start from one of the files in hardware_profiles/."
            )
        version = data.get("version", PROFILE_VERSION)
        if isinstance(version, int) and version > PROFILE_VERSION:
            raise DeviceError(
                f"{source}: version: this autocompress reads profiles up to version {PROFILE_VERSION}, "
                f"got {version}; upgrade autocompress."
            )
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise DeviceError(f"{source}: {_first_problem(error)}") from None

    @classmethod
    def load(cls, name_or_path: str | Path) -> DeviceProfile:
        """Read a profile by file path or by name (the user's own profiles win over the shipped ones).

        The name of a device, "raspberry-pi-4", means the device under the runtime of the files that a search makes:
        its profile for ONNX Runtime, or else that for another runtime, moved by `devices.transfer`. The name with a
        runtime, "raspberry-pi-4.ncnn", is that profile as it is.

        Raises:
            DeviceError: unknown name (with the nearest names), unreadable file or invalid content.
        """
        path = _found(name_or_path)
        if path is None and _of_device(str(name_or_path)):
            return _for_files(str(name_or_path))
        if path is None:
            _refuse(str(name_or_path))
        return cls.parse(read_yaml(path, DeviceError), str(path))

    def save(self, path: str | Path) -> Path:
        """Write the profile as YAML, all or nothing; returns the path.

        Raises:
            AutocompressError: it cannot be written.
        """
        target, text = Path(path), self.to_yaml()
        if target.parent.resolve() == shipped_profiles_folder():
            text = _SCHEMA + text
        write_atomically(target, text)
        return target

    def to_yaml(self) -> str:
        """The text that `load` reads."""
        data = {key: value for key, value in self.model_dump(mode="json").items() if value not in (None, "", [])}
        if "calibration" in data:
            last = data.pop("calibration")  # its long list of graphs comes last
            data["calibration"] = {key: value for key, value in last.items() if value not in (None, {})}
        for costs in data["latency"].values():
            for dtype, cost in costs.items():
                costs[dtype] = {key: float(f"{value:.5g}") for key, value in cost.items() if value}
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)


def host_name(runtime: str) -> str:
    """What the profile of this machine is called: "host", with another runtime "host.RUNTIME"."""
    return HOST if runtime == FILE_RUNTIME else f"{HOST}.{runtime}"


def user_profiles_folder() -> Path:
    """Folder of the user's own profiles: $AUTOCOMPRESS_HOME/devices or ~/.config/autocompress/devices."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) if home else Path.home() / ".config" / "autocompress") / "devices"


def shipped_profiles_folder() -> Path:
    """Folder of the profiles that come with autocompress (wheel: in the package; checkout: beside it)."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "hardware_profiles"
    return inside if inside.is_dir() else package.parent / "hardware_profiles"


def list_profiles() -> tuple[str, ...]:
    """Names of all profiles that `DeviceProfile.load` finds, sorted; "host" only if it was calibrated."""
    found = {
        path.stem
        for folder in (user_profiles_folder(), shipped_profiles_folder())
        if folder.is_dir()
        for path in folder.glob("*.yaml")
    }
    return tuple(sorted(found))


def device_of(name: str) -> str:
    """Name of the device in that of a profile: "raspberry-pi-4" of "raspberry-pi-4.ncnn"."""
    device, _, runtime = name.rpartition(".")
    return device if device and not runtimes.broken_rule(runtime) else name


def _for_files(device: str) -> DeviceProfile:
    """The device under the runtime of the files, what was not measured there moved from other runtimes."""
    from autocompress.devices.transfer import completed

    return completed([DeviceProfile.load(p) for p in _of_device(device)], FILE_RUNTIME, device)


def _of_device(device: str) -> list[Path]:
    """The shipped profiles of a device, that which says most about it under the runtime of the files first."""
    paths = (shipped_profiles_folder() / f"{device}.{runtime}.yaml" for runtime in _PREFERRED)
    return [path for path in paths if path.is_file()]


def _found(name_or_path: str | Path) -> Path | None:
    """The file of a profile, or None where no file has this name."""
    text = str(name_or_path)
    path = Path(text).expanduser()
    looks_like_path = isinstance(name_or_path, Path) or path.suffix in {".yaml", ".yml"} or os.sep in text
    if looks_like_path:
        if path.is_file():
            return path
        raise DeviceError(f"device profile file {text!r} does not exist; give a name or an existing YAML file.")
    for folder in (user_profiles_folder(), shipped_profiles_folder()):
        candidate = folder / f"{text}.yaml"
        if text and candidate.is_file():
            return candidate
    device, _, runtime = text.rpartition(".")
    return _found(f"{device}.{FORMER_NAMES[runtime]}") if device and runtime in FORMER_NAMES else None


def _refuse(text: str) -> NoReturn:
    listed = "`autocompress devices` lists all; a path to a YAML file works too"
    if text in map(host_name, runtimes.names()):
        how = HOST if text == HOST else f"--runtime {text.removeprefix(HOST + '.')}"
        raise DeviceError(
            f"device {text!r} (this machine) has no profile yet; calibrate it once (about a minute) with "
            f"`autocompress devices calibrate {how}`, or choose another: {listed}"
        )
    names, part = sorted({*map(device_of, list_profiles()), HOST}), text.lower()
    close = sorted((n for n in names if part and part in n), key=lambda n: not n.startswith(part))
    close = close or difflib.get_close_matches(part, names, n=_SUGGESTIONS, cutoff=0.5)
    more = f" and {len(close) - _SUGGESTIONS} more" if len(close) > _SUGGESTIONS else ""
    hint = f"; did you mean {', '.join(map(repr, close[:_SUGGESTIONS]))}{more}?" if close else ";"
    raise DeviceError(f"unknown device {text!r}{hint} {listed}")


_FIELDS_OF: dict[str, type[BaseModel]] = {
    "calibration": Calibration,
    "provenance": Provenance,
    "latency": OpCost,
}
_RULES = {
    "greater_than_equal": ("must be >= {ge}", "ge"),
    "greater_than": ("must be > {gt}", "gt"),
    "less_than_equal": ("must be <= {le}", "le"),
    "finite_number": ("must be a finite number", ""),
    "literal_error": ("must be {expected}", "expected"),
    "string_pattern_mismatch": ("may hold letters, digits, '.', '_' and '-' only", ""),
}


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    place = [str(part) for part in problem["loc"] if part != "[key]"]
    where, kind, context = ".".join(place), problem["type"], problem.get("ctx", {})
    got = problem.get("input")
    if kind == "extra_forbidden":
        owner = _FIELDS_OF.get(place[0], DeviceProfile) if len(place) > 1 else DeviceProfile
        names = list(owner.model_fields)
        close = difflib.get_close_matches(place[-1], names, n=1)
        hint = f"did you mean {close[0]!r}" if close else f"allowed keys: {', '.join(names)}"
        return f"{where}: unknown key; {hint}."
    if kind == "missing":
        return f"{where}: this key is required; add it."
    if kind in _RULES:
        template, key = _RULES[kind]
        rule = template.format(**{key: _number(context[key])}) if key else template
        return f"{where}: {rule}, got {got!r}."
    message = problem["msg"].removeprefix("Value error, ")
    shown = repr(got)
    detail = f", got {shown}" if len(shown) <= 60 else ""
    return f"{where}: {message[:1].lower()}{message[1:]}{detail}."
