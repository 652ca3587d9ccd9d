"""The client that `make client` generates from schema.graphql and the documents; never edited by hand."""
