"""What storage costs: the ledger of stored bytes, the prices, and the bills worked out from both."""
