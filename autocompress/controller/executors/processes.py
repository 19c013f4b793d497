"""Candidates side by side, in processes of this machine.

The processes are started afresh ("spawn"), each with its own share of the threads. One that dies or takes too long is
replaced; all of them end when the search ends, however it ends.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections import deque
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from autocompress._process import let_threads_sleep
from autocompress.controller.executors.base import EvaluatorSpec, Job, Reply, attempt, to_send
from autocompress.errors import StudyError
from autocompress.studies.reporter import Reporter

_START_ATTEMPTS = 3
_LAST_WORDS_S = 5.0
_TRACKER = "ignore:resource_tracker:UserWarning"


class Processes:
    """`count` workers on this machine, and one job more than that in hand where there are several."""

    def __init__(self, evaluator_spec: EvaluatorSpec, count: int, timeout_s: float, reporter: Reporter) -> None:
        let_threads_sleep()
        # What a killed worker leaves behind, Python's resource tracker removes, and would say so at the end.
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), _TRACKER]))
        self._blueprint = evaluator_spec.pack()
        self._timeout_s = timeout_s
        self._reporter = reporter
        self._waiting: deque[Job] = deque()
        self._in_vain = 0
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                self._workers.append(_Worker(self._blueprint))
        except BaseException:
            self.close()
            raise

    def free(self) -> int:
        """With several workers the next job is there before one of them ends; one worker knows all that came before."""
        count = len(self._workers)
        busy = sum(w.job is not None for w in self._workers) + len(self._waiting)
        return count + (count > 1) - busy

    def submit(self, job: Job) -> None:
        """Give the job to a worker as soon as one is free."""
        self._waiting.append(job)
        self._assign()

    def collect(self, timeout_s: float) -> list[Reply]:
        """Wait for replies, for workers that die and for the time limits."""
        end = time.monotonic() + timeout_s
        while True:
            self._assign()
            limits = [w.started + self._timeout_s for w in self._workers if w.job]
            pause = min([end, *limits]) - time.monotonic()
            wait([w.connection for w in self._workers], None if math.isinf(pause) else max(0.0, pause))
            replies = [reply for i in range(len(self._workers)) for reply in self._look_after(i)]
            if replies or time.monotonic() >= end:
                self._assign()
                return replies

    def close(self) -> None:
        """Kill the workers."""
        for worker in self._workers:
            worker.kill()

    def _assign(self) -> None:
        for worker in self._workers:
            if self._waiting and worker.ready and worker.job is None:
                worker.give(self._waiting.popleft())

    def _look_after(self, i: int) -> list[Reply]:
        """Read what a worker has sent; replace it if it died or takes too long."""
        worker = self._workers[i]
        job = worker.job
        try:
            while worker.connection.poll():
                kind, content = worker.connection.recv()
                if kind == "reply":
                    worker.job = None
                    return [content]
                if kind == "error":
                    raise content
                if kind == "ready":
                    worker.ready, self._in_vain = True, 0
                if kind == "status" and job:
                    self._reporter.status(f"trial {job.trial}: {content}")
        except (EOFError, ConnectionError):
            return self._replace(i)
        if job and time.monotonic() - worker.started > self._timeout_s:
            worker.kill()
            self._workers[i] = _Worker(self._blueprint)
            return [Reply(job.trial, failure=f"took longer than the time limit of {self._timeout_s / 60:g} minutes")]
        return []

    def _replace(self, i: int) -> list[Reply]:
        worker = self._workers[i]
        end = worker.end()
        if not worker.ready:
            self._in_vain += 1
            if self._in_vain >= _START_ATTEMPTS:
                raise StudyError(
                    f"the worker processes die while they load the task ({end}); use fewer workers, or one to see why; "
                    "in a script, search() must be called under `if __name__ == '__main__':`"
                )
        self._workers[i] = _Worker(self._blueprint)
        return [Reply(worker.job.trial, failure=f"the worker process died ({end})", lost=True)] if worker.job else []


class _Worker:
    """The driver's end of one process."""

    def __init__(self, evaluator_spec: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, evaluator_spec), name="autocompress worker")
        self.process.start()
        theirs.close()
        self.ready = False
        self.job: Job | None = None
        self.started = 0.0

    def give(self, job: Job) -> None:
        self.job, self.started = job, time.monotonic()
        try:
            self.connection.send(job)
        except ConnectionError:
            return  # it has just died: the next look at it says so

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def end(self) -> str:
        """How the process ended, now that it has closed its connection."""
        self.process.join(_LAST_WORDS_S)
        self.kill()
        code = self.process.exitcode or 0
        if code >= 0:
            return f"exit code {code}"
        hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"{signal.Signals(-code).name}{hint}"


def _work(connection: Connection, evaluator_spec: bytes) -> None:
    """What a worker process does: evaluate until it is told to stop or the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the driver decides
    os.dup2(2, 1)  # standard output is for the driver's result
    threading.Thread(target=_end_with_the_driver, daemon=True).start()

    def send(kind: str, content: Any = None) -> None:
        connection.send((kind, content))

    try:
        evaluator = pickle.loads(evaluator_spec).build(lambda message: send("status", message))
        send("ready")
        while True:
            send("reply", attempt(evaluator, connection.recv()))
    except Exception as error:  # whatever it is, the driver ends the search with it
        with suppress(OSError):  # the driver is gone
            send("error", to_send(error, "a worker process"))


def _end_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)
