"""Snapshots of volumes, and images of servers: requested by users, captured by hosts, and limited in number."""
