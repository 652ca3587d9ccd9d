"""Conversions within an S3 store: no copy of the source or the result touches the worker's disk."""
