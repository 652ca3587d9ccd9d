"""Attacks and legitimate use of a gateway at the same time: what the one does to the other. Run by `make soak`."""
