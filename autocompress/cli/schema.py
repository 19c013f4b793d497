"""JSON schemas of the files that people write or read, for the completion of editors and for other programs.

Made from the same classes that read the files; copies lie in docs/schemas/.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel

from autocompress.compression.catalogue import technique, technique_names
from autocompress.devices.profile import DeviceProfile
from autocompress.errors import InputError
from autocompress.studies.settings import Settings
from autocompress.validation import suggestion

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BOUNDS = {"gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum"}
_VERSION = {"const": 1, "description": "Version of the format."}
_SCOPE = {"enum": ["model", "stage", "layer"], "description": "One value for all, per stage of the network, per layer."}
_DRAWN = {"$ref": "#/$defs/domain"}
_DOMAIN = {
    "oneOf": [
        {
            "type": "object",
            "properties": {"choice": {"type": "array", "minItems": 1, "description": "One of these."}, "per": _SCOPE},
            "required": ["choice"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {
                "low": {"type": "number"},
                "high": {"type": "number"},
                "step": {"type": "number", "exclusiveMinimum": 0},
                "log": {"type": "boolean", "description": "Spread the values by magnitude."},
                "per": _SCOPE,
            },
            "required": ["low", "high"],
            "additionalProperties": False,
        },
    ],
    "description": "A domain that the search draws from.",
}
_NO_DOMAIN = {"propertyNames": {"not": {"enum": ["choice", "low", "high", "step", "log", "per"]}}}
"""A table is told from a domain by its keys."""


def schema(what: str) -> dict[str, Any]:
    """The schema of a recipe, a search space, a device profile or the study.json of a study.

    Raises:
        InputError: there is no such format.
    """
    if what not in KINDS:
        raise InputError(f"no schema {what!r}{suggestion(what, list(KINDS))}; known: {', '.join(KINDS)}")
    made: dict[str, Any] = {"$schema": _DIALECT, "title": f"autocompress {what}", **_standard(KINDS[what]())}
    return made


def _standard(node: Any) -> Any:
    """Bounds under the names of the standard; pydantic leaves those behind a validator under its own."""
    if isinstance(node, dict):
        return {_BOUNDS.get(key, key): _standard(value) for key, value in node.items()}
    return [_standard(item) for item in node] if isinstance(node, list) else node


def _recipe() -> dict[str, Any]:
    return _file("Stages in the order of their phases.", {"oneOf": [_stage(name) for name in technique_names()]})


def _space() -> dict[str, Any]:
    stages = [_stage_space(name) for name in technique_names()]
    optional = {"type": "boolean", "description": "Whether the search may leave the stage out."}
    several = {
        "type": "object",
        "properties": {"one_of": {"type": "array", "minItems": 1, "items": {"oneOf": stages}}, "optional": optional},
        "required": ["one_of"],
        "additionalProperties": False,
    }
    alone = [{**stage, "properties": {**stage["properties"], "optional": optional}} for stage in stages]
    made = _file("The stages that a recipe may have; their fields are values or domains.", {"oneOf": [*alone, several]})
    made["properties"]["stages"]["minItems"] = 1
    made["properties"]["description"] = {"type": "string", "description": "One line."}
    made["required"] = ["stages"]
    return {**made, "$defs": {"domain": _DOMAIN}}


def _file(description: str, items: dict[str, Any]) -> dict[str, Any]:
    stages = {"type": "array", "items": items, "description": description}
    return {
        "type": "object",
        "properties": {"version": _VERSION, "stages": stages},
        "additionalProperties": False,
    }


def _stage(name: str) -> dict[str, Any]:
    cls = technique(name)
    made = model_schema(cls)
    made["required"] = ["technique", *(f for f, info in cls.model_fields.items() if info.is_required())]
    return made


def _stage_space(name: str) -> dict[str, Any]:
    made = _stage(name)
    for field, value in made["properties"].items():
        if field != "technique":
            words = {key: value[key] for key in ("default", "description") if key in value}
            fixed = {key: item for key, item in value.items() if key not in (*words, "title")}
            options = [fixed, _DRAWN]
            if field in technique(name).tables:
                single = [option for option in fixed["anyOf"] if option.get("type") != "object"]
                entries = {"anyOf": [*single, _DRAWN]}
                options = [*single, _DRAWN, {"type": "object", "additionalProperties": entries, **_NO_DOMAIN}]
            made["properties"][field] = {**words, "anyOf": options}
    return made


def model_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Pydantic's schema, with the docstrings below the fields as their descriptions."""
    made = model.model_json_schema()
    models = {cls.__name__: cls for cls in _models_of(model)}
    for name, part in [(model.__name__, made), *made.get("$defs", {}).items()]:
        for field, text in _docstrings(models[name]).items() if name in models else ():
            if field in part.get("properties", {}):
                part["properties"][field]["description"] = text
    return made


def _models_of(model: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and the others that stand beside it in its module."""
    module = inspect.getmodule(model)
    beside = [v for v in vars(module).values() if isinstance(v, type) and issubclass(v, BaseModel)]
    return [model, *beside]


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    found: dict[str, str] = {}
    for cls in reversed([c for c in model.__mro__ if issubclass(c, BaseModel) and c is not BaseModel]):
        [body] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(body, ast.ClassDef)
        for field, text in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


KINDS: dict[str, Callable[[], dict[str, Any]]] = {
    "recipe": _recipe,
    "space": _space,
    "device": lambda: model_schema(DeviceProfile),
    "study": lambda: model_schema(Settings),
}
