"""What every conversion does, whatever the store: examine the source, plan its way, verify the result."""
