"""Limits on documents: their shape, size and cost, and introspection."""
