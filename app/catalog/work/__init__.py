"""Work for the workers: jobs under leases, and which project's conversion goes next."""
