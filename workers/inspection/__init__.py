"""What a file really is, and whether it is safe to convert: one module for each format, on its bytes alone."""
