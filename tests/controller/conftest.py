from __future__ import annotations

import pytest

from autocompress.controller.untouched import UntouchedNetwork


@pytest.fixture
def nothing_of_the_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the number formats of the original network, for tests that look at what comes after them."""
    monkeypatch.setattr(UntouchedNetwork, "next", lambda self, judged: None)
