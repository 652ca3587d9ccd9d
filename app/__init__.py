"""The image gateway: catalogue, uploads, feed and the GraphQL API over them."""
