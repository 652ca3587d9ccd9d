"""The object types of the schema, by subject. Clients see their descriptions, not their docstrings."""
