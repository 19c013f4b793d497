"""Where candidates were; kept for files that import them from here. Use `from autocompress import Candidate`."""

from autocompress.compression.candidate import Candidate, Context, Workshop

__all__ = ["Candidate", "Context", "Workshop"]
