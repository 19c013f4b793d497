"""What a network is, as one short text: equal networks have equal ones, whoever made them and however.

A network is its modules, their code and settings, and its parameters and buffers. Where a network goes on to (training,
files, forecasts) is known by it, so nothing has to be told which techniques there are.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_BOOKKEEPING = frozenset({"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})
"""Attributes of every module that are read another way, or that do not change what it computes."""
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.generic)


def fingerprint(value: object) -> str:
    """24 hex digits of a network, or of plain data around it; what a network computes decides, not where it came from.

    Whether a parameter is to be trained and whether a module is in training mode do not count.
    """
    return _Digest(widths=True).of(value)


def architecture(model: nn.Module) -> str:
    """24 hex digits of a network's structure whatever its weights and widths: integers and tensors do not count.

    Pruned versions of a network have the architecture of the whole one.
    """
    return _Digest(widths=False).of(model)


class _Digest:
    """Reads a value in a fixed order. What can be shared (modules, tensors, objects) is read once and then named."""

    def __init__(self, *, widths: bool) -> None:
        self._widths = widths
        self._hash = hashlib.sha256()
        self._seen: dict[int, tuple[int, object]] = {}

    def of(self, value: object) -> str:
        self._add(value)
        return self._hash.hexdigest()[:24]

    def _text(self, *parts: object) -> None:
        self._hash.update("\x1f".join(map(str, parts)).encode())
        self._hash.update(b"\x1e")

    def _add(self, value: Any) -> None:
        if isinstance(value, _SIMPLE):
            if self._widths or type(value) is not int:
                self._text(type(value).__name__, repr(value))
        elif isinstance(value, (tuple, frozenset)):  # equal ones may be one object or not: never named
            self._items(value)
        elif id(value) in self._seen:
            self._text("again", self._seen[id(value)][0])
        else:
            self._seen[id(value)] = len(self._seen), value
            self._add_new(value)

    def _add_new(self, value: Any) -> None:
        if isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, (Tensor, np.ndarray)):
            self._tensor(value)
        elif isinstance(value, Mapping):
            self._items([item for pair in value.items() for item in pair])
        elif isinstance(value, (list, set)):
            self._items(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial, property)):
            self._function(value)
        elif not isinstance(value, (types.ModuleType, types.BuiltinFunctionType)):
            self._text("object", type(value).__qualname__)
            self._items(_attributes(value))
        else:
            self._text(type(value).__name__, value.__name__)

    def _items(self, values: Any) -> None:
        unordered = isinstance(values, (set, frozenset))
        self._text(type(values).__name__, len(values))
        for value in sorted(values, key=repr) if unordered else values:
            self._add(value)

    def _tensor(self, value: Any) -> None:
        if not self._widths:
            return
        tensor = value.detach() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        self._text("tensor", tensor.dtype, tuple(tensor.shape))
        self._hash.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data)

    def _module(self, module: nn.Module) -> None:
        self._text("module")
        self._add(type(module))
        settings = {k: v for k, v in vars(module).items() if k not in _BOOKKEEPING and "_hooks" not in k}
        if not self._widths:
            settings.pop("normalized_shape", None)
        self._items([item for name in sorted(settings) for item in (name, settings[name])])
        self._items(
            [hook for kind in _HOOKS for hook in vars(module).get(kind, {}).values()]
        )  # their keys count up for ever
        for kind in ("_parameters", "_buffers", "_modules"):
            self._items([item for pair in vars(module).get(kind, {}).items() for item in pair])

    def _class(self, cls: type) -> None:
        """Its name, and its code where it is the user's: torch's own does what its version says."""
        self._text("class", cls.__qualname__)
        for base in cls.__mro__:
            if base is object or base.__module__.partition(".")[0] == "torch":
                break
            for name, attribute in sorted(vars(base).items()):
                inner = getattr(attribute, "__func__", attribute)
                setting = isinstance(inner, _SIMPLE) and not name.startswith("__")
                if setting or isinstance(inner, (types.FunctionType, property)):
                    self._items([name, inner])

    def _function(self, function: Any) -> None:
        if isinstance(function, types.MethodType):
            self._items(["method", function.__func__, function.__self__])
        elif isinstance(function, functools.partial):
            self._items(["partial", function.func, function.args, function.keywords])
        elif isinstance(function, property):
            self._items(["property", function.fget])
        else:
            self._items(["function", function.__code__, function.__defaults__, function.__kwdefaults__])
            self._items([_content(cell) for cell in function.__closure__ or ()])

    def _code(self, code: types.CodeType) -> None:
        self._text("code", code.co_code.hex(), code.co_names)
        self._items(code.co_consts)


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _attributes(value: object) -> list[object]:
    """Name and value of each attribute of an object of any class."""
    found = dict(getattr(value, "__dict__", {}))
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return [item for name in sorted(found, key=str) for item in (name, found[name])]
