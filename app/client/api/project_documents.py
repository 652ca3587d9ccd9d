"""The GraphQL documents about projects; the exported schema.graphql says what their fields mean."""

MY_PROJECTS = """
query MyProjects($after: String) {
  viewer {
    projects(first: 100, after: $after) {
      nodes { id name viewerRole organization { id name viewerIsOwner } }
      pageInfo { hasNextPage endCursor }
    }
  }
}
"""

MEMBERS = """
query Members($project: ID!, $after: String) {
  project(id: $project) {
    members(first: 100, after: $after) { nodes { subject role } pageInfo { hasNextPage endCursor } }
  }
}
"""

SET_MEMBER = """
mutation SetMember($input: SetProjectMemberInput!) {
  setProjectMember(input: $input) { project { id name revision } userErrors { code message hint field } }
}
"""

REMOVE_MEMBER = """
mutation RemoveMember($input: RemoveProjectMemberInput!) {
  removeProjectMember(input: $input) { project { id name revision } userErrors { code message hint field } }
}
"""

_QUOTA_FIELDS = """
fragment QuotaFields on Project {
  id name revision
  quota { customImages { limit used } imageStorage { limit used reserved } snapshotsPerVolume }
}
"""

QUOTA = "query Quota($project: ID!) { project(id: $project) { ...QuotaFields } }" + _QUOTA_FIELDS

SET_QUOTA = (
    """
mutation SetQuota($input: SetProjectQuotaInput!) {
  setProjectQuota(input: $input) { project { ...QuotaFields } userErrors { code message hint field } }
}
"""
    + _QUOTA_FIELDS
)

USAGE = """
query Usage($project: ID!, $since: DateTime!, $until: DateTime!, $after: String) {
  project(id: $project) {
    id name
    usage(from: $since, to: $until) {
      from to gibHours cost { amount currency }
      byImage(first: 100, after: $after) {
        nodes { imageName image { id } gibHours cost { amount currency } }
        pageInfo { hasNextPage endCursor }
      }
    }
  }
}
"""
