"""The operators' commands: run the gateway or its parts, migrate, check and repair."""
