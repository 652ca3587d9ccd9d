"""The use cases, one file each. They know rows and ports; nothing of GraphQL, HTTP, Dramatiq or a store's kind."""
