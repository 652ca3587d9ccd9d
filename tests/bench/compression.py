"""What compressed clusters (zstd) cost in time and save in size, for images that a worker rewrites in MinIO."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.bench.disks import DISKS, Disk, write_disk
from tests.bench.figures import Figure, Report, mebibytes, middle, seconds
from tests.bench.scale import Scale
from tests.bench.scaled_out import ScaledOut, scaled_out
from tests.bench.storing import Stored, convert_in_store, warm_up

_STREAMED = ("dense raw", "raw with holes", "dense fixed VHD", "dynamic VHD", "streamOptimized VMDK")


def measure(scale: Scale) -> Report:
    """Each kind of image in turns, on two gateways that differ in IMAGES_COMPRESSION alone."""
    with (
        scaled_out(scale.folder / "plain") as plain,
        scaled_out(scale.folder / "zstd", settings={"IMAGES_COMPRESSION": "zstd"}) as zstd,
    ):
        for cluster in (plain, zstd):
            warm_up(cluster, scale.folder)
        figures = [figure for name in _STREAMED for figure in _figures(plain, zstd, _compressible(name), scale)]
    return Report(
        title="compression",
        how=f"As in stored_conversion, with {scale.gib:g} GiB of data in each image, half of it compressible: "
        "IMAGES_COMPRESSION=zstd against none.",
        figures=figures,
    )


def _compressible(name: str) -> Disk:
    return replace(DISKS[name], compressed=True)


def _figures(plain: ScaledOut, zstd: ScaledOut, disk: Disk, scale: Scale) -> Sequence[Figure]:
    file = write_disk(disk, scale.folder, scale.bytes_of())
    ours: list[Stored] = []
    bare: list[Stored] = []
    try:
        for _ in range(scale.rounds):
            ours.append(convert_in_store(zstd, disk, file))
            bare.append(convert_in_store(plain, disk, file))
    finally:
        file.unlink()
    return [
        _compared(disk.name, [each.seconds for each in ours], [each.seconds for each in bare], seconds),
        _compared(f"{disk.name}, processor time", list(map(_work, ours)), list(map(_work, bare)), seconds),
        _compared(
            f"{disk.name}, stored", [each.stored_size for each in ours], [each.stored_size for each in bare], mebibytes
        ),
    ]


def _work(each: Stored) -> float:
    return each.workers.processor + each.minio.processor


def _compared(what: str, ours: Sequence[float], bare: Sequence[float], shown: Callable[[float], str]) -> Figure:
    measured, against = middle(ours), middle(bare)
    return Figure(what, shown(measured), shown(against), measured / against)
