# Tables, claims and the report; then targets per paper and table, which publish what they made under results/.


rule table:
    input:
        flow.inputs("table"),
    output:
        flow.output("table"),
    log:
        flow.log("table"),
    benchmark:
        flow.benchmark("table")
    resources:
        **flow.resources("table"),
    shell:
        flow.shell


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
        params:
            command=flow.publish(target.rule),
        localrule: True
        shell:
            "{params.command} 2> {log}"
