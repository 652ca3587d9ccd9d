"""The feed: the log of events, cursors into it, and the subscriptions of each process."""
