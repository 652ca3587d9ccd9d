"""Conversions within an S3 store: neither source nor result is copied to the worker's disk."""
