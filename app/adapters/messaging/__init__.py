"""How processes of the gateway wake one another: job queues and wake-ups, local or over Redis."""
