"""The job queue of an API process that shares nothing with its workers but the database."""


class NoQueue:
    """`ports.JobQueue` that tells nobody: the workers look for jobs by themselves every `IMAGES_POLL_SECONDS`."""

    def wake(self, kind: str) -> None:
        """Does nothing; the rows of jobs are all that the workers need."""

    async def check(self) -> None:
        """There is nothing that could fail."""
