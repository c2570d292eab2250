"""Passes over the store go on, whatever happens in one of them."""

from __future__ import annotations

import threading

import pytest

from warpline_collector.passes import Passes


def test_a_pass_that_fails_by_a_fault_of_our_own_is_told_and_the_next_one_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Else histories or the energy account would stop for good without a word, and retention would go on."""
    turns: list[int] = []
    again = threading.Event()

    def turn() -> None:
        turns.append(1)
        if len(turns) == 1:
            raise ZeroDivisionError("of our own")
        again.set()

    passes = Passes("histories", turn, lambda: None, lambda took: 0.0)
    passes.start()
    assert again.wait(60)
    passes.close()
    assert "a pass of histories failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text
