"""The feed: a log of events, cursors into it, and how each process follows it."""
