"""Adapters to the outside world, one per file and port."""
