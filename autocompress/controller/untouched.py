"""The number formats of the untouched network: seconds of work each, and tried before anything is trained.

Uniform formats come first. Where 4 bits lose accuracy, layers are given 8 bits again, the sensitive ones first: files
between the two extremes are judged where the largest gap between two neighbours is, and only as long as there is one.
Where 4 bits are good enough, 2 bits are tried in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Final, Literal

from autocompress.compression.stage import Stage
from autocompress.compression.techniques._usual import quantised
from autocompress.evaluation.evaluator import Evaluator
from autocompress.evaluation.sensitivity import LayerDamage, weight_sensitivity
from autocompress.recipes.recipe import Recipe
from autocompress.studies.results import Evaluation

_LOSS = 0.001
"""Share of fp32's accuracy; a smaller loss is not worth another file."""
_Bits = Literal[2, 4, 8]
_GENTLER: Final[tuple[Mapping[str, Any], ...]] = (
    *({"observer": observer} for observer in ("percentile", "mse")),
    {"equalize": True, "bias_correction": "all"},
)
"""Settings of a quantisation that are tried where int8 loses accuracy."""
_MIXED = {4: 6, 2: 3}
"""Files in which some layers have so few bits, and the others twice as many."""
_FIT_FOR_2_BITS = 0.01
"""Share of fp32's accuracy; where 4 bits lose more, fewer are not tried."""
_STEP = 0.04
"""Files whose sizes differ by less than this share of the way from 8 to 4 bits count as equally large."""


class UntouchedNetwork:
    """Which number format of the original network is to be judged next.

    Args:
        evaluator: of the network.
        baselines: fp32 and int8 at least, by label; without them there is nothing to compare with.
    """

    def __init__(self, evaluator: Evaluator, baselines: Mapping[str, Evaluation]) -> None:
        self._evaluator = evaluator
        self._baselines = baselines

    @property
    def source(self) -> int:
        """The trial whose network all of them share: the fp32 baseline."""
        return self._baselines["fp32"].trial

    def next(self, judged: Mapping[str, Evaluation | None]) -> Recipe | None:
        """The next recipe, or None where there is none, or none before one that is being evaluated is judged.

        Args:
            judged: what is known, by the digest of the recipe: None stands for one that is being evaluated.
        """
        for recipe in self._worth_judging(judged):
            digest = recipe.digest()
            if digest not in judged:
                return recipe
            if judged[digest] is None:
                return None
        return None

    def _worth_judging(self, judged: Mapping[str, Evaluation | None]) -> Iterator[Recipe]:
        """All recipes in order; whoever asks for one more has the results of those before it."""
        fp32, int8 = (_accuracy(self._baselines.get(label)) for label in ("fp32", "int8"))
        device = self._evaluator.device
        if fp32 is None or int8 is None or not {4, 8} <= device.weight_bits or 8 not in device.support.activation_bits:
            return
        worth = _LOSS * abs(fp32)
        yield _recipe(quantised(weight_bits=4))
        how: Mapping[str, Any] = {}
        best = int8
        if fp32 - int8 > worth:
            for settings in _GENTLER:
                yield (recipe := _recipe(quantised(**settings)))
                if (accuracy := _accuracy(judged[recipe.digest()])) is not None and accuracy > best:
                    how, best = settings, accuracy
            yield _recipe(quantised(weight_bits=4, **how))
        yield from self._mixed(judged, how, (8, 4), best, worth)
        int4 = _accuracy(judged[_recipe(quantised(weight_bits=4, **how)).digest()])
        if 2 in device.weight_bits and int4 is not None and fp32 - int4 <= _FIT_FOR_2_BITS * abs(fp32):
            yield _recipe(quantised(weight_bits=2, **how))
            yield from self._mixed(judged, how, (4, 2), int4, worth)
        slow = _latency(self._baselines["int8"]) >= _latency(self._baselines["fp32"])
        if 32 in device.support.activation_bits and (fp32 - best > worth or slow):
            yield _recipe(quantised(activation_bits=32))
            yield _recipe(quantised(weight_bits=4, activation_bits=32))

    def _mixed(
        self,
        judged: Mapping[str, Evaluation | None],
        how: Mapping[str, Any],
        bits: tuple[_Bits, _Bits],
        most: float,
        worth: float,
    ) -> Iterator[Recipe]:
        """Files between two numbers of bits, each where the two files next to it differ most in accuracy and size.

        Args:
            judged: what is known, by the digest of the recipe.
            how: other settings of the quantisation.
            bits: the larger number first.
            most: accuracy of the network with this one everywhere.
            worth: a loss of accuracy that is worth another file.
        """
        least = _accuracy(judged[_recipe(quantised(weight_bits=bits[1], **how)).digest()])
        if least is None or most - least <= worth:
            return
        known: dict[int, float] = {0: most, len(self._ranked): least}
        for _ in range(_MIXED[bits[1]]):
            if (n := self._between(known, worth)) is None:
                return
            yield (recipe := self._with_first(n, bits, how))
            accuracy = _accuracy(judged[recipe.digest()])
            known[n] = least if accuracy is None else accuracy

    def _between(self, known: Mapping[int, float], worth: float) -> int | None:
        """How many layers the next file has at the smaller number; None where no file between two others is of use."""
        shrunk = [0.0, *accumulate(layer.n_weights for layer in self._ranked)]
        found: list[tuple[float, int]] = []
        for low, high in pairwise(sorted(known)):
            middle = (shrunk[low] + shrunk[high]) / 2
            inner = [
                n
                for n in range(low + 1, high)
                if min(shrunk[n] - shrunk[low], shrunk[high] - shrunk[n]) > _STEP * shrunk[-1]
            ]
            if inner and known[low] - known[high] > worth:
                gap = (known[low] - known[high]) * (shrunk[high] - shrunk[low])
                found.append((gap, min(inner, key=lambda n: (abs(shrunk[n] - middle), n))))
        return max(found)[1] if found else None

    def _with_first(self, n: int, bits: tuple[_Bits, _Bits], how: Mapping[str, Any]) -> Recipe:
        table = {"default": bits[0], **{layer.name: bits[1] for layer in self._ranked[:n]}}
        return _recipe(quantised(weight_bits=table, **how))

    @cached_property
    def _ranked(self) -> tuple[LayerDamage, ...]:
        """Layers that a recipe can name, the least sensitive for their size first."""
        named = self._evaluator.analysis.layers
        return tuple(layer for layer in weight_sensitivity(self._evaluator) if layer.name in named)


def _recipe(stage: Stage) -> Recipe:
    return Recipe(stages=(stage,))


def _accuracy(evaluation: Evaluation | None) -> float | None:
    return evaluation.validation.value if evaluation and evaluation.validation else None


def _latency(evaluation: Evaluation) -> float:
    return evaluation.predicted_latency_ms or 0.0
