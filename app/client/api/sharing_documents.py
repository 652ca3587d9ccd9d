"""The GraphQL documents about shares of images; the exported schema.graphql says what their fields mean."""

SHARE_FIELDS = """
fragment ShareFields on ImageShare {
  id grant state revision sharedBy imageName image { id } project { id name } createdAt updatedAt
}
"""

SHARES = (
    """
query Shares($image: ID!, $after: String) {
  image(by: {id: $image}) {
    shares(first: 100, after: $after) { nodes { ...ShareFields } pageInfo { hasNextPage endCursor } }
  }
}
"""
    + SHARE_FIELDS
)

OFFERS = (
    """
query Offers($project: ID!, $after: String) {
  project(id: $project) {
    shareOffers(first: 100, after: $after) { nodes { ...ShareFields } pageInfo { hasNextPage endCursor } }
  }
}
"""
    + SHARE_FIELDS
)

SHARE_IMAGE = (
    """
mutation ShareImage($input: ShareImageInput!) {
  shareImage(input: $input) { share { ...ShareFields } userErrors { code message hint field } }
}
"""
    + SHARE_FIELDS
)

UPDATE_SHARE = (
    """
mutation UpdateShare($input: UpdateImageShareInput!) {
  updateImageShare(input: $input) { share { ...ShareFields } userErrors { code message hint field } }
}
"""
    + SHARE_FIELDS
)

REVOKE_SHARE = """
mutation RevokeShare($input: RevokeImageShareInput!) {
  revokeImageShare(input: $input) { revokedShareId cursor userErrors { code message hint field } }
}
"""

ACCEPT_SHARE = (
    """
mutation AcceptShare($input: AcceptImageShareInput!) {
  acceptImageShare(input: $input) { share { ...ShareFields } userErrors { code message hint field } }
}
"""
    + SHARE_FIELDS
)

DECLINE_SHARE = (
    """
mutation DeclineShare($input: DeclineImageShareInput!) {
  declineImageShare(input: $input) { share { ...ShareFields } userErrors { code message hint field } }
}
"""
    + SHARE_FIELDS
)
