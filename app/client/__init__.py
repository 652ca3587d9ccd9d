"""The client side of the `images` command. It speaks GraphQL and HTTP, and imports nothing from the server."""

# The commands that `app.client.commands.all` adds. Listed here so that reading the names imports nothing else.
USER_COMMANDS = (
    *("upload", "watch", "list", "show", "history", "download", "copy", "delete"),
    *("launch", "servers", "start", "stop", "delete-server"),
    *("console", "volumes", "create-volume", "delete-volume"),
    *("snapshot", "snapshots", "promote"),
    *("share", "unshare", "shares", "offers", "accept", "decline"),
    *("projects", "members", "member", "quota", "usage"),
)
