"""Who may do what, as tables: every operation of the schema, for everybody who could call, on four kinds of images.

Columns are the callers, in this order (see CALLERS in `access_cells`):

    home            READER, MEMBER and ADMIN of the project that the image is of; the ADMIN administers `aside` too
    launching       the same of a project of the same organization, to which a share grants LAUNCH; likewise
    editing         the same of one to which a share grants LAUNCH_AND_EDIT; likewise
    asked           MEMBER and ADMIN of one that is offered a share, and has yet to answer
    outside         no token, a stranger (a token, but no membership), and an ADMIN of another organization
    above           the owner of the organization of `home`, and an operator

Kinds of images are the tables:

    own             of `home`, and not shared: foreign to `launching`, `editing` and `asked`
    shared          of `home`, and shared with `launching` and `editing`, and offered to `asked`
    foreign         of `abroad`, a project of another organization, which the last of `outside` administers
    public          of `abroad` too, and seen by every project

What may not be seen is answered word for word as what does not exist: `-`, `n`, `0` and `O` are compared with that.
"""

# ---------------------------------------------------------------- reading
#
#   +  it is seen                               0  nothing of it is in the list, as of what does not exist
#   -  NOT_FOUND, as what does not exist        .  null: of what is seen, this is kept from them
#   ?  UNAUTHENTICATED                          other words are what is seen (see `show` in `access_lines`)

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
    projectEvents of its project               | + + + | - - - | - - - | - - | ? - - | + +
    projectEvents of one's own project         | + + + | 0 0 0 | 0 0 0 | 0 0 | ? - 0 | + +
    viewerCan of an image                      | no LED LESD | - - - | - - - | - - | ? - - | LESD LESD
    project of an image                        | + + + | - - - | - - - | - - | ? - - | + +
    shares of an image                         | + + + | - - - | - - - | - - | ? - - | + +
    download of an image                       | + + + | - - - | - - - | - - | ? - - | + +
    monthlyCost of an image                    | + + + | - - - | - - - | - - | ? - - | + +
    source of an image                         | + + + | - - - | - - - | - - | ? - - | + +
    node of an upload                          | + + + | - - - | - - - | - - | ? - - | + +
    usedBy of an image                         | + + + | - - - | - - - | - - | ? - - | + +
    lastLaunchedAt of an image                 | + + + | - - - | - - - | - - | ? - - | + +
    upload of an image                         | + + + | - - - | - - - | - - | ? - - | + +
    progress of an image                       | + + + | - - - | - - - | - - | ? - - | + +
    request of a part of an upload             | . + + | - - - | - - - | - - | ? - - | + +
    project                                    | + + + | - - - | - - - | - - | ? - - | + +
    node of a project                          | + + + | - - - | - - - | - - | ? - - | + +
    quota of a project                         | + + + | - - - | - - - | - - | ? - - | + +
    members of a project                       | + + + | - - - | - - - | - - | ? - - | + +
    usage of a project                         | + + + | - - - | - - - | - - | ? - - | + +
    shareOffers of a project                   | . . + | - - - | - - - | - - | ? - - | + +
    acceptedShares of a project                | + + + | - - - | - - - | - - | ? - - | + +
    servers of a project                       | + + + | - - - | - - - | - - | ? - - | + +
    volumes of a project                       | + + + | - - - | - - - | - - | ? - - | + +
    node of a server                           | + + + | - - - | - - - | - - | ? - - | + +
    projectEvents of a server                  | + + + | - - - | - - - | - - | ? - - | + +
    bootVolume of a server                     | + + + | - - - | - - - | - - | ? - - | + +
    image of a server                          | + + + | - - - | - - - | - - | ? - - | + +
    node of a volume                           | + + + | - - - | - - - | - - | ? - - | + +
    snapshots of a volume                      | + + + | - - - | - - - | - - | ? - - | + +
    volume of a snapshot                       | + + + | - - - | - - - | - - | ? - - | + +
    promotedTo of a snapshot                   | + + + | - - - | - - - | - - | ? - - | + +
    viewerRole of a project                    | R M A | - - - | - - - | - - | ? - - | A A
    organization of a project                  | + + + | - - - | - - - | - - | ? - - | + +
    node of an organization                    | + + + | + + + | + + + | + + | ? - - | + +
    viewerIsOwner of an organization           | no no no | no no no | no no no | no no | ? - - | yes no
    viewer                                     | + + + | + + + | + + + | + + | ? + + | + +
    node of the viewer                         | + + + | + + + | + + + | + + | ? + + | + +
    node of another user                       | - - - | - - - | - - - | - - | ? - - | - -
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
    projectEvents of its project               | + + + | - - - | - - - | - - | ? - - | + +
    projectEvents of one's own project         | + + + | + + + | + + + | 0 + | ? - 0 | + +
    viewerCan of an image                      | no LED LESD | no L L | no LE LE | - - | ? - - | LESD LESD
    project of an image                        | + + + | . . . | . . . | - - | ? - - | + +
    shares of an image                         | + + + | . . . | . . . | - - | ? - - | + +
    download of an image                       | + + + | + + + | + + + | - - | ? - - | + +
    monthlyCost of an image                    | + + + | . . . | . . . | - - | ? - - | + +
    usedBy of an image                         | + + + | + + + | + + + | - - | ? - - | + +
    lastLaunchedAt of an image                 | . . . | . . . | . . . | - - | ? - - | . .
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
    usage of the project of a share            | . . . | + + + | - - - | - - | ? - - | + +
    viewerRole of the project of a share       | . . . | R M A | - - - | - - | ? - - | A A
    shareOffers of the project of a share      | . . . | . . + | - - - | - - | ? - - | + +
    acceptedShares of the project of a share   | . . . | + + + | - - - | - - | ? - - | + +
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
    projectEvents of its project               | - - - | - - - | - - - | - - | ? - + | - +
    projectEvents of one's own project         | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? - + | 0 0
    viewerCan of an image                      | - - - | - - - | - - - | - - | ? - LESD | - LESD
    project of an image                        | - - - | - - - | - - - | - - | ? - + | - +
    shares of an image                         | - - - | - - - | - - - | - - | ? - + | - +
    download of an image                       | - - - | - - - | - - - | - - | ? - + | - +
    monthlyCost of an image                    | - - - | - - - | - - - | - - | ? - + | - +
    source of an image                         | - - - | - - - | - - - | - - | ? - + | - +
    node of an upload                          | - - - | - - - | - - - | - - | ? - + | - +
    usedBy of an image                         | - - - | - - - | - - - | - - | ? - + | - +
    lastLaunchedAt of an image                 | - - - | - - - | - - - | - - | ? - + | - +
    upload of an image                         | - - - | - - - | - - - | - - | ? - + | - +
    progress of an image                       | - - - | - - - | - - - | - - | ? - + | - +
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
    usage of a project                         | - - - | - - - | - - - | - - | ? - + | - +
    shareOffers of a project                   | - - - | - - - | - - - | - - | ? - + | - +
    acceptedShares of a project                | - - - | - - - | - - - | - - | ? - + | - +
    servers of a project                       | - - - | - - - | - - - | - - | ? - + | - +
    volumes of a project                       | - - - | - - - | - - - | - - | ? - + | - +
    node of a server                           | - - - | - - - | - - - | - - | ? - + | - +
    projectEvents of a server                  | - - - | - - - | - - - | - - | ? - + | - +
    bootVolume of a server                     | - - - | - - - | - - - | - - | ? - + | - +
    image of a server                          | - - - | - - - | - - - | - - | ? - + | - +
    node of a volume                           | - - - | - - - | - - - | - - | ? - + | - +
    snapshots of a volume                      | - - - | - - - | - - - | - - | ? - + | - +
    volume of a snapshot                       | - - - | - - - | - - - | - - | ? - + | - +
    promotedTo of a snapshot                   | - - - | - - - | - - - | - - | ? - + | - +
    viewerRole of a project                    | - - - | - - - | - - - | - - | ? - A | - A
    organization of a project                  | - - - | - - - | - - - | - - | ? - + | - +
    node of an organization                    | - - - | - - - | - - - | - - | ? - + | - +
    viewerIsOwner of an organization           | - - - | - - - | - - - | - - | ? - no | - no
    """,
    "public": """
    image by id                                | + + + | + + + | + + + | + + | ? - + | + +
    image by name, in its project              | - - - | - - - | - - - | - - | ? - + | - +
    image by name, in one's own project        | + + + | + + + | + + + | + + | ? - + | + +
    node of an image                           | + + + | + + + | + + + | + + | ? - + | + +
    nodes                                      | + + + | + + + | + + + | + + | ? - + | + +
    images of its project                      | - - - | - - - | - - - | - - | ? - + | - +
    images of one's own project                | + + + | + + + | + + + | + + | ? - + | + +
    imageEvents of its project                 | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of its project, backward       | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of one's own project           | + + + | + + + | + + + | + + | ? - + | + +
    imageEvents of one's own project, backward | + + + | + + + | + + + | + + | ? - + | + +
    projectEvents of its project               | - - - | - - - | - - - | - - | ? - + | - +
    projectEvents of one's own project         | + + + | + + + | + + + | + + | ? - + | + +
    viewerCan of an image                      | no L L | no L L | no L L | L L | ? - LED | L LED
    project of an image                        | . . . | . . . | . . . | . . | ? - + | . +
    shares of an image                         | . . . | . . . | . . . | . . | ? - + | . +
    download of an image                       | + + + | + + + | + + + | + + | ? - + | + +
    monthlyCost of an image                    | . . . | . . . | . . . | . . | ? - + | . +
    source of an image                         | + + + | + + + | + + + | + + | ? - + | + +
    node of an upload                          | - - - | - - - | - - - | - - | ? - + | - +
    usedBy of an image                         | + + + | + + + | + + + | + + | ? - + | + +
    lastLaunchedAt of an image                 | . . . | . . . | . . . | . . | ? - . | . .
    upload of an image                         | . . . | . . . | . . . | . . | ? - + | . +
    progress of an image                       | + + + | + + + | + + + | + + | ? - + | + +
    request of a part of an upload             | - - - | - - - | - - - | - - | ? - + | - +
    """,
}

# The first result: the image (+), NOT_FOUND (-), or in a feed, everything but the image (0).
WATCHING = {
    "own": """
    image                                      | + + + | - - - | - - - | - - | ? - - | + +
    server                                     | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of its project                 | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of one's own project           | + + + | 0 0 0 | 0 0 0 | 0 0 | ? - 0 | + +
    projectEvents of its project               | + + + | - - - | - - - | - - | ? - - | + +
    projectEvents of one's own project         | + + + | 0 0 0 | 0 0 0 | 0 0 | ? - 0 | + +
    """,
    "shared": """
    image                                      | + + + | + + + | + + + | - - | ? - - | + +
    imageEvents of its project                 | + + + | - - - | - - - | - - | ? - - | + +
    imageEvents of one's own project           | + + + | + + + | + + + | 0 + | ? - 0 | + +
    projectEvents of its project               | + + + | - - - | - - - | - - | ? - - | + +
    projectEvents of one's own project         | + + + | + + + | + + + | 0 + | ? - 0 | + +
    """,
    "foreign": """
    image                                      | - - - | - - - | - - - | - - | ? - + | - +
    server                                     | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of its project                 | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of one's own project           | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? - + | 0 0
    projectEvents of its project               | - - - | - - - | - - - | - - | ? - + | - +
    projectEvents of one's own project         | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? - + | 0 0
    """,
    "public": """
    image                                      | + + + | + + + | + + + | + + | ? - + | + +
    imageEvents of its project                 | - - - | - - - | - - - | - - | ? - + | - +
    imageEvents of one's own project           | + + + | + + + | + + + | + + | ? - + | + +
    projectEvents of its project               | - - - | - - - | - - - | - - | ? - + | - +
    projectEvents of one's own project         | + + + | + + + | + + + | + + | ? - + | + +
    """,
}

# Whether the id or the name of an image is anywhere in what the caller can list.
LISTING = {
    "own": """
    images                                     | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    nodes                                      | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    imageEvents                                | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    shareOffers                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | 0 0
    acceptedShares                             | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | 0 0
    usage                                      | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    """,
    "shared": """
    images                                     | + + + | + + + | + + + | 0 0 | ? 0 0 | + +
    nodes                                      | + + + | + + + | + + + | 0 + | ? 0 0 | + +
    imageEvents                                | + + + | + + + | + + + | 0 + | ? 0 0 | + +
    shareOffers                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 + | ? 0 0 | + +
    acceptedShares                             | 0 0 0 | + + + | + + + | 0 0 | ? 0 0 | + +
    usage                                      | + + + | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | + +
    """,
    "foreign": """
    images                                     | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    nodes                                      | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    imageEvents                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    shareOffers                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | 0 +
    acceptedShares                             | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    usage                                      | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
    """,
    "public": """
    images                                     | + + + | + + + | + + + | + + | ? 0 + | + +
    nodes                                      | + + + | + + + | + + + | + + | ? 0 + | + +
    imageEvents                                | + + + | + + + | + + + | + + | ? 0 + | + +
    shareOffers                                | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | 0 0
    acceptedShares                             | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 0 | 0 0
    usage                                      | 0 0 0 | 0 0 0 | 0 0 0 | 0 0 | ? 0 + | 0 +
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
#   I  INVALID: what every project sees is not shared
#
# The last column lists the events by project: `sees` is every project that can see the image, `both` its own and
# the one that it is offered to; the letters are the events, in order: Created, Updated, (status) Moved, Share
# changed, Deleted. After `o:`, of an offer.

CHANGING = {
    "own": """
    createImage                                | F + + | - - - | - - - | - - | ? - - | + + | project C
    createImage, a copy beside it              | f + + | n n n | n n n | n n | ? n n | + + | project C
    createImage, a copy in one's own project   | f + + | f - - | f - - | - - | ? n - | + + | place C
    createImage, of a server                   | f + + | f - - | f - - | - - | ? n - | + + | place C
    createImage, of a snapshot                 | f + + | f - - | f - - | - - | ? n - | + + | place C
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
    launchServer beside it                     | f + + | n n n | n n n | n n | ? n n | + +
    launchServer in one's own project          | f + + | f - - | f - - | - - | ? n - | + +
    startServer                                | F + + | - - - | - - - | - - | ? - - | + +
    startServer, running                       | F = = | - - - | - - - | - - | ? - - | = =
    stopServer                                 | F + + | - - - | - - - | - - | ? - - | + +
    deleteServer                               | F + + | - - - | - - - | - - | ? - - | + +
    createVolume                               | F + + | - - - | - - - | - - | ? - - | + +
    createSnapshot                             | F + + | - - - | - - - | - - | ? - - | + + | project C
    deleteVolume                               | F + + | - - - | - - - | - - | ? - - | + +
    removeProjectMember, the last admin        | F F C | - - - | - - - | - - | ? - - | C C
    """,
    "shared": """
    createImage, a copy beside it              | f + + | n n n | n n n | n n | ? n n | + + | project C
    launchServer beside it                     | f + + | n n n | n n n | n n | ? n n | + +
    launchServer in one's own project          | f + + | f + + | f + + | - - | ? n - | + +
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
    createImage, of a server                   | f - - | f - - | f - - | - - | ? n + | - F | place C
    createImage, of a snapshot                 | f - - | f - - | f - - | - - | ? n + | - F | place C
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
    launchServer beside it                     | n n n | n n n | n n n | n n | ? n + | n +
    launchServer in one's own project          | f - - | f - - | f - - | - - | ? n + | - F
    startServer                                | - - - | - - - | - - - | - - | ? - + | - +
    startServer, running                       | - - - | - - - | - - - | - - | ? - = | - =
    stopServer                                 | - - - | - - - | - - - | - - | ? - + | - +
    deleteServer                               | - - - | - - - | - - - | - - | ? - + | - +
    createVolume                               | - - - | - - - | - - - | - - | ? - + | - +
    createSnapshot                             | - - - | - - - | - - - | - - | ? - + | - + | project C
    deleteVolume                               | - - - | - - - | - - - | - - | ? - + | - +
    removeProjectMember, the last admin        | - - - | - - - | - - - | - - | ? - C | - C
    """,
    "public": """
    createImage, a copy beside it              | n n n | n n n | n n n | n n | ? n + | n + | project C
    launchServer beside it                     | n n n | n n n | n n n | n n | ? n + | n +
    launchServer in one's own project          | f + + | f + + | f + + | + + | ? n + | + +
    createImage, a copy in one's own project   | f + + | f + + | f + + | + + | ? n + | + + | place C
    completeUpload                             | - - - | - - - | - - - | - - | ? - + | - + | sees U
    abortUpload                                | - - - | - - - | - - - | - - | ? - + | - + | sees M
    retryImage                                 | F F F | F F F | F F F | F F | ? - + | F + | sees M
    updateImage, name                          | F F F | F F F | F F F | F F | ? - + | F + | sees U
    updateImage, os                            | F F F | F F F | F F F | F F | ? - + | F + | sees U
    updateImage, labels                        | F F F | F F F | F F F | F F | ? - + | F + | sees U
    updateImage, protected                     | F F F | F F F | F F F | F F | ? - + | F + | sees U
    updateImage, not protected                 | F F F | F F F | F F F | F F | ? - + | F + | sees U
    deleteImage                                | F F F | F F F | F F F | F F | ? - + | F + | sees D
    shareImage, with a project of theirs       | F F F | F F F | F F F | F F | ? - I | F I
    shareImage, with another one               | F F F | F F F | F F F | F F | ? - I | F I
    shareImage, with an offer                  | F F F | F F F | F F F | F F | ? - I | F I
    shareImage, with another organization      | F F F | F F F | F F F | F F | ? - O | F O
    shareImage, with what is no project        | F F F | F F F | F F F | F F | ? - n | F n
    """,
}
