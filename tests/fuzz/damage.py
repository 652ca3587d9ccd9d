"""What happens to files on their way: they are cut off, and bytes change."""

from hypothesis import strategies as st

from tests.fuzz.built import Built
from tests.fuzz.qcow2s import qcow2s
from tests.fuzz.raws import raws
from tests.fuzz.vhds import vhds
from tests.fuzz.vhdxs import vhdxs
from tests.fuzz.vmdks import vmdks


@st.composite
def whole_or_damaged(draw: st.DrawFn) -> tuple[Built, bytes]:
    """An image of any format, and the file that arrives: the same in a third of all cases."""
    damage = draw(st.sampled_from([_nothing, _flipped, _cut_off]))
    built = draw(st.one_of(qcow2s(), vmdks(), vhds(), vhdxs(), raws()))
    return built, draw(damage(built))


def _nothing(built: Built) -> st.SearchStrategy[bytes]:
    return st.just(built.file)


@st.composite
def _flipped(draw: st.DrawFn, built: Built) -> bytes:
    """Bits flipped at up to three places, most of them in headers and tables."""
    file = bytearray(built.file)
    anywhere = (0, len(file))
    for _ in range(draw(st.integers(1, 3))):
        offset, length = draw(st.sampled_from([*built.structures, anywhere]))
        file[offset + draw(st.integers(0, length - 1))] ^= draw(st.integers(1, 255))
    return bytes(file)


@st.composite
def _cut_off(draw: st.DrawFn, built: Built) -> bytes:
    """The end is missing: in half of all cases, a little of it."""
    size = len(built.file)
    return built.file[: size - draw(st.one_of(st.integers(1, min(size, 1024)), st.integers(1, size)))]
