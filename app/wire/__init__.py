"""Connections of the API: limits on the size and time of request heads, and on the number of clients.

docs/http-server.md explains the limits and the choice of the parser.
"""
