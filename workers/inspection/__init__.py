"""Detects a file's real format and checks that it is safe to convert, from its bytes alone. One module per format."""
