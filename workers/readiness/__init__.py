"""Reads what the disk in a stored image holds, confined: whether it is ready to boot as a server."""
