# Tables (those of a paper that have no runs in one process), claims and the report; then targets per paper and table,
# which publish what they made under results/.


for group in flow.passes("table"):

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
        resources:
            **group.resources,
        params:
            command=group.command,
        shell:
            "{params.command} 2>&1 | tee {log}"


rule claims:
    input:
        flow.inputs("claims"),
    output:
        flow.output("claims"),
    log:
        flow.log("claims"),
    benchmark:
        flow.benchmark("claims")
    resources:
        **flow.resources("claims"),
    shell:
        flow.shell


rule report:
    input:
        flow.inputs("report"),
    output:
        flow.output("report"),
    log:
        flow.log("report"),
    benchmark:
        flow.benchmark("report")
    resources:
        **flow.resources("report"),
    shell:
        flow.shell


rule publish:
    input:
        flow.everything,
    log:
        "logs/publish.log",
    params:
        command=flow.publish(),
    shell:
        "{params.command} 2> {log}"


for target in flow.targets:

    rule:
        name:
            target.rule
        input:
            target.outputs,
        log:
            f"logs/publish_{target.rule}.log",
        localrule: True
        params:
            command=flow.publish(target.rule),
        shell:
            "{params.command} 2> {log}"
