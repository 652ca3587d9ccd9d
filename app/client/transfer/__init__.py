"""Bytes on their way: uploads and downloads in parts, resumed where they were cut off."""
