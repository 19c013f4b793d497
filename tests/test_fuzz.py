"""Every reader of files, with files that were changed at random: an error of ours or a value, never anything else.

FUZZ sets how many files each reader gets (default 700; about 10,000 in all).
"""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.studies import SETTINGS, TRIALS

from autocompress.compression.weights import load_weights, save_weights
from autocompress.controller.storage import _read_pointer, open_storage
from autocompress.controller.store import _read_elapsed, _read_outcomes, _read_proposal
from autocompress.devices.calibration.bundle import read_result
from autocompress.devices.profile import DeviceProfile, shipped_profiles_folder
from autocompress.errors import AutocompressError
from autocompress.files import Folder
from autocompress.packaging._infer import _load_samples, _read_card, verify
from autocompress.packaging.signing import new_key, sign_folder
from autocompress.recipes.recipe import Recipe
from autocompress.recipes.space import SearchSpace
from autocompress.report.study_reader import Follower
from autocompress.report.web.html import render
from autocompress.runtimes.workload import Op, Workload
from autocompress.studies.ablation import Ablation, read_ablation
from autocompress.studies.confusion import read_confusions
from autocompress.studies.folder import read_settings, read_workload, write_evaluation, write_final
from autocompress.studies.sample_scores import read_sample_scores, write_sample_scores
from autocompress.studies.study import Study

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies
_EXAMPLES = int(os.environ.get("FUZZ", "700"))
_TOKENS = [
    b"null",
    b"[]",
    b"{}",
    b"-1",
    b"1e999",
    b"NaN",
    b"9" * 400,
    b"true",
    b'""',
    b"[" * 300,
    b"\xff",
    b"\0",
    b"&a ",
    b"*a",
]
_TOKENS += [b"!!python/object:os.system", b"- ", b": ", b"\n", b'"', b"../../x", b"\xf0\x9f\x92\xa9"]


def mutated(content: bytes, seed: int) -> bytes:
    """Change, cut, double or insert a few pieces."""
    rng, data = random.Random(seed), bytearray(content)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 2, 8, 40, len(data)))
        kind = rng.randrange(5)
        if kind == 0:
            del data[at : at + length]
        elif kind == 1:
            data[at : at + rng.choice((0, 1, 4, 12))] = rng.choice(_TOKENS)
        elif kind == 2:
            data[at:at] = data[at : at + length]
        elif kind == 3 and at < len(data):
            data[at] = rng.randrange(256)
        else:
            data[at:at] = rng.randbytes(rng.randint(1, 6))
    return bytes(data[:100_000])


Case = tuple[str, Callable[[Path], Any]]
CASES: dict[str, Case] = {
    "trial": ("trials/000003/evaluation.json", lambda f: Study.open(f).to_dict()),
    "final": ("final.json", lambda f: Study.open(f).to_dict()),
    "settings": ("study.json", read_settings),
    "page of settings": ("study.json", lambda f: render(Study.open(f))),
    "page of a trial": ("trials/000003/evaluation.json", lambda f: render(Study.open(f))),
    "progress": ("progress.json", lambda f: Follower(f).progress()),
    "classes": ("classes.json", read_confusions),
    "ablation": ("ablation.json", read_ablation),
    "workload": ("w.json", lambda f: Workload.from_json((f / "w.json").read_bytes())),
    "kept workload": ("workloads/x.json", lambda f: read_workload(f, "x")),
    "proposal": ("trials/000003/proposal.json", lambda f: _read_proposal(f, 3)),
    "outcomes": ("trials/000003/outcomes.json", lambda f: _read_outcomes(f, 3)),
    "elapsed": ("elapsed.json", _read_elapsed),
    "pointer": ("db/storage.json", lambda f: _read_pointer(Folder(f / "db"))),
    "scores": ("m.test.npz", lambda f: read_sample_scores(f, "m.onnx", "test")),
    "weights": ("w.pt", lambda f: load_weights(f / "w.pt")),
    "recipe": ("recipe.yaml", lambda f: Recipe.load(f / "recipe.yaml")),
    "space": ("space.yaml", lambda f: SearchSpace.load(f / "space.yaml")),
    "device": ("device.yaml", lambda f: DeviceProfile.load(f / "device.yaml")),
    "result": ("result.json", lambda f: read_result(f / "result.json")),
    "journal": ("study.journal", lambda f: open_storage(f, None)),
    "card": ("card.json", lambda f: _read_card(f / "card.json")),
    "samples": ("x.npy", lambda f: _load_samples(str(f / "x.npy"))),
    "signature": ("SHA256SUMS.minisig", lambda f: verify(f, str(f.parent / "key.pub"))),
    "sums": ("SHA256SUMS", lambda f: verify(f, str(f.parent / "key.pub"))),
}
OURS = (AutocompressError, ValueError, OSError)
"""ValueError and OSError: of `_infer` and of workloads, whose callers turn them into words."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "study"
    path.mkdir()
    for e in TRIALS:
        write_evaluation(path, e)
    write_final(path, TRIALS[:2], {"timing": {}})
    save_weights(path / "w.pt", {"a": 1})
    write_sample_scores(path, "m.onnx", "test", np.arange(9.0))
    array = io.BytesIO()
    np.save(array, np.zeros((2, 3), np.float32))
    texts = {
        "study.json": SETTINGS.model_dump_json(),
        "progress.json": '{"host": "h", "pid": 3, "workers": [{"trial": 3, "doing": "x"}], "notes": ["a"]}',
        "classes.json": '{"version": 1, "trials": {"3": {"split": "test", "correct": [1], "total": [2]}}}',
        "ablation.json": Ablation().model_dump_json(),
        "w.json": Workload((Op("conv", "float32", "", 9, 9, 9, 9, 3, 4, (3, 3), 1, 16),), 7).to_json(),
        "workloads/x.json": Workload((), 7).to_json(),
        "trials/000003/proposal.json": '{"key": "k", "params": {"a": ["{\\"name\\": \\"IntDistribution\\"}", 1.0]}}',
        "trials/000003/outcomes.json": f"[{TRIALS[3].model_dump_json()}]",
        "elapsed.json": '{"seconds": 12.5}',
        "db/storage.json": '{"url": "postgresql://host/db", "study": "s"}',
        "recipe.yaml": TRIALS[3].recipe.to_yaml(),
        "space.yaml": (Path(__file__).parent.parent / "search_spaces/cnn.yaml").read_text(),
        "device.yaml": next(iter(sorted(shipped_profiles_folder().glob("*.yaml")))).read_text(),
        "result.json": json.dumps({"version": 1, "timings": [{"name": "a", "latency_ms": 1.0}], "checksum": "x"}),
        "card.json": '{"version": 1, "point": {"sha256": "x"}, "task": {"classes": ["a"]}, "exits": []}',
    }
    for name, text in texts.items():
        Folder(path).write(name, text)
    (path / "x.npy").write_bytes(array.getvalue())
    (path / "study.journal").write_bytes(b"")
    open_storage(path, None)[1].create_new_study(
        [__import__("optuna").study.StudyDirection.MAXIMIZE] * 3, "autocompress"
    )
    new_key(path.parent / "key")
    sign_folder(Folder(path), {"card.json": texts["card.json"].encode()}, path.parent / "key", "x")
    return path


@pytest.mark.parametrize("case", CASES)
def test_a_reader_gives_a_value_or_an_error_of_ours(folder: Path, case: str) -> None:
    name, read = CASES[case]
    whole = (folder / name).read_bytes()
    slowness = {"journal": 20, "page of settings": 50, "page of a trial": 50}.get(case, 1)

    @hypothesis.settings(
        max_examples=max(1, _EXAMPLES // slowness), deadline=5000, database=None, derandomize="FUZZ" not in os.environ
    )
    @hypothesis.given(st.integers(0, 2**62))
    def run(seed: int) -> None:
        (folder / name).write_bytes(mutated(whole, seed))
        try:
            read(folder)
        except OURS as error:
            assert "weights_only=False" not in str(error)
        for aside in folder.glob("*.unreadable-*"):
            aside.unlink()

    try:
        run()
    finally:
        (folder / name).write_bytes(whole)
