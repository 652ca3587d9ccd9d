"""Billing: the ledger of stored bytes, prices, and the bills calculated from both."""
