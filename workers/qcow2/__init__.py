"""qcow2 written and read by ourselves: headers, tables, clusters, and maps of extents."""
