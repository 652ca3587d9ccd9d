"""Audits of the code, of what it depends on, and of what must not be in it. Run by `make audit`."""
