"""A study that goes on on a Ray cluster of two nodes, one of which is killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import faults
from test_driver import found, own, run, states

from autocompress.studies.study import Study

pytest.importorskip("ray", reason="the extra `ray` is not installed")
TESTS = Path(__file__).parents[1]

_SEARCH = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["FAULTS_DRIVER"] = str(os.getpid())
import torch
torch.set_num_threads(1)
from helpers import faults
from ray.cluster_utils import Cluster
from helpers.small import device, space
from autocompress.controller import Budget, Workers, search
from autocompress.studies.reporter import Silent

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()

class Watcher(Silent):
    judged_by_ray = 0

    def note(self, message):
        print("note:", message, file=sys.stderr)

    def judged(self, evaluation, share, eta_s):
        self.judged_by_ray += 1
        if self.judged_by_ray == 3:
            print("killing a node", file=sys.stderr)
            cluster.remove_node(second, allow_graceful=False)

workers = Workers(executor="ray", address=cluster.address, trial_timeout_minutes=10)
search(faults.task(), device(), space(), budget=Budget(10), out=sys.argv[1], seed=3, reference=sys.argv[2],
       workers=workers, reporter=Watcher())
"""


_TASK = """
import os
from pathlib import Path
from helpers import faults

def task():
    Path(os.environ["LOADED"], str(os.getpid())).touch()
    return faults.task()
"""


@pytest.mark.slow
def test_a_node_and_a_worker_that_die_lose_nothing_finished(tmp_path: Path) -> None:
    folder, armed, loaded = tmp_path / "study", tmp_path / "faults", tmp_path / "loaded"
    armed.mkdir()
    loaded.mkdir()
    for fault in ("die", "memory"):
        (armed / fault).touch()
    (tmp_path / "ray_task.py").write_text(_TASK)
    local = found(run(faults.task(), folder, 2, seed=3))
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1", "FAULTS": str(armed)}
    environment["LOADED"] = str(loaded)
    command = [sys.executable, "-c", _SEARCH, str(folder), f"{tmp_path}/ray_task.py:task"]
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "killing a node" in done.stderr and not list(armed.iterdir())
    assert len(list(loaded.iterdir())) <= 5  # processes for eight jobs: two, and others where one or its node died
    study = Study.open(folder)
    assert set(local) < set(found(study)) and study.final
    judged = own(study)
    assert len(judged) == 10
    assert [e.reason for e in judged if e.state != "complete"] == [
        "the stage distill ran out of memory; use a smaller batch size, or fewer workers"
    ]
    assert states(folder) <= {"COMPLETE", "FAIL", "WAITING"}
    assert all((folder / str(e.artifact)).stat().st_size == e.size_bytes for e in judged if e.state == "complete")
