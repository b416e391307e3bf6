# Caption collections: shards of texts with their vectors, then an index for interactive use, with its recall.


rule captions:
    input:
        flow.inputs("captions"),
    output:
        flow.output("captions"),
    log:
        flow.log("captions"),
    benchmark:
        flow.benchmark("captions")
    resources:
        **flow.resources("captions"),
    shell:
        flow.shell


rule index:
    input:
        flow.inputs("index"),
    output:
        flow.output("index"),
    log:
        flow.log("index"),
    benchmark:
        flow.benchmark("index")
    resources:
        **flow.resources("index"),
    shell:
        flow.shell
