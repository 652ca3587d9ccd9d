"""The client side of the `images` command. It speaks GraphQL and HTTP, and imports nothing of the server's side."""

# What `app.client.commands.all` adds; told here, so that to know their names takes no import of what they need.
USER_COMMANDS = (
    *("upload", "watch", "list", "show", "history", "download", "copy", "delete"),
    *("share", "unshare", "shares", "offers", "accept", "decline"),
    *("projects", "members", "member", "quota", "usage"),
)
