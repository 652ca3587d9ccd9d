"""What the operators' commands have in common on the command line."""

from pathlib import Path
from typing import Annotated

import typer

FOR_OPERATORS = "For operators"

Data = Annotated[Path | None, typer.Option(help="Folder of database, objects and secret [IMAGES_DATA].")]
