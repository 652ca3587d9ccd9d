"""QEMU's programs, confined: qemu-img, qemu-nbd, and a client for NBD."""
