"""The jobs: claimed, carried out under a lease, reported on; and what runs by the clock."""
