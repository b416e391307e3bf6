#!/usr/bin/env bash
# The workflow under SLURM and locally: the same bytes?  make test-slurm [SCALE=smoke]
# Starts Debian's SLURM on 127.0.0.1 with two pretended GPUs, all state in one temporary folder, and stops it by pid.
# Where it cannot be installed or another SLURM is set up, the test says so and is skipped.
# Environment: PYTHON, SCALE, TARGET (such as freecp_table1; default: everything), KEEP=1 (leave the folder),
# PORT (of slurmctld; slurmd takes the next one), LOCAL (a clone where the same commit and scale ran already; default: a
# second run in a copy).
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/slurm/daemons.sh

PYTHON=$(realpath --canonicalize-missing --no-symlinks "${PYTHON:-.venv/bin/python}")
SCALE=${SCALE:-smoke}
TARGET=${TARGET:-publish}
HERE=$PWD
FOLDER=$(mktemp -d "${TMPDIR:-/tmp}/ovss-slurm.XXXXXX")

skip() {
  echo "test-slurm: skipped: $1"
  exit 0
}

finish() {
  stop_slurm
  [[ -n ${KEEP:-} ]] && echo "test-slurm: kept $FOLDER" || rm -rf "$FOLDER"
}
trap finish EXIT
trap 'exit 130' INT TERM

copy_project() { # NAME: what Git tracks or would track, without results
  mkdir "$FOLDER/$1"
  git ls-files -z --cached --others --exclude-standard -- . ':!results' ':!dvc.lock' |
    while IFS= read -r -d '' name; do [[ -e $name ]] && printf '%s\0' "$name"; done |
    tar --null --files-from=- --create | tar --extract --directory "$FOLDER/$1"
}

run() { # NAME [SNAKEMAKE OPTION...]: the workflow in a copy; the jobs themselves write the log that is counted
  local name=$1 started=$SECONDS
  shift
  echo "test-slurm: scale $SCALE, $TARGET, $name"
  (cd "$FOLDER/$name" && PYTHONPATH="$FOLDER/$name/src${PYTHONPATH:+:$PYTHONPATH}" OVSS_JOB_LOG="$FOLDER/$name.jobs" \
    "$PYTHON" -m snakemake --config "scale=$SCALE" "$@" -- "$TARGET" >>"$FOLDER/$name.log" 2>&1) ||
    { tail -40 "$FOLDER/$name.log" >&2 && return 1; }
  echo "test-slurm: $name: $(wc -l <"$FOLDER/$name.jobs") outputs made so far, $((SECONDS - started)) s"
}

[[ -x $PYTHON ]] || skip "$PYTHON is not there; run 'make setup'"
"$PYTHON" -c 'import snakemake_executor_plugin_slurm' 2>/dev/null || skip "the plugin is not installed; run 'make cluster'"
reason=$(install_slurm) || skip "$reason"
start_slurm "$FOLDER" || { tail -n 20 "$FOLDER"/daemons/*.log >&2 && exit 1; }
two_gpus_differ

unset SNAKEMAKE_PROFILE OVSS_PARTITION OVSS_ACCOUNT
export OVSS_WORKERS=1
[[ -e /proc/driver/nvidia ]] && export OVSS_DEVICE=cpu || unset OVSS_DEVICE # the GPUs here are pretended
copy_project slurm
copy_project local
quick=(--slurm-init-seconds-before-status-checks 2 --seconds-between-status-checks 2 --latency-wait 10)
SNAKEMAKE_PROFILE=profiles/slurm run slurm "${quick[@]}"
made=$(wc -l <"$FOLDER/slurm.jobs")
echo "test-slurm: SLURM ended $(ended_jobs) jobs well"
SNAKEMAKE_PROFILE=profiles/slurm run slurm "${quick[@]}"
[[ $(wc -l <"$FOLDER/slurm.jobs") == "$made" ]] || { echo "test-slurm: the second run made outputs again" >&2; exit 1; }
(( $(ended_jobs) > 0 )) || { echo "test-slurm: no job went through SLURM" >&2; exit 1; }
[[ -n ${LOCAL:-} ]] || run local
"$PYTHON" "$HERE/tests/slurm/compare.py" "${LOCAL:-$FOLDER/local}" "$FOLDER/slurm"
