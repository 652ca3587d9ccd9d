"""What has to come of a made-up image: the disk that was written, or, of a damaged file, the one that QEMU reads."""

from pathlib import Path

from app.errors import ImageFailed
from app.lifecycle import DiskFormat
from tests.fuzz.built import Built
from tests.fuzz.places import Place, as_raw

# How QEMU reads each format. Of a VHD, QEMU 7.2 has two sizes: by itself, it takes that of the geometry from all
# creators but a few, and cuts off the disks of VirtualBox and Azure, whose geometry is smaller (see formats/vhd.py).
_OPENINGS = {
    DiskFormat.QCOW2: ["driver=qcow2"],
    DiskFormat.RAW: ["driver=raw"],
    DiskFormat.VHD: ["driver=vpc", "driver=vpc,force_size_calc=current_size"],
    DiskFormat.VHDX: ["driver=vhdx"],
    DiskFormat.VMDK: ["driver=vmdk"],
}


def judge(place: Place, built: Built, file: bytes, folder: Path) -> str:
    """Convert a file that was made as `built`, and perhaps damaged; returns what came of it in a word.

    Raises AssertionError where the result is wrong, or an image is refused that was not damaged.
    """
    whole = file == built.file
    try:
        made, result = place.convert(file, built.format)
    except ImageFailed as failure:
        if whole:
            raise AssertionError(f"refused: {failure.code} {failure.message}") from failure
        return failure.code
    disk = as_raw(result, "driver=qcow2")
    image = folder / "image.source"
    image.write_bytes(file)
    readings = [as_raw(image, options) for options in _OPENINGS[built.format]]
    if whole:
        assert disk == built.disk, "another disk than was written"
        assert bool(made.warnings) == built.miscounted, made.warnings
        assert disk in readings, "QEMU reads another disk"
    # Damage may have done no harm, and QEMU refuse the file all the same.
    assert disk in [*readings, built.disk], "neither what was written nor what QEMU reads"
    return made.way
