"""Measurements of speed and memory, each as a ratio to something measured in the same run. Run by `make bench`."""
