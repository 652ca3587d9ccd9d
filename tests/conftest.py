"""What all tests share: how a test says which programs of the machine it needs."""

import os
import shutil

import pytest

# Program and the Debian package that brings it.
PACKAGES = {
    "bwrap": "bubblewrap",
    "chromium": "chromium",
    "node": "nodejs",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-nbd": "qemu-utils",
}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "needs_program(*names): skips where one of the programs is not on PATH; fails there when CI is true",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    needed = [name for marker in item.iter_markers("needs_program") for name in marker.args]
    missing = [name for name in needed if shutil.which(name) is None]
    if not missing:
        return
    packages = " ".join(sorted({PACKAGES[name] for name in missing}))
    reason = f"needs {', '.join(missing)}: apt-get install {packages}"
    # A continuous integration that skips shows green for what it never tried.
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
