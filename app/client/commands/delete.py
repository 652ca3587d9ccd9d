"""`images delete`"""

from app.client.api.advice import advising
from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.commands import options
from app.client.commands.confirming import confirm, require_answer
from app.client.commands.session import command, run, session
from app.client.commands.show import Image, found_image
from app.client.generated.delete_image import DeleteImageDeleteImage
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import DeleteImageInput


def delete(
    image: Image,
    yes: options.Yes = False,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete an image and free its storage."""
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        require_answer(output, yes=yes)
        found = run(found_image(where, image))
        confirm(output, f"{found.name} ({found.id}, {found.status})", yes=yes)
        payload = run(_deleted(where, found))
        if as_json:
            output.json({"deletedImageId": payload.deleted_image_id, "cursor": payload.cursor})
        else:
            output.line(f"{found.name} is deleted: {found.id}")


async def _deleted(connection: Connection, image: ImageFields) -> DeleteImageDeleteImage:
    async with session(connection) as at:
        # The image may have changed since it was shown, for a reason to keep it.
        given = DeleteImageInput(image_id=image.id, expected_revision=image.revision)
        with advising({}, {"IN_USE": "Delete those images first with `images delete`."}):
            return present((await at.api.delete_image(given)).delete_image)
