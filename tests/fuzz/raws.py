"""Made-up raw disks."""

from hypothesis import strategies as st

from app.lifecycle import DiskFormat
from tests.fuzz.built import Built, KiB, Unit, layouts


@st.composite
def raws(draw: st.DrawFn) -> Built:
    """A raw disk with holes."""
    disk, _ = draw(layouts(draw(st.sampled_from([512, 4 * KiB, 64 * KiB])), 24, [Unit.HOLE, Unit.PLAIN]))
    return Built(DiskFormat.RAW, disk, disk, "raw", [])
