"""The GraphQL documents that the commands send; the exported schema.graphql says what their fields mean."""

IMAGE_FIELDS = """
fragment ImageFields on Image {
  id name type status visibility architecture revision protected warnings
  os { family version displayName }
  virtualSize minBootDiskGib storedSize sha256
  labels { key value }
  project { id name }
  source {
    ... on UploadSource { fileName size declaredFormat detectedFormat sha256 }
    ... on CopySource { imageName sha256 image { id } }
  }
  viewerCan { launch edit share delete }
  progress { phase percent bytesDone bytesTotal etaSeconds updatedAt }
  failure { code message hint retriable occurredAt }
  createdAt updatedAt
}
"""

PROJECTS = """
query Projects($after: String) {
  viewer { projects(first: 100, after: $after) { nodes { id name } pageInfo { hasNextPage endCursor } } }
}
"""

IMAGES = (
    """
query Images($project: ID!, $filter: ImageFilter, $order: ImageOrder, $first: Int!, $after: String) {
  images(projectId: $project, filter: $filter, orderBy: $order, first: $first, after: $after) {
    nodes { ...ImageFields }
    pageInfo { hasNextPage endCursor }
  }
}
"""
    + IMAGE_FIELDS
)

IMAGE = (
    "query Image($by: ImageLookup!) { image(by: $by) { ...ImageFields monthlyCost { amount currency } } }"
    + IMAGE_FIELDS
)

IMAGE_AND_UPLOAD = (
    """
query ImageAndUpload($by: ImageLookup!) {
  image(by: $by) { ...ImageFields upload { id size partCount receivedBytes } }
}
"""
    + IMAGE_FIELDS
)

DOWNLOAD = """
query Download($by: ImageLookup!) {
  image(by: $by) { id sha256 status download { method url headers { name value } } }
}
"""

CREATE_IMAGE = (
    """
mutation CreateImage($input: CreateImageInput!) {
  createImage(input: $input) {
    image { ...ImageFields upload { id size partCount receivedBytes } }
    userErrors { code message hint field }
  }
}
"""
    + IMAGE_FIELDS
)

COPY_IMAGE = (
    """
mutation CopyImage($input: CreateImageInput!) {
  createImage(input: $input) { image { ...ImageFields } userErrors { code message hint field } }
}
"""
    + IMAGE_FIELDS
)

MISSING_PARTS = """
query MissingParts($upload: ID!, $first: Int!, $after: String) {
  node(id: $upload) {
    ... on ImageUpload {
      state
      parts(status: MISSING, first: $first, after: $after) {
        edges { cursor node { number offset size request { method url headers { name value } } } }
        pageInfo { hasNextPage }
      }
    }
  }
}
"""

COMPLETE_UPLOAD = (
    """
mutation CompleteUpload($input: CompleteUploadInput!) {
  completeUpload(input: $input) { image { ...ImageFields } userErrors { code message hint field } }
}
"""
    + IMAGE_FIELDS
)

ABORT_UPLOAD = """
mutation AbortUpload($input: AbortUploadInput!) {
  abortUpload(input: $input) { userErrors { code message hint field } }
}
"""

DELETE_IMAGE = """
mutation DeleteImage($input: DeleteImageInput!) {
  deleteImage(input: $input) { deletedImageId cursor userErrors { code message hint field } }
}
"""

IMAGE_UNTIL_SETTLED = (
    "subscription Settling($id: ID!) { image(id: $id, untilSettled: true) { ...ImageFields } }" + IMAGE_FIELDS
)

EVENT_CURSOR = "query EventCursor { eventCursor }"

_EVENT_FIELDS = """
fragment EventFields on ImageEvent {
  __typename cursor occurredAt actor imageId
  image { id name status }
  ... on ImageStatusChanged { from to failure { code message hint retriable occurredAt } }
  ... on ImageUpdated { fields }
  ... on ImageShareChanged { state grant imageName project { id name } share { id } }
  ... on ImageDeleted { imageName }
  ... on ImageProgressed { progress { phase percent bytesDone bytesTotal etaSeconds updatedAt } }
}
"""

WATCH = (
    """
subscription Watch($project: ID!, $image: ID, $after: EventCursor, $progress: Boolean!) {
  imageEvents(projectId: $project, imageId: $image, after: $after, progress: $progress) {
    ... on ImageEvent { ...EventFields }
    ... on ResyncRequired { __typename cursor oldest }
  }
}
"""
    + _EVENT_FIELDS
)

MISSED_EVENTS = (
    """
query MissedEvents($project: ID!, $image: ID, $after: EventCursor) {
  imageEvents(projectId: $project, imageId: $image, after: $after, first: 100) {
    nodes { ...EventFields }
    pageInfo { hasNextPage endCursor }
  }
}
"""
    + _EVENT_FIELDS
)

NEWEST_EVENTS = (
    """
query NewestEvents($project: ID!, $image: ID, $last: Int!, $before: EventCursor) {
  imageEvents(projectId: $project, imageId: $image, last: $last, before: $before) {
    nodes { ...EventFields }
    pageInfo { hasPreviousPage startCursor }
  }
}
"""
    + _EVENT_FIELDS
)
