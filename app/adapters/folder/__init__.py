"""The object store in a folder, with signed addresses that the gateway itself serves."""
