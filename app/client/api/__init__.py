"""Calls the gateway's GraphQL API: requests, lists and the event stream."""
