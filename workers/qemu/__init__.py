"""Runs QEMU's programs confined: qemu-img and qemu-nbd, with a client for NBD."""
