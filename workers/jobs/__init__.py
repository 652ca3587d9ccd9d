"""Runs the jobs: claims them, does them under a lease, reports progress; and runs the periodic sweeps."""
