"""The user's network as the rest of the code expects it: a plain module in float32 whose weights are parameters.

It takes its inputs by position and returns a tensor or a flat tuple of tensors, whatever the user's own takes and
returns (see `interface`).

Done once, when a task is made, on a copy. What wraps the network (`torch.compile`, data parallelism), computes its
weights in each call (weight and spectral normalisation, masks of `torch.nn.utils.prune`) or halves their precision
hides them from pruning and quantisation, or claims bits that the file would not have.
"""

from __future__ import annotations

import copy
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from autocompress.errors import TaskError, failing_as, first_line, user_line
from autocompress.tasks.interface import INPUT, OutputStructure, Tensors, flat, parameter_names
from autocompress.tasks.torch_utils import evaluating

_HALVES = frozenset({torch.float16, torch.bfloat16})
_TOLERANCE, _TOLERANCE_OF_HALF = 1e-3, 0.1
"""Largest relative change of the outputs; bfloat16 itself has 8 bits, and its errors add up."""


@dataclass(frozen=True)
class Normalized:
    """A network with what was done to it; the given object itself where there was nothing to do."""

    model: nn.Module
    notes: tuple[str, ...] = ()
    outputs: OutputStructure | None = None
    """How the given network arranges its outputs; None where it does not run."""


def normalize(given: nn.Module, example: Tensors, who: str = "the model", *, trains: bool = True) -> Normalized:
    """Unwrap, make computed weights parameters, and cast to float32; the given network is not changed.

    Parameters that are shared stay shared.

    Args:
        given: a trained network on the CPU.
        example: inputs by name, each (N, ...), to see that the outputs stay the same.
        who: what messages call the network.
        trains: whether it is to be trained, frozen parameters like all others.

    Raises:
        TaskError: it cannot be copied, is TorchScript or quantised already, or still computes in half precision or
            something else than before.
    """
    _refuse(given, who)
    with failing_as(TaskError, f"{who} cannot be copied: copying"):
        model = _unwrapped(_copied(given)).eval()
    outputs = _make_flat(model, example)
    before = _run(model, example)
    notes = [*_wrappers(given), *_weights(model), *_layers(model)]
    in_float32 = _float32(model, example, who)
    outputs = outputs or _make_flat(model, example)
    notes += [*in_float32, *(_states(given, model) if trains else ())]
    if taken := _taken_names(model):
        model = NamedFlat(model) if isinstance(model, Flat) else Named(model)
        notes.append(f"has a part called {taken[0]!r}, as torch.export calls its own: here it is network.{taken[0]}")
    if not notes and (isinstance(given, Flat) or not isinstance(model, Flat)):
        return Normalized(given, given.notes if isinstance(given, Flat) else (), outputs)
    _compare(before, _run(model, example), who, _TOLERANCE_OF_HALF if in_float32 else _TOLERANCE)
    return Normalized(model, tuple(f"{who} {note}" for note in notes), outputs)


class Flat:
    """Mixed into the class of a network: tensors in by position, a tensor or a flat tuple of tensors out.

    A network that is like this by itself says so by being one, with its own `forward` and `structure`.
    """

    called: ClassVar[str]
    """How the user's own `forward` is called: "by position", "by keyword" or "with a mapping"."""
    inputs: ClassVar[tuple[str, ...]]
    structure: OutputStructure
    notes: tuple[str, ...] = ()
    """What users are told of it."""

    def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Call the user's own `forward` with its structures."""
        found = flat(_called(super().forward, self.called, dict(zip(self.inputs, given, strict=True))))  # type: ignore[misc]
        names = self.structure.names if found.keys() >= set(self.structure.names) else tuple(found)
        outputs = tuple(found[name] for name in names)  # in training mode some networks return more
        return outputs[0] if len(self.structure.names) == 1 else outputs[: len(self.structure.names)]


class Named(nn.Module):
    """A network one level down, so that none of its own names stand at the top."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.training = network.training

    def forward(self, *inputs: Tensor) -> Any:
        """As the network does."""
        return self.network(*inputs)


class NamedFlat(Named, Flat):
    """The same of a network whose inputs and outputs are adapted."""

    def __init__(self, network: Flat) -> None:
        super().__init__(cast(nn.Module, network))
        self.structure, self.notes = network.structure, network.notes


def _taken_names(model: nn.Module) -> list[str]:
    """Parts whose names `torch.fx.GraphModule`, which an export is, has for something else."""
    names = [*(name for name, _ in model.named_children()), *model._parameters, *model._buffers]
    own = {*dir(torch.fx.GraphModule), "meta", "shape_env"} - {*dir(nn.Module)}
    return [name for name in names if name in own]


def _called(forward: Any, how: str, inputs: dict[str, Tensor]) -> Any:
    if how == "by keyword":
        return forward(**inputs)
    return forward(inputs) if how == "with a mapping" else forward(*inputs.values())


def _make_flat(model: nn.Module, example: Tensors) -> OutputStructure | None:
    """Change the class of a network where it takes or returns something else than tensors by position."""
    if isinstance(model, Flat):  # made for another task
        return model.structure
    how, output = _way_to_call(model, example)
    if isinstance(output, BaseException):  # `Task.validate` says what it raises
        return None
    structure = OutputStructure.of(output)
    plain = structure.lone or (type(output) is tuple and all(isinstance(t, Tensor) for t in output))
    if structure.names and (how != "by position" or not plain):
        settings = {"called": how, "inputs": tuple(example), "structure": structure}
        _mix(model, Flat, settings)
    return structure


def _way_to_call(model: nn.Module, example: Tensors) -> tuple[str, Any]:
    """The first way in which the network runs, with what it returned, or what the first one raised."""
    names, n = tuple(example), len(example)
    known = names == parameter_names(model)[:n] or all(name.startswith(INPUT) for name in names)
    ways = ["by position", "with a mapping"] if known else ["by keyword", "with a mapping", "by position"]
    tries = []
    for how in ways:
        copied = {name: tensor.clone() for name, tensor in example.items()}
        try:
            with torch.no_grad(), evaluating(model):
                return how, _called(model, how, copied)
        except (Exception, SystemExit) as error:  # the user's own code
            tries.append(error)
    return ways[0], tries[0]


def _mix(model: nn.Module, kind: type, settings: dict[str, Any]) -> None:
    """Put a class in front of that of a network, in place, under the same name."""
    own = type(model)
    body = {**settings, "__module__": own.__module__}
    model.__class__ = types.new_class(own.__name__, (kind, own), exec_body=lambda space: space.update(body))


def _refuse(model: nn.Module, who: str) -> None:
    for name, module in model.named_modules():
        place = f" (at {name!r})" if name else ""
        if isinstance(module, torch.jit.ScriptModule):
            raise TaskError(
                f"{who} is TorchScript{place}, whose layers cannot be changed; give the nn.Module that it was made "
                "from, with module.load_state_dict(scripted.state_dict())"
            )
        if ".nn.quantized" in type(module).__module__:
            raise TaskError(f"{who} is quantised already{place}; give the float network that it was made from")
    if any(nn.parameter.is_lazy(p) for p in model.parameters()):
        raise TaskError(f"{who} has parameters without a shape (lazy modules); run it once before")


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy. What a call has left in attributes, such as the weight of the old weight_norm, loses its history."""
    attributes = [value for module in model.modules() for value in vars(module).values()]
    history = {id(t): t.detach().clone() for t in attributes if isinstance(t, Tensor) and not t.is_leaf}
    return copy.deepcopy(unwrapped(model), history)


def _inner(module: nn.Module) -> nn.Module | None:
    """The network inside a wrapper, or None."""
    if "_orig_mod" in module._modules:  # torch.compile's OptimizedModule
        return module._modules["_orig_mod"]
    parallel = isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel))
    return module._modules["module"] if parallel else None


def unwrapped(module: nn.Module) -> nn.Module:
    """The network inside wrappers such as those of `torch.compile` and data parallelism."""
    while inner := _inner(module):
        module = inner
    return module


def _unwrapped(module: nn.Module) -> nn.Module:
    """The network without wrappers, around it and inside, in place."""
    module = unwrapped(module)
    for name, child in module._modules.items():
        if child is not None:
            module._modules[name] = _unwrapped(child)
    return module


def _wrappers(given: nn.Module) -> Iterator[str]:
    modules = list(given.modules())
    kinds = {type(m).__name__ for m in modules if _inner(m) is not None and "_orig_mod" not in m._modules}
    if any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in modules):
        kinds.add("torch.compile")
    if kinds:
        yield f"was taken out of {', '.join(sorted(kinds))}"


def _weights(model: nn.Module) -> Iterator[str]:
    """Turn weights that are computed in each call into parameters."""
    n = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old functions say that they are old
        for module in list(model.modules()):
            n += _plain_parametrizations(module) + _plain_hooks(module)
    if n:
        yield f"has {n} weights that each call computed (weight or spectral norm, masks); they are parameters now"


def _plain_parametrizations(module: nn.Module) -> int:
    """Torch's own removal takes the properties from the class, which the given network shares with its copy."""
    if not parametrize.is_parametrized(module):
        return 0
    values = {name: getattr(module, name).detach().clone() for name in _parametrized(module)}
    kind = parametrize.type_before_parametrizations(module)
    del module._modules["parametrizations"]
    module.__class__ = kind
    for name, value in values.items():
        setattr(module, name, nn.Parameter(value))
    return len(values)


def _parametrized(module: nn.Module) -> list[str]:
    return [name for name, _ in cast(nn.Module, module.parametrizations).named_children()]


def _plain_hooks(module: nn.Module) -> int:
    n = 0
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
        else:
            continue
        n += 1
    return n


def _layers(model: nn.Module) -> Iterator[str]:
    """Turn the Conv1D of Hugging Face's GPT-2, a linear layer with its weight transposed, into nn.Linear."""
    linear: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and type(child).__name__ == "Conv1D" and hasattr(child, "nf"):
                parent._modules[name] = linear.setdefault(id(child), _linear(child))
    if linear:
        yield f"has {len(linear)} layers of the kind Conv1D; they are nn.Linear now"


def _linear(layer: Any) -> nn.Linear:
    inputs, outputs = layer.weight.shape
    made = nn.Linear(inputs, outputs, bias=layer.bias is not None)
    made.weight = nn.Parameter(layer.weight.detach().t().contiguous())
    made.bias = layer.bias
    return made


def _float32(model: nn.Module, example: Tensors, who: str) -> list[str]:
    """Cast parameters and buffers, and where the code of the network casts by itself, what it casts to."""
    tensors = (*model.parameters(), *model.buffers())
    others = dict.fromkeys(t.dtype for t in tensors if t.is_floating_point() and t.dtype != torch.float32)
    model.float()
    if (others and _fails(model, example)) or _half_at(model, example) is not None:
        _mix(model, _InFloat32, {})
        if (place := _half_at(model, example)) is not None:
            raise TaskError(f"{who} computes in half precision{place}; give a network that computes in float32")
        others |= dict.fromkeys(_HALVES) if not others else {}
    names = ", ".join(str(dtype).removeprefix("torch.") for dtype in others)
    return [f"held or computed {names}; it is float32 now"] if others else []


class _InFloat32:
    """Mixed into the class of a network: its own casts to other floating types become casts to float32."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        with _CastsToFloat32():
            return super().forward(*inputs, **named)  # type: ignore[misc]


class _CastsToFloat32(TorchFunctionMode):
    def __torch_function__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.half, Tensor.bfloat16, Tensor.double):
            return args[0].float()
        args, kwargs = tree_map(_as_float32, (args, kwargs or {}))
        return func(*args, **kwargs)


def _as_float32(value: Any) -> Any:
    return torch.float32 if isinstance(value, torch.dtype) and value.is_floating_point else value


class _HalfFound(Exception):
    """Something was computed in half precision."""


class _FindsHalf(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(t, Tensor) and t.dtype in _HALVES for t in tree_leaves(result)):
            raise _HalfFound
        return result


def _half_at(model: nn.Module, example: Tensors) -> str | None:
    """Where the network computes in half precision, as " (file, line N)" of the user's code; None if nowhere."""
    try:
        with torch.no_grad(), _FindsHalf():  # type: ignore[no-untyped-call]
            model(*(tensor[:1] for tensor in example.values()))
    except _HalfFound as found:
        return user_line(found)
    except (Exception, SystemExit):  # the user's own code: `Task.validate` says what it raises
        return None
    return None


def _fails(model: nn.Module, example: Tensors) -> bool:
    return isinstance(_run(model, example), BaseException)


def _run(model: nn.Module, example: Tensors) -> Any:
    """The outputs, or what was raised."""
    try:
        with torch.no_grad(), evaluating(model):
            return model(*(tensor.clone() for tensor in example.values()))
    except (Exception, SystemExit) as error:  # the user's own code: `Task.validate` says what it raises
        return error


def _compare(before: Any, after: Any, who: str, tolerance: float) -> None:
    """Raise where the outputs are not what they were."""
    if isinstance(before, BaseException):
        return
    if isinstance(after, BaseException):
        raise TaskError(f"{who} does not run as a plain float32 network: {type(after).__name__}: {first_line(after)}")
    for one, other in zip(tree_leaves(before), tree_leaves(after), strict=True):
        if isinstance(one, Tensor) and one.is_floating_point() and one.isfinite().all():
            scale = max(1e-6, float(one.abs().max()))
            error = float((one.float() - other.float()).abs().max()) / scale
            if not error <= tolerance:
                raise TaskError(
                    f"{who} computes something else as a plain float32 network: relative error {error:.2g}, allowed "
                    f"{tolerance:g}; give it unwrapped, in float32 and without parametrizations"
                )


def _states(given: nn.Module, model: nn.Module) -> Iterator[str]:
    """Flags of the given network that do not count here."""
    parameters = list(given.parameters())
    if frozen := sum(not p.requires_grad for p in parameters if p.is_floating_point()):
        model.requires_grad_(True)
        yield f"has {frozen} of {len(parameters)} parameters frozen; they are trained like all others"
    if any(t.is_inference() for t in (*parameters, *given.buffers())):
        yield "was made in inference mode; it is a normal network now"
    if unwrapped(given).training:
        yield "was in training mode; it is used in evaluation mode"
