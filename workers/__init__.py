"""The workers' jobs: they turn an uploaded disk image into an ACTIVE one."""
