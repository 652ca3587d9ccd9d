"""The exit codes of the reader besides 0."""

# The disk could not be read to the end, because of its server.
DISK_LOST = 3
