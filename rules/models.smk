# Models: trained from scratch on the tiny world, or downloaded weights brought to one layout; pairs that pruning keeps.
# TTD's trainings are in evaluate.smk.


rule train_clip:
    input:
        flow.inputs("train_clip"),
    output:
        flow.output("train_clip"),
    log:
        flow.log("train_clip"),
    benchmark:
        flow.benchmark("train_clip")
    priority: 40
    resources:
        **flow.resources("train_clip"),
    shell:
        flow.shell


rule train_dino:
    input:
        flow.inputs("train_dino"),
    output:
        flow.output("train_dino"),
    log:
        flow.log("train_dino"),
    benchmark:
        flow.benchmark("train_dino")
    priority: 30
    resources:
        **flow.resources("train_dino"),
    shell:
        flow.shell


rule weights:
    input:
        flow.inputs("weights"),
    output:
        flow.output("weights"),
    log:
        flow.log("weights"),
    benchmark:
        flow.benchmark("weights")
    resources:
        **flow.resources("weights"),
    shell:
        flow.shell


rule train_tcl:
    input:
        flow.inputs("train_tcl"),
    output:
        flow.output("train_tcl"),
    log:
        flow.log("train_tcl"),
    benchmark:
        flow.benchmark("train_tcl")
    priority: 40
    resources:
        **flow.resources("train_tcl"),
    shell:
        flow.shell


rule prune:
    input:
        flow.inputs("prune"),
    output:
        flow.output("prune"),
    log:
        flow.log("prune"),
    benchmark:
        flow.benchmark("prune")
    priority: 35
    resources:
        **flow.resources("prune"),
    shell:
        flow.shell
