"""The use cases, one file each. They use rows and ports, but not GraphQL, HTTP, Dramatiq or a particular store."""
