"""What a serial console shows: signs that a guest has booted."""

import pytest

from app.catalog.servers.console_text import clean
from app.lifecycle import BootSign
from workers.jobs.boot_signs import excerpt, sign_in

PROMPT, ENDED = BootSign.LOGIN_PROMPT, BootSign.CLOUD_INIT
FINAL = (
    "Cloud-init v. 24.1.3 finished at Mon, 30 Nov 2026 10:00:00 +0000. Datasource DataSourceNoCloud.  Up 9.12 seconds"
)


@pytest.mark.parametrize(
    ("console", "sign"),
    [
        (b"Debian GNU/Linux 12 web ttyS0\r\n\r\nweb login: ", PROMPT),
        (b"\r\nUbuntu 24.04 LTS web ttyS0\r\n\r\nweb login: [   12.3] random: crng init done\r\nweb login: ", PROMPT),
        (b"\x1b[2J\x1b[1;1H\x1b]0;title\x07Rocky Linux 9\r\nweb\x1b[0m \x1b[1mlogin:\x1b[0m ", PROMPT),
        (b"FreeBSD/amd64 (web) (ttyu0)\r\n\r\nlogin: ", PROMPT),
        (f"[    9.1] cloud-init[612]: {FINAL}\r\n".encode(), ENDED),
        (b"[\x1b[0;32m  OK  \x1b[0m] Reached target \x1b[0;1;39mcloud-init.target\x1b[0m.\r\n", ENDED),
        (b"2026-11-30 10:00:00.000 1234 INFO cloudbaseinit.init [-] Plugins execution done\r\n", ENDED),
        (b"", None),
        (b"SeaBIOS (version 1.16.2)\r\nBooting from Hard Disk...\r\n", None),
        (b"Last login: Mon Nov 30 on ttyS0\r\nthe login: it will come\r\n", None),
        (b"tiny: no root device found\r\nreboot: Power down\r\n", None),
        (b"Cloud-init v. 24.1.3 running 'init-local' at Mon, 30 Nov 2026\r\n", None),
    ],
)
def test_a_guest_that_has_booted_is_recognized(console: bytes, sign: BootSign | None) -> None:
    assert sign_in(clean(console)) is sign


def test_an_excerpt_is_the_end_in_whole_lines() -> None:
    lines = "\n".join(f"line {number}" for number in range(2000))
    assert excerpt(f"\n{lines}\n\n") == lines[lines.index("line 1600") :]
    assert excerpt("x" * 9000) == "x" * 4000
    assert excerpt("  web login: \n") == "web login:"
