"""The gateway's GraphQL API as the commands call it: requests, lists and the event stream."""
