"""Files in the format of another runtime still say how they were made."""

from __future__ import annotations

import onnx
from helpers.quantised_files import quantised

from autocompress.runtimes.adapters.ncnn.session import unpack
from autocompress.runtimes.base import get


def test_recipe_and_provenance_stay_in_the_file() -> None:
    graph = onnx.ModelProto()
    graph.CopyFrom(quantised("mlp").graph)
    graph.metadata_props.add(key="autocompress.recipe", value='{"stages":[]}')
    about = unpack(get("ncnn").convert(graph))[2]
    assert about["metadata"] == {"autocompress.recipe": '{"stages":[]}'}
    assert about["inputs"]["input"]["shape"] == [1, 24] and list(about["outputs"]) == ["logits"]
