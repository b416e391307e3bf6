# Archives in, data sets out: world (tiny scales) -> fetch (download, verify) -> prepare (extract, convert).


rule world:
    input:
        flow.inputs("world"),
    output:
        flow.output("world"),
    log:
        flow.log("world"),
    benchmark:
        flow.benchmark("world")
    priority: 20
    resources:
        **flow.resources("world"),
    shell:
        flow.shell


rule fetch:
    input:
        flow.inputs("fetch"),
    output:
        flow.output("fetch"),
    log:
        flow.log("fetch"),
    benchmark:
        flow.benchmark("fetch")
    priority: 20
    retries: 1
    resources:
        **flow.resources("fetch"),
    shell:
        flow.shell


rule prepare:
    input:
        flow.inputs("prepare"),
    output:
        flow.output("prepare"),
    log:
        flow.log("prepare"),
    benchmark:
        flow.benchmark("prepare")
    priority: 20
    resources:
        **flow.resources("prepare"),
    shell:
        flow.shell
