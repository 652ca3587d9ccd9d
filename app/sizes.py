"""Binary units of sizes, and sizes and counts in messages for people."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def spelled(size: int) -> str:
    """A size in bytes for people, rounded to a tenth of its unit: `640 KiB`, `1.5 TiB`, `1 byte`."""
    power = min(max(0, size.bit_length() - 1) // 10, len(_UNITS) - 1)
    return "1 byte" if size == 1 else f"{round(size / (1 << 10 * power), 1):,g} {_UNITS[power]}"


def exactly(size: int) -> str:
    """A size in bytes for people, not rounded: `4 MiB`, or `4,193,792 bytes` where no unit fits."""
    for power in range(len(_UNITS) - 1, 0, -1):
        unit = 1 << 10 * power
        if size and size % unit == 0:
            return f"{size // unit:,} {_UNITS[power]}"
    return counted(size, "byte")


def counted(number: float, noun: str) -> str:
    """A number of things for people: `1 part`, `10,000 parts`, `0.5 seconds`. The plural of `noun` must end in -s."""
    digits = f"{number:,}" if isinstance(number, int) else f"{number:,g}"
    return f"{digits} {noun}{'' if number == 1 else 's'}"
