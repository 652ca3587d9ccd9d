"""How fast parts come in through signed requests, against a bare application that writes bodies to files."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.disks import DISKS, write_disk
from tests.bench.figures import Figure, Report, middle, speed
from tests.bench.scale import Scale
from tests.bench.serving import Bare, Gateway, running_bare, running_gateway, settle_disk
from tests.bench.uploading import Part, create, delete, send

_GOAL = 0.6
_AT_ONCE = 4
_PART = 16 << 20


def measure(scale: Scale) -> Report:
    """Send the same random file to both in turns: in parts of 16 MiB, four at once, and then as a single one."""
    file = write_disk(DISKS["dense raw"], scale.folder, scale.bytes_of())
    size = file.stat().st_size
    with running_gateway(scale.folder) as gateway, running_bare("parts", scale.folder) as bare:
        figures = [
            _figure("parts of 16 MiB, four at once", size, *_rounds(gateway, bare, file, scale.rounds, single=False)),
            _figure("one single part", size, *_rounds(gateway, bare, file, scale.rounds, single=True)),
        ]
    return Report(
        title="receiving",
        how=f"{size >> 20} MiB of random bytes from a client that uses sendfile(2) on kept connections, "
        f"{scale.rounds} rounds in turns, from the first byte sent to the last PUT answered. The gateway checks "
        "signatures, leaves holes for zeros and answers a part when it is safe on the disk (fdatasync); the bare "
        "application writes each body to a file of its own and waits for no disk.",
        figures=figures,
    )


def _rounds(gateway: Gateway, bare: Bare, file: Path, rounds: int, *, single: bool) -> tuple[list[float], list[float]]:
    ours: list[float] = []
    plain: list[float] = []
    size = file.stat().st_size
    for _ in range(rounds):
        upload = create(gateway, file, "RAW", single=single)
        settle_disk(file)
        ours.append(send(upload.host, file, upload.parts, 1 if single else _AT_ONCE).seconds)
        delete(gateway, upload.image_id)
        parts = _bare_parts(size, size if single else _PART)
        settle_disk(file)
        plain.append(send(bare.host, file, parts, 1 if single else _AT_ONCE).seconds)
        for part in parts:
            (file.parent / part.path[1:]).unlink()
    return ours, plain


def _bare_parts(size: int, part_size: int) -> list[Part]:
    starts = range(0, size, part_size)
    return [Part(f"/part-{start}", start, min(part_size, size - start)) for start in starts]


def _figure(what: str, size: int, ours: Sequence[float], plain: Sequence[float]) -> Figure:
    measured, against = size / middle(ours), size / middle(plain)
    ratio = measured / against
    return Figure(what, speed(measured), speed(against), ratio, f"≥ {_GOAL}", ratio >= _GOAL)
