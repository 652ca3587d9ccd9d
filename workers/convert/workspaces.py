"""The folders in which attempts at jobs work: one for each, so that attempts never touch each other's files."""

import shutil
from pathlib import Path


def workspace_of(job_id: str, token: int) -> str:
    """The name of a job's folder while a worker holds the job by this token."""
    return f"{job_id}-{token}"


def remove_others(workspace: Path) -> None:
    """Delete the folders that killed attempts at the same job have left next to this one."""
    job_id, _, _ = workspace.name.rpartition("-")
    for folder in workspace.parent.glob(f"{job_id}-*"):
        if folder != workspace:
            shutil.rmtree(folder, ignore_errors=True)
