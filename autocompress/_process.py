"""Settings of a process that trains: threads and memory."""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def let_threads_sleep() -> None:
    """Have idle OpenMP threads sleep instead of spin, six times faster on a busy machine.

    Counts for this process if torch is not imported yet, and for those started from it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def interrupt(number: int, frame: Any) -> None:
    """Handle a signal that ends a command: like Ctrl-C the first time, at once the second time.

    A study is intact at any moment; what takes time is stopping workers and telling those who watch.
    """
    global _interrupted
    if _interrupted:
        os.write(2, b"error: ended at once; nothing that was finished is lost, run the same command again to go on\n")
        os._exit(128 + number)
    _interrupted = True
    raise KeyboardInterrupt


_interrupted = False


def prepare_training(threads: int | None) -> None:
    """Set the threads (all processors where None), and keep freed memory."""
    _keep_freed_memory()
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _keep_freed_memory() -> None:
    """Have glibc reuse the memory of activations instead of returning it after every step: a fifth less time."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # not so on musl
        libc.mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
