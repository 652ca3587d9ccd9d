"""Connections of the API: how large a request head may be, how long it may take, how many clients there may be.

docs/http-server.md explains the limits and the choice of the parser.
"""
