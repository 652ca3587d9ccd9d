"""GraphQL over HTTP, server-sent events, multipart and WebSockets, for any schema."""
