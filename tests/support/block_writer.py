"""A guest in one boot sector that overwrites its second disk, block by block, again and again.

It starts in a fraction of a second. It writes one block at a time, each in one request to the
disk, when the one before it is done. All words of a block are its number: 1, 2, 3, … So the bytes of a disk show which
blocks had been written when they were read. After each window of blocks, the guest writes a line to its serial port:
the number of its last block, the ticks that the window took, and the ticks between those two blocks in a row that were
furthest apart. They include whatever kept the guest from running, or its disk from answering.

It drives the disk, a transitional device of virtio (specification 1.1, 2.6.2 and 4.1.4.8) with a queue of 256 entries,
itself. The BIOS would poll a clock until a block is written, which keeps QEMU from writing it.
"""

import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BLOCK = 64 << 10
_BOOT_DISK = 1 << 20
_SECTOR = 512
_SIGNATURE = b"\x55\xaa"
# Where the BIOS loads a boot sector.
_ORIGIN = 0x7C00
# The timer of the ACPI power management of QEMU's q35, below its base 0x600 (ACPI specification, 4.8.3.3).
_TICKS_PER_SECOND = 3_579_545
_NUMBERS = 3

# Machine code of the 8086 with 32-bit registers. [name] is an address, ~name and >name are distances in 1 and 2 bytes.
# Everything that is written is in other pages than the code, which QEMU would have to translate again otherwise.
_CODE = """
            fc                      ; cld
            b8 00 20                ; mov ax, 0x2000       the queue, the variables, and the stack
            8e d8                   ; mov ds, ax
            8e c0                   ; mov es, ax
            8e d0                   ; mov ss, ax
            bc 00 40                ; mov sp, 0x4000
            31 ff                   ; xor di, di
            31 c0                   ; xor ax, ax
            b9 00 20                ; mov cx, 0x2000
            f3 ab                   ; rep stosw
            be [descriptors]        ; mov si, descriptors
            31 ff                   ; xor di, di
            b9 18 00                ; mov cx, 24
            2e f3 a5                ; rep movsw cs:
            c6 06 [request] 01      ; mov byte [request], 1        write
            fa                      ; cli                  until it waits for a block
            31 c0                   ; xor ax, ax
            8e c0                   ; mov es, ax
            b8 [handler]            ; mov ax, handler      of IRQs 10 and 11, which PCI devices have
            26 a3 c8 01             ; mov es:[0x72 * 4], ax
            26 a3 cc 01             ; mov es:[0x73 * 4], ax
            31 c0                   ; xor ax, ax
            26 a3 ca 01             ; mov es:[0x72 * 4 + 2], ax
            26 a3 ce 01             ; mov es:[0x73 * 4 + 2], ax
            e4 a1                   ; in al, 0xa1
            24 f3                   ; and al, 0xf3
            e6 a1                   ; out 0xa1, al
            b8 00 10                ; mov ax, 0x1000       the block
            8e c0                   ; mov es, ax
            66 bb 00 00 00 80       ; mov ebx, 0x80000000  devices on the PCI bus 0
            b9 02 00                ; mov cx, 2
find:       66 81 c3 00 08 00 00    ; add ebx, 0x800
            66 89 d8                ; mov eax, ebx
            ba f8 0c                ; mov dx, 0xcf8
            66 ef                   ; out dx, eax
            b2 fc                   ; mov dl, 0xfc
            66 ed                   ; in eax, dx
            66 3d f4 1a 01 10       ; cmp eax, 0x10011af4  a virtio disk
            75 ~find                ; jne find
            e2 ~find                ; loop find
            66 89 d8                ; mov eax, ebx
            b0 10                   ; mov al, 0x10         its I/O ports
            b2 f8                   ; mov dl, 0xf8
            66 ef                   ; out dx, eax
            b2 fc                   ; mov dl, 0xfc
            66 ed                   ; in eax, dx
            24 fc                   ; and al, 0xfc
            89 c5                   ; mov bp, ax
            8d 56 12                ; lea dx, [bp + 18]    status: reset, then a driver is here
            30 c0                   ; xor al, al
            ee                      ; out dx, al
            b0 03                   ; mov al, 3
            ee                      ; out dx, al
            66 31 c0                ; xor eax, eax
            8d 56 04                ; lea dx, [bp + 4]     no features
            66 ef                   ; out dx, eax
            8d 56 0e                ; lea dx, [bp + 14]    queue 0
            ef                      ; out dx, ax
            8d 56 08                ; lea dx, [bp + 8]     its page
            b0 20                   ; mov al, 0x20
            66 ef                   ; out dx, eax
            8d 56 12                ; lea dx, [bp + 18]    the driver is ready
            b0 07                   ; mov al, 7
            ee                      ; out dx, al
window:     2e 8b 0e [blocks]       ; mov cx, cs:[blocks]
            89 0e [left]            ; mov [left], cx
            e8 >tick                ; call tick
            66 31 c0                ; xor eax, eax
            66 a3 [elapsed]         ; mov [elapsed], eax
            66 a3 [longest]         ; mov [longest], eax
block:      66 ff 06 [number]       ; inc dword [number]
            66 a1 [number]          ; mov eax, [number]
            31 ff                   ; xor di, di
            b9 00 40                ; mov cx, 0x4000
            66 f3 ab                ; rep stosd
            ff 06 02 10             ; inc word [available + 2]
            8d 56 10                ; lea dx, [bp + 16]    notify queue 0
            31 c0                   ; xor ax, ax
            ef                      ; out dx, ax
            a1 02 10                ; mov ax, [available + 2]
wait:       3b 06 02 20             ; cmp ax, [used + 2]
            74 ~written             ; je written
            fb                      ; sti
            f4                      ; hlt
            fa                      ; cli
            eb ~wait                ; jmp wait
written:    80 3e [status] 00       ; cmp byte [status], 0
            75 ~stop                ; jne stop
            66 a1 [sector]          ; mov eax, [sector]
            66 05 80 00 00 00       ; add eax, 128
            2e 66 3b 06 [sectors]   ; cmp eax, cs:[sectors]
            72 ~inside              ; jb inside
            66 31 c0                ; xor eax, eax
inside:     66 a3 [sector]          ; mov [sector], eax
            e8 >tick                ; call tick
            ff 0e [left]            ; dec word [left]
            75 ~block               ; jnz block
            66 a1 [number]          ; mov eax, [number]
            e8 >print               ; call print
            66 a1 [elapsed]         ; mov eax, [elapsed]
            e8 >print               ; call print
            66 a1 [longest]         ; mov eax, [longest]
            e8 >print               ; call print
            b0 0a                   ; mov al, 10
            e8 >put                 ; call put
            e9 >window              ; jmp window
stop:       f4                      ; hlt
            eb ~stop                ; jmp stop
handler:    50                      ; push ax
            52                      ; push dx
            8d 56 13                ; lea dx, [bp + 19]    reading this ends the interrupt
            ec                      ; in al, dx
            b0 20                   ; mov al, 0x20
            e6 a0                   ; out 0xa0, al
            e6 20                   ; out 0x20, al
            5a                      ; pop dx
            58                      ; pop ax
            cf                      ; iret
tick:       ba 08 06                ; mov dx, 0x608        the timer counts up, in 24 bits
            66 ed                   ; in eax, dx
            66 89 c3                ; mov ebx, eax
            66 2b 06 [last]         ; sub eax, [last]
            66 89 1e [last]         ; mov [last], ebx
            66 25 ff ff ff 00       ; and eax, 0xffffff
            66 01 06 [elapsed]      ; add [elapsed], eax
            66 3b 06 [longest]      ; cmp eax, [longest]
            76 ~shorter             ; jbe shorter
            66 a3 [longest]         ; mov [longest], eax
shorter:    c3                      ; ret
print:      b9 08 00                ; mov cx, 8            eight hexadecimal digits and a space
digit:      66 c1 c0 04             ; rol eax, 4
            50                      ; push ax
            24 0f                   ; and al, 15
            04 30                   ; add al, '0'
            3c 39                   ; cmp al, '9'
            76 ~decimal             ; jbe decimal
            04 27                   ; add al, 'a' - '9' - 1
decimal:    e8 >put                 ; call put
            58                      ; pop ax
            e2 ~digit               ; loop digit
            b0 20                   ; mov al, ' '
put:        88 c4                   ; mov ah, al
            ba fd 03                ; mov dx, 0x3fd
full:       ec                      ; in al, dx
            a8 20                   ; test al, 0x20
            74 ~full                ; jz full
            88 e0                   ; mov al, ah
            ba f8 03                ; mov dx, 0x3f8
            ee                      ; out dx, al
            c3                      ; ret
descriptors:
            [request] 02 00 00 00 00 00  10 00 00 00  01 00 01 00   ; 16 bytes of the request, then
            00 00 01 00 00 00 00 00  00 00 01 00  01 00 02 00   ; 64 KiB of the block, then
            [status] 02 00 00 00 00 00  01 00 00 00  02 00 00 00   ; 1 byte, written by the device
sectors:    {sectors}
blocks:     {blocks}
"""
# In the segment 0x2000, where the queue has its descriptors at 0, `available` at 0x1000, and `used` at 0x2000.
_VARIABLES = {
    **{"number": 0x3000, "elapsed": 0x3004, "longest": 0x3008, "last": 0x300C},
    **{"request": 0x3010, "sector": 0x3018, "status": 0x3020, "left": 0x3022},
}


@dataclass(frozen=True, slots=True)
class Window:
    """A window: the number of its last block, its seconds, and the most seconds that passed between two blocks."""

    number: int
    seconds: float
    longest: float


def write_boot_disk(path: Path, size: int, window: int) -> None:
    """Write the boot disk, a qcow2 file, of a guest that overwrites a second disk of `size` bytes.

    Both `size`, a multiple of BLOCK, and the blocks of a `window` are part of its program.
    """
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        file.write(_boot_sector(size // _SECTOR, window))
        file.truncate(_BOOT_DISK)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(raw), str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    raw.unlink()
    path.chmod(0o444)


def windows(console: bytes) -> list[Window]:
    """The windows that a guest has reported, as far as they are in this part of its console."""
    return list(_windows(console))


def content(number: int, size: int) -> bytes:
    """The bytes of a disk of zeros after block `number` has been written, and none after it."""
    blocks = size // BLOCK
    newest = (number - 1) % blocks
    numbers = (number - newest + index - (blocks if index > newest else 0) for index in range(blocks))
    return b"".join(struct.pack("<I", max(0, each)) * (BLOCK // 4) for each in numbers)


def newest(disk: bytes) -> int:
    """The highest number that a block of a disk begins with."""
    return max(int(struct.unpack_from("<I", disk, offset)[0]) for offset in range(0, len(disk), BLOCK))


def _windows(console: bytes) -> Iterator[Window]:
    # The first line may be cut off, and the last one is not finished.
    for line in console.split(b"\n")[:-1]:
        fields = line.split()
        if len(fields) == _NUMBERS and all(len(field) == 8 for field in fields):
            number, elapsed, longest = (int(field, 16) for field in fields)
            yield Window(number, elapsed / _TICKS_PER_SECOND, longest / _TICKS_PER_SECOND)


def _boot_sector(sectors: int, window: int) -> bytes:
    numbers = {"sectors": struct.pack("<I", sectors), "blocks": struct.pack("<H", window)}
    program = _assembled(_CODE.format(**{name: value.hex(" ") for name, value in numbers.items()}))
    return program.ljust(_SECTOR - len(_SIGNATURE), b"\0") + _SIGNATURE


def _assembled(code: str) -> bytes:
    """The bytes of a program, with its addresses and distances filled in."""
    labels = dict(_VARIABLES)
    tokens: list[tuple[int, str]] = []
    place = _ORIGIN
    for line in code.splitlines():
        for token in line.partition(";")[0].split():
            if token.endswith(":"):
                labels[token[:-1]] = place
            else:
                tokens.append((place, token))
                place += 2 if token[0] in "[>" else 1
    return b"".join(_bytes(token, place, labels) for place, token in tokens)


def _bytes(token: str, place: int, labels: Mapping[str, int]) -> bytes:
    if token.startswith("["):
        return struct.pack("<H", labels[token[1:-1]])
    if token.startswith(">"):
        return struct.pack("<h", labels[token[1:]] - place - 2)
    if token.startswith("~"):
        return struct.pack("<b", labels[token[1:]] - place - 1)
    return bytes.fromhex(token)
