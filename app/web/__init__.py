"""What the gateway serves over HTTP besides GraphQL."""
