"""Sizes and counts in messages are in units and words that people read."""

import pytest

from app.sizes import counted, exactly, spelled


@pytest.mark.parametrize(
    ("size", "rounded", "exact"),
    [
        (0, "0 bytes", "0 bytes"),
        (1, "1 byte", "1 byte"),
        (1000, "1,000 bytes", "1,000 bytes"),
        (640 << 10, "640 KiB", "640 KiB"),
        ((4 << 20) - 512, "4 MiB", "4,193,792 bytes"),
        (3 << 39, "1.5 TiB", "1,536 GiB"),
        (8 << 60, "8 EiB", "8 EiB"),
    ],
)
def test_a_size_is_rounded_or_exact(size: int, rounded: str, exact: str) -> None:
    assert (spelled(size), exactly(size)) == (rounded, exact)


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (1.0, "1 second"),
        (0.5, "0.5 seconds"),
        (30.0, "30 seconds"),
        (1_234_567, "1,234,567 seconds"),
    ],
)
def test_a_number_of_things_is_in_the_singular_only_for_one(number: float, shown: str) -> None:
    assert counted(number, "second") == shown
