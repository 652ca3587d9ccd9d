"""Relay's Node."""

import strawberry


@strawberry.interface(description="Anything that has an id of its own, and can be read again by it.")
class Node:
    id: strawberry.ID = strawberry.field(description="An opaque, global id.")
