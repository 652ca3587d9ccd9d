"""`images fsck`: compares the catalogue with the object store."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import anyio
import typer

from app.adapters.chosen import reserve_of, storage_of
from app.catalog.catalogue import Catalogue
from app.catalog.fsck import Finding, Fsck
from app.commands.options import FOR_OPERATORS, Data
from app.commands.starting import prepare, require_sound_database, settings_from
from app.database.sessions import Database
from app.settings import Settings
from app.sizes import counted


def add_fsck_command(cli: typer.Typer, owner_of: Callable[[str], str]) -> None:
    """Add `fsck`. For an object that a conversion left, `owner_of` returns the key of the result it belongs to."""

    @cli.command(rich_help_panel=FOR_OPERATORS)
    def fsck(
        data: Data = None,
        repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    ) -> None:
        """Compare the catalogue with the object store. The gateway may be running.

        Finds ACTIVE images whose objects are missing or have the wrong size, objects that no row references, and quota
        that is reserved for nothing. Changes nothing without --repair. Exits with 0 if it finds nothing, otherwise with
        1.
        """
        settings = settings_from(data=data)
        prepare(settings)
        require_sound_database(settings, seconds=None)
        count, repaired = anyio.run(_run, settings, repair, owner_of, _print_json if as_json else _print_text)
        if not as_json:
            fixed = f", {repaired} repaired" if repair else ""
            typer.echo(f"{counted(count, 'finding')}{fixed}")
        if count:
            raise typer.Exit(1)


Printer = Callable[[AsyncIterator[Finding]], AsyncIterator[Finding]]


async def _run(settings: Settings, repair: bool, owner_of: Callable[[str], str], printed: Printer) -> tuple[int, int]:
    """The number of findings, and how many of them were repaired."""
    database = Database(settings.database_address, reserve=reserve_of(settings))
    storage = storage_of(settings)
    count = repaired = 0
    try:
        catalogue = Catalogue(database, storage.store, settings)
        check = Fsck(catalogue, timedelta(seconds=settings.orphan_seconds), owner_of, repair)
        async for finding in printed(check.findings()):
            count += 1
            repaired += finding.repaired
    finally:
        storage.close()
        await database.close()
    return count, repaired


async def _print_text(findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    async for finding in findings:
        about = " ".join(filter(None, (finding.image_id, finding.key)))
        sizes = ""
        if finding.expected_size is not None and finding.found_size is not None:
            sizes = f" ({counted(finding.found_size, 'byte')} instead of {finding.expected_size:,})"
        done = "  repaired" if finding.repaired else ""
        typer.echo(f"{finding.problem}  {about}: {finding.message}{sizes}{done}")
        yield finding


async def _print_json(findings: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    """Print one JSON object as findings arrive: there may be more than fit into memory."""
    typer.echo('{"findings": [', nl=False)
    separator = ""
    async for finding in findings:
        typer.echo(separator + json.dumps(_as_json(finding)), nl=False)
        separator = ", "
        yield finding
    typer.echo("]}")


def _as_json(finding: Finding) -> dict[str, object]:
    names = {"image_id": "imageId", "expected_size": "expectedSize", "found_size": "foundSize"}
    return {names.get(name, name): value for name, value in asdict(finding).items()}
