"""Sizes in messages are in units that people read."""

import pytest

from app.sizes import exactly, spelled


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
