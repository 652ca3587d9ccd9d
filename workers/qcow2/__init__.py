"""Reads and writes qcow2 without QEMU: headers, tables, clusters, and maps of extents."""
