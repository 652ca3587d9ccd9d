"""Conversions in a folder, where the source file itself may become the result."""
