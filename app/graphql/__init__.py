"""The GraphQL side of the gateway.

`transport` takes operations in, `limits` holds them within bounds, `execution` runs them and `masking` says
what is shown of their errors; these four know nothing of images. The rest is the schema.
"""
