"""How processes of the gateway wake each other: job queues and wake-ups, local or over Redis."""
