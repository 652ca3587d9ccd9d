"""The jobs: what becomes of an uploaded disk image between its last byte and ACTIVE."""
