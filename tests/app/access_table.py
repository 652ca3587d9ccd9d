"""Who may do what, as tables: every operation of the schema, for everybody who could call, on three kinds of images.

Columns are the callers, in this order (see CALLERS):

    home            READER, MEMBER and ADMIN of the project that the image is of; the ADMIN administers `aside` too
    launching       the same of a project of the same organization, to which a share gives LAUNCH; likewise
    editing         the same of one to which a share gives LAUNCH_AND_EDIT; likewise
    asked           MEMBER and ADMIN of one that is offered a share, and has yet to answer
    outside         nobody (no token), a stranger (a token, and no membership), and an ADMIN of another organization
    above           the owner of the organization of `home`, and an operator

Kinds of images are the tables:

    own             of `home`, and shared with nobody: foreign to `launching`, `editing` and `asked`
    shared          of `home`, and shared with `launching` and `editing`, and offered to `asked`
    foreign         of `abroad`, a project of another organization, which the last of `outside` administers

What may not be seen is answered word for word as what does not exist: `-`, `n`, `0` and `O` are compared with that.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.lifecycle import ProjectRole
from app.settings import GIB
from tests.app.gateway import OPERATOR

READER, MEMBER, ADMIN = ProjectRole.READER, ProjectRole.MEMBER, ProjectRole.ADMIN


@dataclass(frozen=True)
class Caller:
    """Who calls: by the `sub` of their token, and what they are in the project that counts as their own."""

    subject: str | None
    place: str = "home"
    role: ProjectRole | None = None


CALLERS = {
    "reader": Caller("reader", "home", READER),
    "member": Caller("member", "home", MEMBER),
    "admin": Caller("admin", "home", ADMIN),
    "launch reader": Caller("launch-reader", "launching", READER),
    "launch member": Caller("launch-member", "launching", MEMBER),
    "launch admin": Caller("launch-admin", "launching", ADMIN),
    "edit reader": Caller("edit-reader", "editing", READER),
    "edit member": Caller("edit-member", "editing", MEMBER),
    "edit admin": Caller("edit-admin", "editing", ADMIN),
    "asked member": Caller("asked-member", "asked", MEMBER),
    "asked admin": Caller("asked-admin", "asked", ADMIN),
    "anonymous": Caller(None),
    "stranger": Caller("stranger"),
    "admin of another organization": Caller("abroad-admin", "abroad", ADMIN),
    "owner of the organization": Caller("owner"),
    "operator": Caller(OPERATOR),
}

# ---------------------------------------------------------------- reading
#
#   +  it is seen                               0  nothing of it is in the list, as of what does not exist
#   -  NOT_FOUND, as what does not exist        .  null: of what is seen, this is kept from them
#   ?  UNAUTHENTICATED                          other words are what is seen (see `show` in READS)

READING = {
    "own": """
    image by id                                | + + + | - - - | - - - | - - | ? - - | + +
    image by name, in its project              | + + + | - - - | - - - | - - | ? - - | + +
    image by name, in one's own project        | + + + | - - - | - - - | - - | ? - - | + +
    node of an image                           | + + + | - - - | - - - | - - | ? - - | + +
    nodes                                      | + + + | - - - | - - - | - - | ? - - | + +
    images of its project                      | + + + | - - - | - - - | - - | ? - - | + +
    images of one's own project                | + + + | 0 0 0 | 0 0 0 | 0 0 | ? - 0 | + +
    imageEvents of its project                 | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of its project, backward       | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of one's own project           | + + + | 0 0 0 | 0 0 0 | 0 0 | ? - 0 | + +
    imageEvents of one's own project, backward | + + + | 0 0 0 | 0 0 0 | 0 0 | ? - 0 | + +
    viewerCan of an image                      | no LED LESD | - - - | - - - | - - | ? - - | LESD LESD
    project of an image                        | + + + | - - - | - - - | - - | ? - - | + +
    shares of an image                         | + + + | - - - | - - - | - - | ? - - | + +
    download of an image                       | + + + | - - - | - - - | - - | ? - - | + +
    source of an image                         | + + + | - - - | - - - | - - | ? - - | + +
    node of an upload                          | + + + | - - - | - - - | - - | ? - - | + +
    upload of an image                         | + + + | - - - | - - - | - - | ? - - | + +
    request of a part of an upload             | . + + | - - - | - - - | - - | ? - - | + +
    project                                    | + + + | - - - | - - - | - - | ? - - | + +
    node of a project                          | + + + | - - - | - - - | - - | ? - - | + +
    quota of a project                         | + + + | - - - | - - - | - - | ? - - | + +
    members of a project                       | + + + | - - - | - - - | - - | ? - - | + +
    shareOffers of a project                   | . . + | - - - | - - - | - - | ? - - | + +
    viewerRole of a project                    | R M A | - - - | - - - | - - | ? - - | A A
    organization of a project                  | + + + | - - - | - - - | - - | ? - - | + +
    node of an organization                    | + + + | + + + | + + + | + + | ? - - | + +
    viewerIsOwner of an organization           | no no no | no no no | no no no | no no | ? - - | yes no
    viewer                                     | + + + | + + + | + + + | + + | ? + + | + +
    node of the viewer                         | + + + | + + + | + + + | + + | ? + + | + +
    node of somebody else                      | - - - | - - - | - - - | - - | ? - - | - -
    eventCursor                                | + + + | + + + | + + + | + + | ? + + | + +
    """,
    "shared": """
    image by id                                | + + + | + + + | + + + | - - | ? - - | + +
    image by name, in its project              | + + + | - - - | - - - | - - | ? - - | + +
    image by name, in one's own project        | + + + | + + + | + + + | - - | ? - - | + +
    node of an image                           | + + + | + + + | + + + | - - | ? - - | + +
    nodes                                      | + + + | + + + | + + + | - - | ? - - | + +
    images of its project                      | + + + | - - - | - - - | - - | ? - - | + +
    images of one's own project                | + + + | + + + | + + + | 0 0 | ? - 0 | + +
    imageEvents of its project                 | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of its project, backward       | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of one's own project           | + + + | + + + | + + + | 0 + | ? - 0 | + +
    imageEvents of one's own project, backward | + + + | + + + | + + + | 0 + | ? - 0 | + +
    viewerCan of an image                      | no LED LESD | no L L | no LE LE | - - | ? - - | LESD LESD
    project of an image                        | + + + | . . . | . . . | - - | ? - - | + +
    shares of an image                         | + + + | . . . | . . . | - - | ? - - | + +
    download of an image                       | + + + | + + + | + + + | - - | ? - - | + +
    source of an image                         | + + + | + + + | + + + | - - | ? - - | + +
    node of an upload                          | + + + | - - - | - - - | - - | ? - - | + +
    node of a share                            | + + + | + + + | - - - | - - | ? - - | + +
    node of a share, offered                   | + + + | - - - | - - - | - + | ? - - | + +
    node of a share, declined                  | + + + | - - - | - - - | - + | ? - - | + +
    image of a share                           | + + + | + + + | - - - | - - | ? - - | + +
    image of a share, offered                  | + + + | - - - | - - - | - . | ? - - | + +
    imageName of a share, offered              | + + + | - - - | - - - | - + | ? - - | + +
    project of a share                         | + + + | + + + | - - - | - - | ? - - | + +
    quota of the project of a share            | . . . | + + + | - - - | - - | ? - - | + +
    members of the project of a share          | . . . | + + + | - - - | - - | ? - - | + +
    viewerRole of the project of a share       | . . . | R M A | - - - | - - | ? - - | A A
    shareOffers of the project of a share      | . . . | . . + | - - - | - - | ? - - | + +
    shareOffers of a project that has some     | - - - | - - - | - - - | . + | ? - - | + +
    source of a copy                           | - - - | + + + | - - - | - - | ? - - | + +
    source of a copy, out of sight             | - - - | . . . | - - - | - - | ? - - | + +
    """,
    "foreign": """
    image by id                                | - - - | - - - | - - - | - - | ? - + | - +
    image by name, in its project              | - - - | - - - | - - - | - - | ? - + | - +
    image by name, in one's own project        | - - - | - - - | - - - | - - | ? - + | - -
    node of an image                           | - - - | - - - | - - - | - - | ? - + | - +
    nodes                                      | - - - | - - - | - - - | - - | ? - + | - +
    images of its project                      | - - - | - - - | - - - | - - | ? - + | - +
    images of one's own project                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? - + | 0 0
    imageEvents of its project                 | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of its project, backward       | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of one's own project           | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? - + | 0 0
    imageEvents of one's own project, backward | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? - + | 0 0
    viewerCan of an image                      | - - - | - - - | - - - | - - | ? - LESD | - LESD
    project of an image                        | - - - | - - - | - - - | - - | ? - + | - +
    shares of an image                         | - - - | - - - | - - - | - - | ? - + | - +
    download of an image                       | - - - | - - - | - - - | - - | ? - + | - +
    source of an image                         | - - - | - - - | - - - | - - | ? - + | - +
    node of an upload                          | - - - | - - - | - - - | - - | ? - + | - +
    upload of an image                         | - - - | - - - | - - - | - - | ? - + | - +
    request of a part of an upload             | - - - | - - - | - - - | - - | ? - + | - +
    node of a share                            | - - - | - - - | - - - | - - | ? - + | - +
    node of a share, offered                   | - - - | - - - | - - - | - - | ? - + | - +
    image of a share                           | - - - | - - - | - - - | - - | ? - + | - +
    image of a share, offered                  | - - - | - - - | - - - | - - | ? - + | - +
    imageName of a share, offered              | - - - | - - - | - - - | - - | ? - + | - +
    shareOffers of a project that has some     | - - - | - - - | - - - | - - | ? - - | - +
    project                                    | - - - | - - - | - - - | - - | ? - + | - +
    node of a project                          | - - - | - - - | - - - | - - | ? - + | - +
    quota of a project                         | - - - | - - - | - - - | - - | ? - + | - +
    members of a project                       | - - - | - - - | - - - | - - | ? - + | - +
    shareOffers of a project                   | - - - | - - - | - - - | - - | ? - + | - +
    viewerRole of a project                    | - - - | - - - | - - - | - - | ? - A | - A
    organization of a project                  | - - - | - - - | - - - | - - | ? - + | - +
    node of an organization                    | - - - | - - - | - - - | - - | ? - + | - +
    viewerIsOwner of an organization           | - - - | - - - | - - - | - - | ? - no | - no
    """,
}
# Lines for usage of a project, and monthlyCost of an image, belong above as soon as the schema has these fields.

# What comes first: the thing (+), NOT_FOUND (-), or, of a feed, everything but that (0).
WATCHING = {
    "own": """
    image                                      | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of its project                 | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of one's own project           | + + + | 0 0 0 | 0 0 0 | 0 0 | ? - 0 | + +
    """,
    "shared": """
    image                                      | + + + | + + + | + + + | - - | ? - - | + +
    imageEvents of its project                 | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of one's own project           | + + + | + + + | + + + | 0 + | ? - 0 | + +
    """,
    "foreign": """
    image                                      | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of its project                 | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of one's own project           | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? - + | 0 0
    """,
}

# Whether anything of an image, its id or its name, is anywhere in all that can be listed.
LISTING = {
    "own": """
    images                                     | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    nodes                                      | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    imageEvents                                | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    shareOffers                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | 0 0
    """,
    "shared": """
    images                                     | + + + | + + + | + + + | 0 0 | ? 0 0 | + +
    nodes                                      | + + + | + + + | + + + | 0 + | ? 0 0 | + +
    imageEvents                                | + + + | + + + | + + + | 0 + | ? 0 0 | + +
    shareOffers                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 + | ? 0 0 | + +
    """,
    "foreign": """
    images                                     | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    nodes                                      | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    imageEvents                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    shareOffers                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | 0 +
    """,
}

# ---------------------------------------------------------------- changing
#
#   +  it is done                               F  FORBIDDEN, because of the thing that is to be changed
#   o  done, as an offer                        f  FORBIDDEN, because of the project that is named beside it
#   =  taken, and nothing changes               P  FORBIDDEN, because of `protected`
#   -  NOT_FOUND: the thing                     A  NOT_TARGET_ADMIN
#   n  NOT_FOUND: the project beside it         O  DIFFERENT_ORGANIZATION, as of a project that does not exist
#   ?  UNAUTHENTICATED                          C  CONFLICT
#
# The last column says who is told when it is done: `sees` is every project that can see the image, `both` its own and
# the one that it is offered to; and the letters are the events, in order: Created, Updated, (status) Moved, Share
# changed, Deleted. After `o:`, of an offer.

CHANGING = {
    "own": """
    createImage                                | F + + | - - - | - - - | - - | ? - - | + + | project C
    createImage, a copy beside it              | f + + | n n n | n n n | n n | ? n n | + + | project C
    createImage, a copy in one's own project   | f + + | f - - | f - - | - - | ? n - | + + | place C
    completeUpload                             | F + + | - - - | - - - | - - | ? - - | + + | sees U
    abortUpload                                | F + + | - - - | - - - | - - | ? - - | + + | sees M
    retryImage                                 | F + + | - - - | - - - | - - | ? - - | + + | sees M
    updateImage, name                          | F + + | - - - | - - - | - - | ? - - | + + | sees U
    updateImage, os                            | F + + | - - - | - - - | - - | ? - - | + + | sees U
    updateImage, labels                        | F + + | - - - | - - - | - - | ? - - | + + | sees U
    updateImage, protected                     | F + + | - - - | - - - | - - | ? - - | + + | sees U
    updateImage, not protected                 | F + + | - - - | - - - | - - | ? - - | + + | sees U
    deleteImage                                | F + + | - - - | - - - | - - | ? - - | + + | sees D
    shareImage, with a project of theirs       | F F + | - - - | - - - | - - | ? - - | + + | home SU, aside SU
    shareImage, with another one               | F F A | - - - | - - - | - - | ? - - | + + | both SU
    shareImage, with an offer                  | F F o | - - - | - - - | - - | ? - - | + + | both SU; o: both S
    shareImage, with another organization      | F F O | - - - | - - - | - - | ? - - | O O
    shareImage, with what is no project        | F F n | - - - | - - - | - - | ? - - | n n
    setProjectQuota                            | F F F | - - - | - - - | - - | ? - - | + +
    setProjectMember                           | F F + | - - - | - - - | - - | ? - - | + +
    setProjectMember, the last admin           | F F C | - - - | - - - | - - | ? - - | C C
    removeProjectMember                        | F F + | - - - | - - - | - - | ? - - | + +
    removeProjectMember, the last admin        | F F C | - - - | - - - | - - | ? - - | C C
    """,
    "shared": """
    createImage, a copy beside it              | f + + | n n n | n n n | n n | ? n n | + + | project C
    createImage, a copy in one's own project   | f + + | f + + | f + + | - - | ? n - | + + | place C
    completeUpload                             | F = = | - - - | - - - | - - | ? - - | = =
    abortUpload                                | F C C | - - - | - - - | - - | ? - - | C C
    retryImage                                 | F C C | F F F | F F F | - - | ? - - | C C
    updateImage, name                          | F + + | F F F | F + + | - - | ? - - | + + | sees U
    updateImage, os                            | F + + | F F F | F + + | - - | ? - - | + + | sees U
    updateImage, labels                        | F + + | F F F | F + + | - - | ? - - | + + | sees U
    updateImage, protected                     | F + + | F F F | F P P | - - | ? - - | + + | sees U
    updateImage, not protected                 | F + + | F F F | F P P | - - | ? - - | + + | sees U
    deleteImage                                | F + + | F F F | F F F | - - | ? - - | + + | sees D, asked S
    shareImage, with a project of theirs       | F F + | F F F | F F F | - - | ? - - | + + | home S, aside S
    shareImage, with another one               | F F A | F F F | F F F | - - | ? - - | + + | both S
    shareImage, with an offer                  | F F = | F F F | F F F | - - | ? - - | + + | both S
    shareImage, with another organization      | F F O | F F F | F F F | - - | ? - - | O O
    shareImage, with what is no project        | F F n | F F F | F F F | - - | ? - - | n n
    updateImageShare                           | F F + | F F F | - - - | - - | ? - - | + + | home S, launching S
    updateImageShare, offered                  | F F + | - - - | - - - | - F | ? - - | + + | both S
    acceptImageShare, offered                  | A A A | - - - | - - - | - + | ? - - | + + | both S
    acceptImageShare, accepted                 | A A A | A A = | - - - | - - | ? - - | = =
    acceptImageShare, declined                 | A A A | - - - | - - - | - C | ? - - | C C
    declineImageShare, offered                 | A A A | - - - | - - - | - + | ? - - | + + | both S
    declineImageShare, accepted                | A A A | A A + | - - - | - - | ? - - | + + | home S, launching S
    revokeImageShare                           | F F + | F F F | - - - | - - | ? - - | + + | home S, launching S
    revokeImageShare, offered                  | F F + | - - - | - - - | - F | ? - - | + + | both S
    """,
    "foreign": """
    createImage                                | - - - | - - - | - - - | - - | ? - + | - + | project C
    createImage, a copy beside it              | n n n | n n n | n n n | n n | ? n + | n + | project C
    createImage, a copy in one's own project   | f - - | f - - | f - - | - - | ? n + | - F | place C
    completeUpload                             | - - - | - - - | - - - | - - | ? - + | - + | sees U
    abortUpload                                | - - - | - - - | - - - | - - | ? - + | - + | sees M
    retryImage                                 | - - - | - - - | - - - | - - | ? - + | - + | sees M
    updateImage, name                          | - - - | - - - | - - - | - - | ? - + | - + | sees U
    updateImage, os                            | - - - | - - - | - - - | - - | ? - + | - + | sees U
    updateImage, labels                        | - - - | - - - | - - - | - - | ? - + | - + | sees U
    updateImage, protected                     | - - - | - - - | - - - | - - | ? - + | - + | sees U
    updateImage, not protected                 | - - - | - - - | - - - | - - | ? - + | - + | sees U
    deleteImage                                | - - - | - - - | - - - | - - | ? - + | - + | sees D
    shareImage, with a project of theirs       | - - - | - - - | - - - | - - | ? - + | - + | abroad SU, overseas SU
    shareImage, with another one               | - - - | - - - | - - - | - - | ? - A | - + | both SU
    shareImage, with an offer                  | - - - | - - - | - - - | - - | ? - o | - + | both SU; o: both S
    shareImage, with another organization      | - - - | - - - | - - - | - - | ? - O | - O
    shareImage, with what is no project        | - - - | - - - | - - - | - - | ? - n | - n
    updateImageShare                           | - - - | - - - | - - - | - - | ? - + | - + | abroad S, overseas S
    updateImageShare, offered                  | - - - | - - - | - - - | - - | ? - + | - + | both S
    acceptImageShare, offered                  | - - - | - - - | - - - | - - | ? - A | - + | both S
    acceptImageShare, accepted                 | - - - | - - - | - - - | - - | ? - = | - =
    declineImageShare, offered                 | - - - | - - - | - - - | - - | ? - A | - + | both S
    declineImageShare, accepted                | - - - | - - - | - - - | - - | ? - + | - + | abroad SU, overseas S
    revokeImageShare                           | - - - | - - - | - - - | - - | ? - + | - + | abroad SU, overseas S
    revokeImageShare, offered                  | - - - | - - - | - - - | - - | ? - + | - + | both S
    setProjectQuota                            | - - - | - - - | - - - | - - | ? - F | - +
    setProjectMember                           | - - - | - - - | - - - | - - | ? - + | - +
    setProjectMember, the last admin           | - - - | - - - | - - - | - - | ? - C | - C
    removeProjectMember                        | - - - | - - - | - - - | - - | ? - + | - +
    removeProjectMember, the last admin        | - - - | - - - | - - - | - - | ? - C | - C
    """,
}
EVENTS = {
    "C": "ImageCreated",
    "U": "ImageUpdated",
    "M": "ImageStatusChanged",
    "S": "ImageShareChanged",
    "D": "ImageDeleted",
}
SEES = {"own": ("home",), "shared": ("home", "launching", "editing"), "foreign": ("abroad",)}


@dataclass(frozen=True)
class Row:
    """A line of a table: what an operation comes to, by caller; and, by outcome, which projects are told what."""

    kind: str
    line: str
    outcomes: Mapping[str, str]
    told: Mapping[str, Mapping[str, Sequence[str]]]

    def __str__(self) -> str:
        return f"{self.kind}: {self.line}"


@dataclass(frozen=True)
class Cell:
    """One caller in a row."""

    row: Row
    caller: str

    @property
    def outcome(self) -> str:
        return self.row.outcomes[self.caller]

    def __str__(self) -> str:
        return f"{self.row}: {self.caller}"


def rows_of(tables: Mapping[str, str]) -> list[Row]:
    """The lines of the tables, of one kind of image after the other."""
    return [_row(kind, line) for kind, table in tables.items() for line in table.strip().splitlines()]


def cells_of(tables: Mapping[str, str]) -> list[Cell]:
    """Every caller in every row."""
    return [Cell(row, caller) for row in rows_of(tables) for caller in CALLERS]


def _row(kind: str, text: str) -> Row:
    line, *groups = [part.strip() for part in text.split("|")]
    outcomes = dict(zip(CALLERS, " ".join(groups[:6]).split(), strict=True))
    return Row(kind, line, outcomes, dict(_told(kind, groups[6])) if groups[6:] else {})


def _told(kind: str, text: str) -> Iterator[tuple[str, Mapping[str, Sequence[str]]]]:
    groups = {"sees": SEES[kind], "both": ("project", "another")}
    for clause in text.split(";"):
        outcome, _, said = clause.rpartition(":")
        told: dict[str, Sequence[str]] = {}
        for where, letters in (part.split() for part in said.split(",")):
            events = [EVENTS[letter] for letter in letters]
            told |= {project: events for project in groups.get(where, (where,))}
        yield outcome.strip() or "+", told


# ---------------------------------------------------------------- what the lines stand for
#
# Names with a dollar are filled in for every cell:
#   $image, $name, $upload, $project, $organization   the image, and what it belongs to
#   $share, $offer, $declined, $invited               shares of it: accepted, offered, declined; whom it is offered to
#   $place                                            the caller's own project
#   $theirs, $another, $beyond                        other projects: one that the admin of the image's project
#                                                     administers too, one that they don't, one of another organization
#   $me, $somebody, $subject                        the ids of the caller, and of somebody else; the caller's `sub`
#   $admin, $member, $reader                          the `sub` of those who belong to the image's project
#   $copy, $orphan                                    copies in `launching`, of a shared image, and of one withdrawn

PROJECTS = {"project", "place", "theirs", "another", "beyond"}
# What does not exist, by the names with a dollar.
ABSENT = {
    **dict.fromkeys(("image", "copy", "orphan"), f"img_{'0' * 26}"),
    **dict.fromkeys(("share", "offer", "declined"), f"shr_{'0' * 26}"),
    **dict.fromkeys((*PROJECTS, "invited"), f"prj_{'0' * 26}"),
    "upload": f"upl_{'0' * 26}",
    "organization": f"org_{'0' * 26}",
    "name": "a name that no image has",
    "me": "usr_nobody",
    "somebody": "usr_nobody",
}
_NAMED = re.compile(r"\$(\w+)")


def names_in(template: Any) -> list[str]:
    """The names with a dollar in a document, or in an input."""
    return list(dict.fromkeys(_NAMED.findall(str(template))))


def filled(template: Any, names: Mapping[str, str]) -> Any:
    """An input, or an expected answer, with its names filled in."""
    if isinstance(template, dict):
        return {key: filled(value, names) for key, value in template.items()}
    if isinstance(template, list):
        return [filled(value, names) for value in template]
    return names[template[1:]] if isinstance(template, str) and template.startswith("$") else template


def document_of(kind: str, field: str) -> str:
    """An operation with one field, `it`; the names with a dollar are its variables."""
    variables = ", ".join(f"${name}: {_TYPES.get(name, 'ID!')}" for name in names_in(field))
    return f"{kind} {f'({variables})' if variables else ''} {{ it: {field} }}"


_TYPES = {"name": "String!", "start": "EventCursor!"}


def _seen(value: Any) -> str:
    return "." if value is None else "+" if value else "0"


def _permissions(can: Mapping[str, bool]) -> str:
    return "".join(name[0].upper() for name in ("launch", "edit", "share", "delete") if can[name]) or "no"


def _role(role: str | None) -> str:
    return role[0] if role else "."


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@dataclass(frozen=True)
class Read:
    """A field to read, the path below it to what is looked at, and how that is told in the table.

    `state` is that of the image, where there is one of the kind.
    """

    text: str
    path: str = ""
    show: Callable[[Any], str] = _seen
    state: str = "active"

    @property
    def document(self) -> str:
        return document_of("query", self.text)


def _of_image(field: str, path: str, show: Callable[[Any], str] = _seen, state: str = "active") -> Read:
    return Read(f"image(by: {{id: $image}}) {{ {field} }}", path, show, state)


def _of_project(field: str, path: str, show: Callable[[Any], str] = _seen) -> Read:
    return Read(f"project(id: $project) {{ {field} }}", path, show)


def _of_share(field: str, path: str, name: str = "share", show: Callable[[Any], str] = _seen) -> Read:
    return Read(f"node(id: ${name}) {{ ... on ImageShare {{ {field} }} }}", path, show)


def _of_copy(name: str) -> Read:
    source = "source { ... on CopySource { image { id } } }"
    return Read(f"node(id: ${name}) {{ ... on Image {{ {source} }} }}", "source image")


_EVENTS = "{ nodes { imageId } }"
_IMAGES = "first: 9, filter: {nameContains: $name}) { nodes { id } totalCount }"
_REQUEST = "parts(first: 1) { nodes { request { url } } }"
READS = {
    "image by id": Read("image(by: {id: $image}) { id }", "id"),
    "image by name, in its project": Read("image(by: {name: {projectId: $project, name: $name}}) { id }", "id"),
    "image by name, in one's own project": Read("image(by: {name: {projectId: $place, name: $name}}) { id }", "id"),
    "node of an image": Read("node(id: $image) { id }", "id"),
    "nodes": Read("nodes(ids: [$image]) { id }", "0 id"),
    "images of its project": Read(f"images(projectId: $project, {_IMAGES}", "nodes"),
    "images of one's own project": Read(f"images(projectId: $place, {_IMAGES}", "nodes"),
    "imageEvents of its project": Read(
        f"imageEvents(projectId: $project, imageId: $image, first: 9) {_EVENTS}", "nodes"
    ),
    "imageEvents of its project, backward": Read(
        f"imageEvents(projectId: $project, imageId: $image, last: 9) {_EVENTS}", "nodes"
    ),
    "imageEvents of one's own project": Read(
        f"imageEvents(projectId: $place, imageId: $image, first: 9) {_EVENTS}", "nodes"
    ),
    "imageEvents of one's own project, backward": Read(
        f"imageEvents(projectId: $place, imageId: $image, last: 9) {_EVENTS}", "nodes"
    ),
    "viewerCan of an image": _of_image("viewerCan { launch edit share delete }", "viewerCan", _permissions),
    "project of an image": _of_image("project { id }", "project id"),
    "shares of an image": _of_image("shares(first: 9) { nodes { id } totalCount }", "shares"),
    "download of an image": _of_image("download { url }", "download url"),
    "source of an image": _of_image("source { ... on UploadSource { fileName } }", "source fileName"),
    "upload of an image": _of_image("upload { id }", "upload id", state="uploading"),
    "node of an upload": Read("node(id: $upload) { id }", "id", state="uploading"),
    "request of a part of an upload": Read(
        f"node(id: $upload) {{ ... on ImageUpload {{ {_REQUEST} }} }}", "parts nodes 0 request", state="uploading"
    ),
    "node of a share": Read("node(id: $share) { id }", "id"),
    "node of a share, offered": Read("node(id: $offer) { id }", "id"),
    "node of a share, declined": Read("node(id: $declined) { id }", "id"),
    "image of a share": _of_share("image { id }", "image id"),
    "image of a share, offered": _of_share("image { id }", "image id", "offer"),
    "imageName of a share, offered": _of_share("imageName", "imageName", "offer"),
    "project of a share": _of_share("project { id name }", "project id"),
    "quota of the project of a share": _of_share("project { quota { snapshotsPerVolume } }", "project quota"),
    "members of the project of a share": _of_share(
        "project { members(first: 9) { nodes { subject } } }", "project members nodes"
    ),
    "viewerRole of the project of a share": _of_share("project { viewerRole }", "project viewerRole", show=_role),
    "shareOffers of the project of a share": _of_share(
        "project { shareOffers(first: 9) { nodes { id } } }", "project shareOffers"
    ),
    "shareOffers of a project that has some": Read(
        "project(id: $invited) { shareOffers(first: 9) { nodes { id } } }", "shareOffers nodes"
    ),
    "source of a copy": _of_copy("copy"),
    "source of a copy, out of sight": _of_copy("orphan"),
    "project": _of_project("id", "id"),
    "node of a project": Read("node(id: $project) { id }", "id"),
    "quota of a project": _of_project("quota { snapshotsPerVolume }", "quota"),
    "members of a project": _of_project("members(first: 9) { nodes { subject } }", "members nodes"),
    "shareOffers of a project": _of_project("shareOffers(first: 9) { nodes { id } }", "shareOffers"),
    "viewerRole of a project": _of_project("viewerRole", "viewerRole", _role),
    "organization of a project": _of_project("organization { id }", "organization id"),
    "node of an organization": Read("node(id: $organization) { id }", "id"),
    "viewerIsOwner of an organization": Read(
        "node(id: $organization) { ... on Organization { viewerIsOwner } }", "viewerIsOwner", _yes
    ),
    "viewer": Read("viewer { id }", "id"),
    "node of the viewer": Read("node(id: $me) { id }", "id"),
    "node of somebody else": Read("node(id: $somebody) { id }", "id"),
    "eventCursor": Read("eventCursor"),
}
_FEED = "after: $start) { ... on ImageEvent { imageId } }"
WATCHES = {
    "image": Read("image(id: $image) { id }"),
    "imageEvents of its project": Read(f"imageEvents(projectId: $project, {_FEED}"),
    "imageEvents of one's own project": Read(f"imageEvents(projectId: $place, {_FEED}"),
}


@dataclass(frozen=True)
class Change:
    """A mutation, its input, the field of it that names the thing to be changed, and what is so when it is done.

    `look` reads a node as an operator, and then finds what it `becomes`, or, with None, nothing; $made is what the
    payload holds. `absent` is what the input's names stand for when the project beside the thing does not exist.
    """

    mutation: str
    input: Mapping[str, Any]
    thing: str
    look: str
    becomes: Mapping[str, Any] | None
    state: str = "active"
    conflict: str | None = None
    absent: Mapping[str, str] = field(default_factory=dict)


def _created(input: Mapping[str, Any], thing: str, fields: str, becomes: Mapping[str, Any]) -> Change:
    return Change(
        "createImage", {"name": "new", **input}, thing, f"node(id: $made) {{ ... on Image {{ name {fields} }} }}",
        {"name": "new", **becomes},
    )  # fmt: skip


def _copied(where: str) -> Change:
    return _created(
        {"projectId": where, "source": {"image": {"imageId": "$image"}}},
        "source.image.imageId",
        "status project { id } source { ... on CopySource { imageName image { id } } }",
        {"status": "ACTIVE", "project": {"id": where}, "source": {"imageName": "$name", "image": {"id": "$image"}}},
    )


def _image(
    mutation: str, fields: str, becomes: Mapping[str, Any] | None, state: str = "active", **given: Any
) -> Change:
    look = f"node(id: $image) {{ ... on Image {{ {fields} }} }}"
    return Change(mutation, {"imageId": "$image"} | given, "imageId", look, becomes, state)


def _upload(mutation: str, fields: str, becomes: Mapping[str, Any]) -> Change:
    look = f"node(id: $image) {{ ... on Image {{ {fields} }} }}"
    return Change(mutation, {"uploadId": "$upload"}, "uploadId", look, becomes, "uploading")


def _shared(project: str, *, offer: bool = False, absent: Mapping[str, str] | None = None) -> Change:
    return Change(
        "shareImage",
        {"imageId": "$image", "projectId": project, "grant": "LAUNCH", "offer": offer},
        "imageId",
        "node(id: $made) { ... on ImageShare { image { id } project { id } grant state sharedBy } }",
        {"image": {"id": "$image"}, "project": {"id": project}, "grant": "LAUNCH", "state": "$state"}
        | {"sharedBy": "$subject"},
        absent=absent or {},
    )


def _share(mutation: str, name: str, becomes: Mapping[str, Any] | None, **given: Any) -> Change:
    look = f"node(id: ${name}) {{ ... on ImageShare {{ grant state }} }}"
    state = "declined" if name == "declined" else "with shares"
    return Change(mutation, {"shareId": f"${name}"} | given, "shareId", look, becomes, state)


def _member(mutation: str, becomes: Sequence[str], subject: str, **given: Any) -> Change:
    return Change(
        mutation,
        {"projectId": "$project", "subject": subject} | given,
        "projectId",
        "node(id: $project) { ... on Project { members(first: 9) { nodes { subject } } } }",
        {"members": {"nodes": [{"subject": subject} for subject in becomes]}},
        conflict="subject",
    )


_LIMITS = "quota { customImages { limit } imageStorage { limit } snapshotsPerVolume }"
_STAFF = ["$admin", "$member", "$reader"]
CHANGES = {
    "createImage": _created(
        {"projectId": "$project", "source": {"upload": {"fileName": "disk.raw", "size": 512}}},
        "projectId",
        "status project { id }",
        {"status": "QUEUED", "project": {"id": "$project"}},
    ),
    "createImage, a copy beside it": _copied("$project"),
    "createImage, a copy in one's own project": _copied("$place"),
    "completeUpload": _upload("completeUpload", "status upload { id }", {"status": "QUEUED", "upload": None}),
    "abortUpload": _upload(
        "abortUpload", "status failure { code }", {"status": "ERROR", "failure": {"code": "UPLOAD_ABORTED"}}
    ),
    "retryImage": _image("retryImage", "status failure { code }", {"status": "SAVING", "failure": None}, "failed"),
    "updateImage, name": _image("updateImage", "name", {"name": "other"}, name="other"),
    "updateImage, os": _image(
        "updateImage", "os { family }", {"os": {"family": "rocky"}}, os={"family": "rocky", "version": "9"}
    ),
    "updateImage, labels": _image(
        "updateImage",
        "labels { key value }",
        {"labels": [{"key": "a", "value": "1"}]},
        labels=[{"key": "a", "value": "1"}],
    ),
    "updateImage, protected": _image("updateImage", "protected", {"protected": True}, protected=True),
    "updateImage, not protected": _image(
        "updateImage", "protected", {"protected": False}, "protected", protected=False
    ),
    "deleteImage": _image("deleteImage", "name", None),
    "shareImage, with a project of theirs": _shared("$theirs"),
    "shareImage, with another one": _shared("$another"),
    "shareImage, with an offer": _shared("$another", offer=True),
    "shareImage, with another organization": _shared("$beyond"),
    "shareImage, with what is no project": _shared("$upload", absent={"upload": "prj_nothing"}),
    "updateImageShare": _share(
        "updateImageShare", "share", {"grant": "LAUNCH_AND_EDIT", "state": "ACCEPTED"}, grant="LAUNCH_AND_EDIT"
    ),
    "updateImageShare, offered": _share(
        "updateImageShare", "offer", {"grant": "LAUNCH_AND_EDIT", "state": "OFFERED"}, grant="LAUNCH_AND_EDIT"
    ),
    "acceptImageShare, offered": _share("acceptImageShare", "offer", {"grant": "LAUNCH", "state": "ACCEPTED"}),
    "acceptImageShare, accepted": _share("acceptImageShare", "share", {"grant": "LAUNCH", "state": "ACCEPTED"}),
    "acceptImageShare, declined": _share("acceptImageShare", "declined", None),
    "declineImageShare, offered": _share("declineImageShare", "offer", {"grant": "LAUNCH", "state": "DECLINED"}),
    "declineImageShare, accepted": _share("declineImageShare", "share", {"grant": "LAUNCH", "state": "DECLINED"}),
    "revokeImageShare": _share("revokeImageShare", "share", None),
    "revokeImageShare, offered": _share("revokeImageShare", "offer", None),
    "setProjectQuota": Change(
        "setProjectQuota",
        {"projectId": "$project", "customImages": 77, "imageStorageGib": 88, "snapshotsPerVolume": 99},
        "projectId",
        f"node(id: $project) {{ ... on Project {{ {_LIMITS} }} }}",
        {"quota": {"customImages": {"limit": 77}, "imageStorage": {"limit": 88 * GIB}, "snapshotsPerVolume": 99}},
    ),
    "setProjectMember": _member("setProjectMember", [*_STAFF, "zoe"], "zoe", role="READER"),
    "setProjectMember, the last admin": _member("setProjectMember", [], "$admin", role="MEMBER"),
    "removeProjectMember": _member("removeProjectMember", ["$admin", "$member"], "$reader"),
    "removeProjectMember, the last admin": _member("removeProjectMember", [], "$admin"),
}
