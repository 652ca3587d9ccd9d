"""IAM policies for the gateway's two keys in a bucket.

Source: "Actions, resources, and condition keys for Amazon S3" in the AWS Service Authorization Reference; MinIO accepts
the same policies. docs/signed-urls.md explains them and shows them for other stores.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.object_keys import BLOBS, UPLOADS
from app.s3_address import S3Address

Policy = Mapping[str, Any]

# MinIO accepts actions only in this spelling, Amazon in any case. Only `images migrate` sets CORS rules.
_IN_BUCKET = (
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
    "s3:GetBucketVersioning",
    "s3:GetBucketCors",
    "s3:PutBucketCors",
)
_ON_OBJECTS = (
    "s3:GetObject",
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)


def gateway_policy(address: S3Address) -> Policy:
    """The policy of the key in IMAGES_OBJECT_STORE: read and write uploads and blobs below the address."""
    return _policy(
        (_IN_BUCKET, [f"arn:aws:s3:::{address.bucket}"]),
        (_ON_OBJECTS, [uploads_resource(address), _objects(address, BLOBS)]),
    )


def upload_policy(address: S3Address) -> Policy:
    """The policy of the key that signs part URLs: send parts of uploads below the address, and read nothing.

    The holder of a part URL can add unsigned headers, including `x-amz-copy-source`: the store then reads any object
    that this key may read.
    """
    return _policy((("s3:PutObject",), [uploads_resource(address)]))


def uploads_resource(address: S3Address) -> str:
    """All uploads below the address, as the resource of a policy."""
    return _objects(address, UPLOADS)


def _objects(address: S3Address, folder: str) -> str:
    return f"arn:aws:s3:::{address.bucket}/{address.prefix}{folder}*"


def _policy(*granted: tuple[Sequence[str], Sequence[str]]) -> Policy:
    statements = [{"Effect": "Allow", "Action": [*actions], "Resource": [*resources]} for actions, resources in granted]
    return {"Version": "2012-10-17", "Statement": statements}
