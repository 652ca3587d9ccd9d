"""The steps of every conversion, in any store: examine the source, plan the way, verify the result."""
