"""The stage that takes in a folder of files that a person has placed."""

from __future__ import annotations

from ovss.data.places import MANUAL
from ovss.errors import UserError
from ovss.jobs import JobContext


def run(ctx: JobContext) -> dict[str, object]:
    """Link the files of ``data/manual/<archive>``: they stay where they are, since they may be very large.

    Params: archive, files (name and size of each, as planned).

    Raises:
        UserError: a file is no longer there, or has another size than when the run was planned.
    """
    folder = MANUAL / str(ctx.params["archive"])
    for name, size in ctx.params["files"]:
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            found = f"has {path.stat().st_size} bytes" if path.is_file() else "is missing"
            raise UserError(f"{path}: {found}, {size} were planned; leave the folder alone and start again")
        (ctx.out / name).symlink_to(path.resolve())
    files = ctx.params["files"]
    return {"archive": ctx.params["archive"], "files": len(files), "bytes": sum(size for _, size in files)}
