"""Runs virtual machines, and takes points in time of their volumes."""
