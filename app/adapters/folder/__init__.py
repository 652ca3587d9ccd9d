"""The object store in a folder, with signed URLs that the gateway itself serves."""
