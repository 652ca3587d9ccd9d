"""The GraphQL side of the gateway.

`transport` receives operations and runs them, `limits` bounds them, `admission` limits each caller, and `masking`
decides what their errors show; these four don't know images. The rest is the schema.
"""
