"""Where candidates were; kept for files that import them from here. Use `from autocompress import Candidate`."""

from autocompress.compression.candidate import Candidate, Workshop

__all__ = ["Candidate", "Workshop"]
