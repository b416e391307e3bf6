# Archives in, data sets out: world (tiny scales) -> fetch (download, verify), by_hand or own_folders -> prepare (extract,
# convert); images with texts likewise, and an index of the image-text pairs to train on.


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


rule world_texts:
    input:
        flow.inputs("world_texts"),
    output:
        flow.output("world_texts"),
    log:
        flow.log("world_texts"),
    benchmark:
        flow.benchmark("world_texts")
    priority: 20
    resources:
        **flow.resources("world_texts"),
    shell:
        flow.shell


rule by_hand:
    input:
        flow.inputs("by_hand"),
    output:
        flow.output("by_hand"),
    log:
        flow.log("by_hand"),
    benchmark:
        flow.benchmark("by_hand")
    priority: 20
    resources:
        **flow.resources("by_hand"),
    shell:
        flow.shell


rule own_folders:
    input:
        flow.inputs("own_folders"),
    output:
        flow.output("own_folders"),
    log:
        flow.log("own_folders"),
    benchmark:
        flow.benchmark("own_folders")
    priority: 20
    resources:
        **flow.resources("own_folders"),
    shell:
        flow.shell


rule prepare_texts:
    input:
        flow.inputs("prepare_texts"),
    output:
        flow.output("prepare_texts"),
    log:
        flow.log("prepare_texts"),
    benchmark:
        flow.benchmark("prepare_texts")
    priority: 20
    resources:
        **flow.resources("prepare_texts"),
    shell:
        flow.shell


rule index_pairs:
    input:
        flow.inputs("index_pairs"),
    output:
        flow.output("index_pairs"),
    log:
        flow.log("index_pairs"),
    benchmark:
        flow.benchmark("index_pairs")
    priority: 20
    resources:
        **flow.resources("index_pairs"),
    shell:
        flow.shell
