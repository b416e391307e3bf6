"""Where the project is."""

from __future__ import annotations

from pathlib import Path

from ovss.errors import UserError


def find_root(start: Path | None = None) -> Path:
    """The project's folder: the nearest one upwards that holds params.yaml and Snakefile.

    Raises:
        UserError: there is none.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file() and (folder / "Snakefile").is_file():
            return folder
    raise UserError(f"{here}: not inside the project (no params.yaml and Snakefile here or above); cd into the clone")
