"""A detail of each kind of job, for tests that do not use it."""

from app.catalog.work.kinds import (
    Assemble,
    CaptureVolume,
    CheckReadiness,
    Convert,
    Erase,
    Hash,
    InspectHead,
    ReadConsole,
    SettleServer,
    SettleVolume,
    StreamRange,
    VerifyBoot,
    every_kind,
)
from app.lifecycle import JobKind

DETAILS = every_kind(
    {
        JobKind.INSPECT_HEAD: InspectHead(source="src_x"),
        JobKind.CONVERT: Convert(source="src_x"),
        JobKind.STREAM_RANGE: StreamRange(source="src_x", shared={"reference": "r", "cuts": [0, 1]}, range=0),
        JobKind.ASSEMBLE: Assemble(source="src_x", shared={"reference": "r", "cuts": [0, 1]}),
        JobKind.HASH: Hash(blob="blb_x"),
        JobKind.CHECK_READINESS: CheckReadiness(blob="blb_x"),
        JobKind.ERASE: Erase(),
        JobKind.SETTLE_SERVER: SettleServer(server="srv_x"),
        JobKind.SETTLE_VOLUME: SettleVolume(volume="vol_x"),
        JobKind.VERIFY_BOOT: VerifyBoot(blob="blb_x"),
        JobKind.READ_CONSOLE: ReadConsole(server="srv_x"),
        JobKind.CAPTURE: CaptureVolume(image="img_x", volume="vol_x", key="blobs/x"),
    }
)
