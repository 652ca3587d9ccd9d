"""Conversions in a folder, where the source itself may become the result."""
