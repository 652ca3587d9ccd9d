"""The job queue of an API process that shares only the database with its workers."""


class NoQueue:
    """`ports.JobQueue` that sends nothing: the workers poll for jobs every `IMAGES_POLL_SECONDS`."""

    def wake(self, kind: str) -> None:
        """Does nothing: the workers find the job in its table."""

    async def check(self) -> None:
        """Never fails."""
