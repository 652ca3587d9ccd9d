"""Servers and their volumes: what users request, which host runs them, and what the hosts report."""
