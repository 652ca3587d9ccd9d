"""How a conversion is split among several workers, and under which keys they record their ranges."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from app.lifecycle import DiskFormat
from workers.limits import PartRules


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """How a conversion is split: the plan that all its workers share.

    `reference` is that of the open upload. Range `n` of the disk is from cluster `cuts[n]` up to, but not including,
    cluster `cuts[n + 1]`. Sizes are bytes.
    """

    reference: str
    cuts: tuple[int, ...]
    virtual_size: int
    cluster_size: int
    compress: bool
    detected_format: DiskFormat
    warnings: tuple[str, ...]

    @property
    def count(self) -> int:
        """The number of ranges."""
        return len(self.cuts) - 1

    def numbers(self, index: int, rules: PartRules) -> range:
        """The part numbers of a range; the first part belongs to no range."""
        each = (rules.count - 1) // self.count
        return range(2 + index * each, 2 + (index + 1) * each)

    def bytes_of(self, index: int) -> int:
        """The size of a range, in bytes of the disk."""
        return min(self.cuts[index + 1] * self.cluster_size, self.virtual_size) - self.cuts[index] * self.cluster_size

    def key(self, result_key: str, index: int) -> str:
        """The key of a range's record."""
        return f"{ranges_prefix(result_key)}{self._digest}-{index}"

    @property
    def _digest(self) -> str:
        # Keeps two attempts at one image from using each other's ranges.
        return hashlib.sha256(self.reference.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """The plan as it is stored in the rows of jobs."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "SplitPlan":
        """Read the result of `as_json`."""
        lists = {"cuts": tuple(found["cuts"]), "warnings": tuple(found["warnings"])}
        return cls(**{**found, **lists, "detected_format": DiskFormat(found["detected_format"])})


def ranges_prefix(result_key: str) -> str:
    """Key prefix for a result's range records."""
    return f"{result_key}.range-"
