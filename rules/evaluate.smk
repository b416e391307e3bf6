# Passes: one process opens the images (or encodes the words) once and makes every output that is still missing,
# each of which appears under its own key. One rule a pass, since a pass has as many outputs as are missing; the longest
# come first, and before them what others wait for. TTD's trainings of a base share a process at the tiny scales, where
# each is shorter than its imports.

for group in flow.passes(
    "text",
    "evaluate",
    "evaluate_texts",
    "clusters",
    "segments",
    "retrieve",
    "label",
    "train_ttd",
):

    rule:
        name:
            group.rule
        input:
            group.inputs,
        output:
            group.outputs,
        log:
            group.log,
        benchmark:
            group.benchmark
        priority: group.priority
        retries: 1
        resources:
            **group.resources,
        params:
            command=group.command,
        shell:
            "{params.command} 2>&1 | tee {log}"
