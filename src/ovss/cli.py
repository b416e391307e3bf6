"""The ``ovss`` command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ovss.errors import UserError
from ovss.root import find_root

SCALES = ("smoke", "tiny", "small", "full")
Command = Callable[[argparse.Namespace, Path], int]


def _job(options: argparse.Namespace, root: Path) -> int:
    from ovss import gpus, runner
    from ovss.plan.plan import load_plan
    from ovss.plan.stages import STAGES

    runner.quiet_threads()
    os.chdir(root)
    plan = load_plan(root, options.scale)
    if options.group:
        jobs = [job for job in plan.group(options.group, options.seal) if not (root / job.done).is_file()]
    else:
        jobs = [plan.find(options.output)]
    if jobs:
        gpus.reserve(STAGES[jobs[0].stage].gpus * max(int(job.params.get("processes", 1)) for job in jobs))
        runner.run_jobs(jobs, root, plan.seed)
    return 0


def _publish(options: argparse.Namespace, root: Path) -> int:
    from ovss.plan.plan import load_plan
    from ovss.publish import publish

    publish(load_plan(root, options.scale), root, options.target)
    return 0


def _reproduce(options: argparse.Namespace, root: Path) -> int:
    from ovss.data.user_limits import OFFLINE
    from ovss.reproduce import reproduce

    if options.offline:
        os.environ[OFFLINE] = "1"
    return reproduce(root, options.force_unlock)


def _summary(options: argparse.Namespace, root: Path) -> int:
    from ovss.plan.plan import load_plan
    from ovss.publish import summary

    print(summary(load_plan(root, options.scale), root))
    return 0


def _plan(options: argparse.Namespace, root: Path) -> int:
    from ovss.plan.cost import Costs
    from ovss.plan.plan import make_plan
    from ovss.plan.project import Project
    from ovss.plan.show import as_json, job_list, overview

    project = Project.load(root)
    plan = make_plan(project, options.scale)
    project.closure.remember()
    if options.json:
        print(as_json(plan, Costs(project) if options.jobs else None))
    elif options.jobs or options.stage:
        print(job_list(plan, root, Costs(project), options.stage))
    else:
        print(overview(project, plan))
    return 0


def _why(options: argparse.Namespace, root: Path) -> int:
    from ovss.plan.why import why

    print(why(root, options.path, options.revisions, options.scale))
    return 0


def _verify(options: argparse.Namespace, root: Path) -> int:
    from ovss.store import verify

    return verify(root, options.repair)


def _gc(options: argparse.Namespace, root: Path) -> int:
    from ovss.store import collect_garbage

    print(collect_garbage(root, options.delete, options.keep))
    return 0


def _diff(options: argparse.Namespace, root: Path) -> int:
    from ovss.diff import main as diff

    print(diff(root, options.revision, options.other, options.scale or _default_scale(root)))
    return 0


def _default_scale(root: Path) -> str:
    from ovss.config.params import load_params

    return load_params(root).scale


def _schema(options: argparse.Namespace, root: Path) -> int:
    from ovss.config.schemas import check_schemas, write_schemas

    return check_schemas(root) if options.check else write_schemas(root)


def _describe(options: argparse.Namespace, root: Path) -> int:
    from ovss.describe import main as describe

    return describe(options.words, options.model, options.out, options.seed)


def _segment(options: argparse.Namespace, root: Path) -> int:
    from ovss import runner
    from ovss.segment.command import Request, main

    scale = options.scale or _default_scale(root)
    if options.list:
        from ovss.segment.listing import listing

        print(listing(root, scale))
        return 0
    runner.quiet_threads()
    request = Request(options.images, options.method, scale, options.out, options.classes, options.classes_file,
                      options.dataset, options.captions, options.clusters)  # fmt: skip
    return main(request, root)


def _dataset(options: argparse.Namespace, root: Path) -> int:
    from ovss.dataset_check.command import main as check

    return check(options.name, options.scale, options.out, root)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ovss", description="Reproduce five papers on open-vocabulary semantic segmentation, table by table."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Command, text: str, scale: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        if scale:
            sub.add_argument("--scale", choices=SCALES, help="which section of params.yaml (default: its 'scale')")
        return sub

    sub = add("reproduce", _reproduce, "run everything that is not there yet, then print where the report is", False)
    sub.add_argument("--force-unlock", action="store_true", help="remove locks that a killed run left behind")
    sub.add_argument("--offline", action="store_true", help="download nothing; say which files are missing and where")
    add("summary", _summary, "print the summary table of the published results")
    sub = add("plan", _plan, "what would run, what it costs, what is to be downloaded or placed, what stays empty")
    sub.add_argument("--json", action="store_true", help="every job with the parts of its key, as JSON")
    sub.add_argument("--jobs", action="store_true", help="every job with its inputs and its GPU-hours, estimated")
    sub.add_argument("--stage", metavar="STAGE", help="with --jobs: those of this stage")
    sub = add("diff", _diff, "compare the metrics of two commits cell by cell, with paired bootstrap intervals")
    sub.add_argument("revision", metavar="REV", help="a commit, branch or tag")
    sub.add_argument("other", metavar="REV2", nargs="?", help="the other side (default: the working tree)")
    sub = add("why", _why, "say what the key of an output is made of, and what changed between commits")
    sub.add_argument("path", help="an output under work/, or the start of its name (such as train_clip/clip)")
    sub.add_argument("revisions", metavar="REV", nargs="*", help="one commit (against the working tree) or two")
    sub = add("verify", _verify, "re-hash every stored file against the record of the job that wrote it", False)
    sub.add_argument("--repair", action="store_true", help="restore damaged outputs from the DVC cache or remote")
    sub = add("gc", _gc, "list outputs under work/ that no reachable plan names", False)
    sub.add_argument("--delete", action="store_true", help="delete them")
    sub.add_argument("--keep", metavar="REV", nargs="*", default=[], help="commits whose outputs stay, too")
    sub = add("schema", _schema, "write the JSON schemas of the YAML files", False)
    sub.add_argument("--check", action="store_true", help="only say whether they are up to date")
    sub = add("describe", _describe, "write descriptions of class names with a local language model", False)
    sub.add_argument(
        "--words", required=True, metavar="FILE", help="a class list: one class per line, names after ', '"
    )
    sub.add_argument("--model", required=True, metavar="MODEL", help="folder, or name on the Hugging Face hub")
    sub.add_argument("--out", required=True, type=Path, metavar="FILE", help="JSON file; words in it are kept")
    sub.add_argument("--seed", type=int, default=0)
    _add_segment(add("segment", _segment, "segment your own pictures with any method of the papers"))
    sub = add("dataset", _dataset, "check a data set (your own, say) against its entry and draw a contact sheet")
    sub.add_argument("action", choices=("check",))
    sub.add_argument("name", metavar="NAME", help="a data set of datasets.yaml")
    sub.add_argument("--out", type=Path, metavar="FILE", help="the sheet (default: data/checked/NAME.png)")
    sub = add("publish", _publish, "copy finished tables, claims and report to results/ (used by the workflow)")
    sub.add_argument("target", nargs="?", help="a paper or a table (freecp, freecp_table2); default: everything")
    sub = add("job", _job, "run one job of the plan (used by the workflow)")
    sub.add_argument("output", nargs="?", help="the output to make: work/<stage>/<name>.<key>/origin.json")
    sub.add_argument("--pass", dest="group", help="a pass: <stage>/<name>")
    sub.add_argument("--seal", help="what the pass was planned as; refuses to run if the plan has changed since")
    return parser


def _add_segment(sub: argparse.ArgumentParser) -> None:
    sub.formatter_class = argparse.RawDescriptionHelpFormatter
    sub.epilog = """Of each picture NAME it writes NAME.png (the picture, its classes, a legend), NAME.labels.png
(class number of every pixel, 255 = none, at the picture's size) and NAME.json (the rest).

  ovss segment photo.jpg --method freecp --classes "cat, sofa"   classes of your own
  ovss segment photo.jpg --method sclip --dataset ADE            the class list of a data set
  ovss segment holiday/                                          words that nobody gave it (TAG)
  ovss segment --list                                            all names, and what each still needs"""
    sub.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="a picture, or a folder with pictures")
    sub.add_argument("--list", action="store_true", help="list the names for --method and what they need")
    sub.add_argument("--method", default="tag", metavar="NAME",
                     help="a name of --list, or any row of a paper as paper.table.row (default: tag)")  # fmt: skip
    sub.add_argument("--classes", metavar="NAMES", help="'cat, sofa': the classes (tag: the nearest of each word)")
    sub.add_argument("--classes-file", type=Path, metavar="FILE",
                     help="the same as a file, one class a line; further names of it after ', '")  # fmt: skip
    sub.add_argument("--dataset", metavar="NAME",
                     help="whose class list, thresholds and background: VOC21 (default), ADE, ... or one of your own; "
                     "without background (VOC20, ADE, ...) every pixel gets a class")  # fmt: skip
    sub.add_argument("--captions", metavar="NAME", help="tag: pmd (default), cc12m, wordnet or english_words")
    sub.add_argument("--clusters", type=int, metavar="N", help="tag: segments a picture at most")
    sub.add_argument("--out", type=Path, default=Path("segmented"), metavar="DIR",
                     help="folder of the results (default: segmented)")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 on success, 1 where a check found something, 2 with one sentence where the user must act."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options, find_root()))
    except UserError as error:
        print(f"ovss: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
