"""The inputs of a study."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

from autocompress.studies.constraints import Constraint
from autocompress.tasks.metric import MetricUnit

_DECIDING = ("torch", "onnxruntime", "autocompress")
"""Another major or minor version of these makes another study."""


EvaluatorName = Literal["standalone", "elastic"]


class Settings(BaseModel):
    """The inputs of a study. A resumed search must have the same ones, but for its budget."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    task: str
    """Reference as the user gave it, such as "my_task.py:task", or an ONNX file with its options."""
    task_name: str
    task_kind: str = "classification"
    """See `tasks.kind`; "other" in studies of before kinds had names."""
    classes: tuple[str, ...] = ()
    preprocessing: str = ""
    decoder: dict[str, Any] = {}
    """How the outputs of a detector become boxes (see `tasks.boxes.Decoder`); empty where they are the answer."""
    metric: str
    metric_unit: MetricUnit | None = None
    """None: a share if the score of the fp32 baseline lies between 0 and 1."""
    model_sha256: str
    data_sha256: str
    training_sha256: str = ""
    """Of teacher, loss and the like; empty in studies of before it was kept."""
    identity: dict[str, str] = {}
    """What else the figures depend on, by name: code and data (see `tasks.identity`); empty in older studies."""
    device: dict[str, Any]
    """The whole device profile."""
    space: dict[str, Any]
    constraints: tuple[Constraint, ...]
    sampler: str
    evaluator: EvaluatorName = "standalone"
    """Where training starts: at the pruned original, or at weights shared by all pruned versions."""
    seed: int
    notes: tuple[str, ...] = ()
    """What was done to the given network before anything else, such as a cast to float32."""
    outline: dict[str, Any]
    """Prunable groups, quantisable layers and exit places of the network."""
    unprunable: dict[str, str]
    """Groups that cannot be pruned, with the reason."""
    versions: dict[str, str]
    """Of Python and the libraries that matter."""
    created_at: str

    @property
    def task_arguments(self) -> list[str]:
        """The task as a command line takes it."""
        return shlex.split(self.task) if " --data " in self.task else [self.task]

    @field_validator("device")
    @classmethod
    def _names_device(cls, device: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(device.get("name"), str) or not isinstance(device.get("calibration") or {}, dict):
            raise ValueError("must be a device profile, with its name")
        return device

    @property
    def _deciding(self) -> tuple[str, ...]:
        """Whose versions decide over the figures, the device's runtime among them."""
        return tuple(dict.fromkeys((*_DECIDING, str(self.device.get("runtime")))))

    def differences(self, other: Settings) -> list[str]:
        """What in `other` would make another study, in words."""
        names = ["model_sha256", "metric", "space", "constraints", "sampler", "evaluator", "seed"]
        names += ["training_sha256"] if self.training_sha256 else []
        names += [] if self.identity else ["data_sha256"]
        texts = [
            f"{name}: the study has {_short(mine)}, now {_short(theirs)}"
            for name in names
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        if self.identity:
            texts += changes(self.identity, other.identity)
            texts += [
                f"{name} {self.versions.get(name)} was used, now it is {other.versions.get(name)}"
                for name in self._deciding
                if _release(self.versions.get(name)) != _release(other.versions.get(name))
            ]
        if self.device != other.device:
            texts.append(
                f"device: the study has {self.device['name']}, now {other.device['name']}"
                if self.device["name"] != other.device["name"]
                else f"device: the profile of {self.device['name']} has changed since"
            )
        return texts

    def remarks(self, other: Settings) -> list[str]:
        """What in `other` is different or cannot be compared, and lets the study go on."""
        if not self.identity:
            return [
                "this study is of a version that did not keep what its figures depend on; that the code of metric, "
                "loss and network and the training data are the same could not be checked"
            ]
        texts = [
            f"{name} {mine} was used, now it is {theirs}"
            for name in self._deciding
            if (mine := self.versions.get(name)) != (theirs := other.versions.get(name))
        ]
        keys = [k for k, v in self.identity.items() if k in other.identity and not _comparable(v, other.identity[k])]
        if keys:
            parts = ", ".join(dict.fromkeys(key.partition(": ")[0] for key in keys))
            texts.append(f"whether it is the same could not be checked, for want of its source: {parts}")
        return texts


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What differs, one clause for each part; what cannot be compared does not count."""
    found: dict[str, list[str]] = {}
    for key in (*before, *(key for key in now if key not in before)):
        old, new = before.get(key, ""), now.get(key, "")
        if old.split(" ")[0] != new.split(" ")[0] and _comparable(old, new):
            part, _, function = key.partition(": ")
            place = (new or old).partition(" ")[2]
            found.setdefault(part, []).append(", ".join(filter(None, [function, place])))
    return [f"{part} changed{_among(places)}" for part, places in found.items()]


def _comparable(old: str, new: str) -> bool:
    """Whether two digests were taken the same way, if they are there at all."""
    return not old or not new or old.partition(":")[0] == new.partition(":")[0]


def _among(places: Iterable[str]) -> str:
    named = [place for place in places if place]
    return f" ({'; '.join(named[:3])})" if named else ""


def _release(version: str | None) -> str:
    """Major and minor number."""
    return ".".join((version or "").split(".")[:2])


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
