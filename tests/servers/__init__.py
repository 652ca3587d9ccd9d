"""Real servers for tests: each runs in a folder of its own, on a free port, and is stopped by its process id."""
