"""Conformance checks for authors of extensions: `techniques`, `runtimes` and `kinds` of tasks.

Each is a list of checks to run in a test.
"""

from __future__ import annotations

from autocompress.testing.techniques import CHECKS, Case, check

__all__ = ["CHECKS", "Case", "check"]
