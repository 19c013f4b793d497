"""What the figures of a study depend on besides weights: the user's code, by its meaning and not by its spelling.

A function is known by its syntax tree without comments, layout, annotations and docstrings, where its source is at hand
and is what runs; else by its bytecode. To it belong its defaults, what it closes over, and what it names in its module:
constants, tensors, and functions of the user's own files, which count in the same way. Libraries count by name.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import linecache
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_SIMPLE = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, np.generic)
_LIBRARIES = ("site-packages", "dist-packages", "<frozen", str(Path(__file__).parents[1]))
_STANDARD = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib"))
_NO_MEANING = frozenset(
    {"lineno", "col_offset", "end_lineno", "end_col_offset", "annotation", "returns", "type_comment"}
)
_MODULE_STATE = frozenset(vars(nn.Module()))
_LOADER_SPEED = frozenset({"num_workers", "prefetch_factor", "pin_memory", "persistent_workers", "timeout"})
_DEPTH = 12
_MOST_ITEMS = 10_000
_MOST_BYTES = 2**26
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def code_of(part: str, value: object) -> dict[str, str]:
    """The user's functions that `value` consists of: "part: function" to its digest and its place in the source."""
    reader = _Reader(part)
    text = reader.text(value)
    reader.entries[part] = _digest(text)
    return reader.entries


def _digest(text: str, kind: str = "v") -> str:
    return f"{kind}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class _Reader:
    """Reads values into text; the user's functions on the way become entries of their own."""

    def __init__(self, part: str) -> None:
        self.entries: dict[str, str] = {}
        self._part = part
        self._names: dict[int, str] = {}
        self._alive: list[object] = []
        self._sources: dict[str, _Source | None] = {}
        self._depth = 0

    def text(self, value: Any) -> str:
        if isinstance(value, _SIMPLE):
            return f"{type(value).__name__} {value!r}"
        if self._depth > _DEPTH:
            return type(value).__name__
        self._depth += 1
        try:
            return self._compound(value)
        finally:
            self._depth -= 1

    def _compound(self, value: Any) -> str:
        if isinstance(value, (Tensor, np.ndarray)):
            return _content(value)
        if isinstance(value, Mapping):
            return self._items("dict", (x for pair in value.items() for x in pair))
        if isinstance(value, (set, frozenset)):
            return self._items("set", sorted(value, key=repr))
        if isinstance(value, (list, tuple, range)):
            return self._items("list", value)
        if isinstance(value, types.MethodType):
            return f"{self.text(value.__func__)} of {self.text(value.__self__)}"
        if isinstance(value, functools.partial):
            return self._items("partial", (value.func, value.args, value.keywords))
        if isinstance(value, types.FunctionType) and _is_users(value.__code__.co_filename):
            return self._once(value, self._function)
        if isinstance(value, type) and _is_users(_file_of(value)):
            return self._once(value, self._class)
        if isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType, types.ModuleType)):
            return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value.__name__)}"
        return self._once(value, self._object)

    def _items(self, kind: str, values: Iterable[Any]) -> str:
        texts = [self.text(value) for value, _ in zip(values, range(_MOST_ITEMS), strict=False)]
        return f"{kind}({', '.join(texts)})"

    def _once(self, value: Any, read: Any) -> str:
        if id(value) not in self._names:
            self._alive.append(value)
            self._names[id(value)] = getattr(value, "__qualname__", type(value).__qualname__)
            self._names[id(value)] = read(value)
        return self._names[id(value)]

    def _function(self, function: types.FunctionType) -> str:
        code = function.__code__
        uses = [self.text(x) for x in (function.__defaults__, function.__kwdefaults__)]
        uses += [self.text(_cell(cell)) for cell in function.__closure__ or ()]
        names = set(_names(code))
        for name in sorted(names & set(function.__globals__)):
            uses.append(f"{name} = {self._named(function.__globals__[name], names)}")
        kind, meaning = self._meaning(code)
        name = function.__qualname__.rpartition("<locals>.")[2]
        key, n = f"{self._part}: {name}", 1
        while key in self.entries:
            n += 1
            key = f"{self._part}: {name} #{n}"
        place = f"{Path(code.co_filename).name}:{code.co_firstlineno}"
        self.entries[key] = f"{_digest(' '.join([meaning, *uses]), kind)} {place}"
        return name

    def _named(self, value: Any, names: set[str]) -> str:
        """A global; of a module of the user's only what is named."""
        if isinstance(value, types.ModuleType) and _is_users(getattr(value, "__file__", None)):
            return self._items("module", (vars(value)[name] for name in sorted(names & set(vars(value)))))
        return self.text(value)

    def _class(self, cls: type) -> str:
        parts = [self.text(base) for base in cls.__bases__ if base is not object]
        for name, attribute in vars(cls).items():
            inner = attribute.fget if isinstance(attribute, property) else getattr(attribute, "__func__", attribute)
            if isinstance(inner, types.FunctionType) or (isinstance(inner, _SIMPLE) and not name.startswith("__")):
                parts.append(f"{name} = {self.text(inner)}")
        return f"class {cls.__qualname__}({', '.join(parts)})"

    def _object(self, value: Any) -> str:
        if isinstance(value, torch.utils.data.DataLoader):
            return self._items("loader", (value.dataset, value.collate_fn))
        found = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in _LOADER_SPEED}
        if isinstance(value, nn.Module):  # its parameters and buffers are known by a hash of their own
            found = {k: v for k, v in found.items() if k not in _MODULE_STATE and not isinstance(v, Tensor)}
            found |= {f"module {name}": module for name, module in value.named_children()}
        return f"{self.text(type(value))} {self._items('with', (x for k in sorted(found) for x in (k, found[k])))}"

    def _meaning(self, code: types.CodeType) -> tuple[str, str]:
        file = code.co_filename
        if file not in self._sources:
            self._sources[file] = _Source.read(file)
        source = self._sources[file]
        node = source.node_of(code) if source else None
        return (f"b{_PYTHON}", _bytecode(code)) if node is None else ("s", _canonical(node))


class _Source:
    """The syntax tree of a file, and the code that it gives."""

    def __init__(self, text: str, file: str) -> None:
        self._tree = ast.parse(text)
        compiled = compile(text, file, "exec", dont_inherit=True)
        self._fresh = {_key(code) for code in _nested(compiled)}

    @classmethod
    def read(cls, file: str) -> _Source | None:
        linecache.checkcache(file)
        text = "".join(linecache.getlines(file))
        try:
            return cls(text, file) if text else None
        except (SyntaxError, ValueError):
            return None

    def node_of(self, code: types.CodeType) -> ast.AST | None:
        """The node that a function was made from; None if the file has changed since, or several could be it."""
        if _key(code) not in self._fresh:
            return None
        found = [node for node in ast.walk(self._tree) if _fits(node, code)]
        return found[0] if len(found) == 1 else None


def _fits(node: ast.AST, code: types.CodeType) -> bool:
    if isinstance(node, ast.Lambda):
        body = node.body
        span = (body.lineno, body.end_lineno, body.col_offset, body.end_col_offset)
        return code.co_name == "<lambda>" and span in set(code.co_positions())
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name != code.co_name:
        return False
    return code.co_firstlineno == min([node.lineno, *(d.lineno for d in node.decorator_list)])


def _canonical(node: Any) -> str:
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {}
    for name, value in ast.iter_fields(node):
        if name in _NO_MEANING or value is None or value == []:
            continue
        if name == "body" and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            value = value[1:] if ast.get_docstring(node) is not None else value
        if name != "name":
            fields[name] = value
    if isinstance(node, ast.AnnAssign):  # x: int = 1 is x = 1
        return f"Assign(targets=[{_canonical(node.target)}],value={_canonical(node.value)})"
    return f"{type(node).__name__}({','.join(f'{k}={_canonical(v)}' for k, v in fields.items())})"


def _key(code: types.CodeType) -> tuple[str, int, bytes, tuple[str, ...], str]:
    consts = repr([c for c in code.co_consts if not isinstance(c, (types.CodeType, frozenset))])
    return code.co_name, code.co_firstlineno, code.co_code, code.co_names, consts


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _nested(const)


def _names(code: types.CodeType) -> Iterator[str]:
    for inner in _nested(code):
        yield from inner.co_names


def _bytecode(code: types.CodeType) -> str:
    consts = [_bytecode(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"


def _content(value: Any) -> str:
    tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
    flat = tensor.contiguous().view(-1)
    flat = flat[:: max(1, flat.numel() * flat.element_size() // _MOST_BYTES)].contiguous()
    return (
        f"tensor {tensor.dtype} {tuple(tensor.shape)} {hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()}"
    )


def _cell(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _file_of(cls: type) -> str | None:
    """Where a class was written; its module may have no file, or be gone."""
    if file := getattr(sys.modules.get(cls.__module__), "__file__", None):
        return str(file)
    functions = (f for f in vars(cls).values() if isinstance(f, types.FunctionType))
    return next((f.__code__.co_filename for f in functions), None)


def _is_users(file: str | None) -> bool:
    if file is None:
        return False
    return not any(name in file for name in _LIBRARIES) and not file.startswith(_STANDARD)
