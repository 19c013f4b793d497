from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from autocompress.compression.candidate import Candidate, Context
from autocompress.compression.quantize import Quantize
from autocompress.compression.techniques.ptq import Ptq
from autocompress.compression.techniques.qat import Qat
from autocompress.errors import CandidateError
from autocompress.recipes.recipe import Recipe

Get = Callable[[str], Context]


@pytest.mark.parametrize("cls", [Ptq, Qat])
def test_bits_are_looked_up_by_layer_pattern_stage_and_default(cls: type[Quantize]) -> None:
    stage = cls(
        weight_bits={"fc": 4, "blocks.0.*": 16, "stage3": 32, "default": 8},
        activation_bits={"stem.0": 32, "default": 8},
    )
    assert stage.bits("fc", "stage3") == (4, 8)
    assert stage.bits("blocks.0.conv1", "stage1") == (16, 32)  # float weights: activations stay float
    assert stage.bits("blocks.2.conv1", "stage3") == (32, 32)
    assert stage.bits("stem.0", "stage1") == (8, 32)
    assert stage.bits("blocks.1.conv1", "stage2") == (8, 8)
    assert cls().bits("anything", "exits") == (8, 8)
    assert cls(weight_bits={"stage1": 4}).bits("fc", "stage2") == (8, 8)


@pytest.mark.parametrize("cls", [Ptq, Qat])
def test_stage_is_noted_and_the_model_left_alone(cls: type[Quantize], workshop_of: Get) -> None:
    context = workshop_of("resnet")
    start = Candidate(context.task.model)
    stage = cls(weight_bits={"stage1": 8, "default": 4, "exits": 8})
    done = stage.apply(start, context)
    assert done.quantization is stage and start.quantization is None
    assert all(torch.equal(a, b) for a, b in zip(done.model.parameters(), start.model.parameters(), strict=True))


@pytest.mark.parametrize("cls", [Ptq, Qat])
@pytest.mark.parametrize("field", ["weight_bits", "activation_bits"])
def test_unknown_layers_are_refused_by_name(cls: type[Quantize], field: str, workshop_of: Get) -> None:
    stage = cls.model_validate({field: {"stage1": 8, "blocks.9.*": 8}})
    with pytest.raises(CandidateError) as caught:
        stage.apply(Candidate(workshop_of("resnet").task.model), workshop_of("resnet"))
    expected = (
        f"{stage.technique}.{field}: no layer or stage 'blocks.9.*' (did you mean 'blocks.2.conv2'?); "
        "stages: stage1, stage2, stage3; layers: stem.0,"
    )
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("settings", "ok"),
    [({"weight_bits": b}, b != 3) for b in (2, 3, 4, 8, 16, 32)]
    + [({"activation_bits": b}, b in (8, 32)) for b in (4, 8, 16, 32)]
    + [({"weight_bits": {"fc": 3}}, False), ({"observer": "max"}, False), ({"observer_samples": 0}, False)],
)
def test_only_formats_that_exist_are_accepted(settings: dict[str, object], ok: bool) -> None:
    if ok:
        assert Ptq.model_validate(settings) == Ptq.model_validate(Ptq.model_validate(settings).model_dump())
    else:
        with pytest.raises(ValueError):
            Ptq.model_validate(settings)


def test_summaries_and_digests() -> None:
    assert Ptq(weight_bits={"a": 8, "b": 4, "c": 4}).summary() == "ptq w4/8a8"
    assert Qat(weight_bits=4, epochs=2).summary() == "qat w4a8 2 ep"
    a = Recipe(stages=(Ptq(weight_bits={"a": 8, "b": 4}),))
    b = Recipe(stages=(Ptq(weight_bits={"b": 4, "a": 8}),))
    assert a.digest() == b.digest() != Recipe(stages=(Qat(weight_bits={"a": 8, "b": 4}),)).digest()


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({}, "ptq w8a8"),
        ({"activation_bits": 32}, "ptq w8a32"),
        ({"weight_bits": 16, "activation_bits": 32}, "ptq w16"),
        ({"weight_bits": {"fc": 4, "default": 16}, "activation_bits": {"fc": 32, "default": 8}}, "ptq w4/16a8/32"),
    ],
)
def test_what_computes_otherwise_has_another_label(settings: dict[str, object], label: str) -> None:
    assert Ptq.model_validate(settings).summary() == label
