from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.small import DEVICE, write_space, write_task

from autocompress import cli
from autocompress.studies.ablation import read_ablation, recommended
from autocompress.studies.study import Study


def run(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["autocompress", *map(str, words)])
        try:
            cli.main()
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_search_with_ablation_then_ablate_and_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, folder = write_task(tmp_path), tmp_path / "study"
    search = ["search", task, "--out", folder, "--space", write_space(tmp_path), "--trials", 2, "--device", DEVICE]
    assert run(*search, "--ablation", "--threads", 1) == 0
    study, found = Study.open(folder), read_ablation(folder)
    assert found and {chain.trial for chain in found.chains} == set(recommended(study))
    trial = next(e.trial for e in study.candidates if e.state == "complete")
    capsys.readouterr()
    assert run("ablate", folder, task, "--trial", trial, "--json") == 0
    assert trial in {chain["trial"] for chain in json.loads(capsys.readouterr().out)["chains"]}
    assert run("ablate", folder, task, "--trial", trial) == 0
    assert f"trial {trial}: " in capsys.readouterr().out
    assert run("ablate", folder, task, "--trial", 0) == 2
    assert "trial 0 is a baseline; only complete candidates have a chain" in capsys.readouterr().err
    assert run("schema", "spaces") == 2
    assert "did you mean 'space'?" in capsys.readouterr().err
    assert run("show", folder, "--device", DEVICE) == 2
    assert "give --html too" in capsys.readouterr().err
