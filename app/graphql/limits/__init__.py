"""What a document may ask for: its shape, its size, its cost, and introspection."""
