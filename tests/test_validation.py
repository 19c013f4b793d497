from __future__ import annotations

import pytest
from pydantic import ValidationError

from autocompress.validation import Data, explain


class Point(Data):
    x: int


@pytest.mark.parametrize(("n", "lines"), [(1, 1), (5, 5), (30, 6)])
def test_each_problem_is_named_up_to_a_few(n: int, lines: int) -> None:
    with pytest.raises(ValidationError) as caught:
        Point.model_validate({"x": 1, **{f"key{i}": 0 for i in range(n)}})
    told = explain(caught.value, "file.yaml", ["x"]).splitlines()
    assert len(told) == lines and told[0] == "file.yaml: key0: unknown key; allowed: x"
    assert lines <= 5 or told[-1] == "file.yaml: and 25 more; is it a file of this kind?"
