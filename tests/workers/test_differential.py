"""Whatever image is made up and damaged: what becomes ACTIVE is the disk that was written, or that QEMU reads.

`make fuzz MINUTES=10` does the same for longer.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.built import Built
from tests.fuzz.damage import whole_or_damaged
from tests.fuzz.places import FolderPlace, store_place
from tests.fuzz.verdict import judge
from tests.servers.minio import Minio

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd")

few = settings(
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def test_what_is_converted_in_a_folder_is_the_disk_that_was_written(tmp_path: Path) -> None:
    place = FolderPlace(tmp_path / "store")

    @few
    @given(whole_or_damaged())
    def judged(case: tuple[Built, bytes]) -> None:
        judge(place, *case, tmp_path)

    judged()


def test_what_is_converted_in_a_store_is_the_disk_that_was_written(minio: Minio, tmp_path: Path) -> None:
    with store_place(minio, tmp_path / "bench") as place:

        @few
        @given(whole_or_damaged())
        def judged(case: tuple[Built, bytes]) -> None:
            judge(place, *case, tmp_path)

        judged()
