"""The object types of the schema, by subject. Their docstrings are not shown to clients; descriptions are."""
