"""Stores a point in time of a volume as a complete image: the base's data stays in the store, the rest is read."""
