# The whole workflow: every path holds a content key, so "up to date" means "the path exists".
# Science is in params.yaml and papers/*.yaml, machines are in profiles/, logic is in src/ovss/plan/.
from ovss.plan.workflow import Workflow

flow = Workflow.load(workflow.basedir, config)


wildcard_constraints:
    key="[0-9a-f]{16}",


# Downloads are made where Snakemake runs: the nodes of most clusters have no way out.
localrules:
    all,
    publish,
    fetch,


rule all:
    input:
        flow.everything,


include: "rules/data.smk"
include: "rules/models.smk"
include: "rules/captions.smk"
include: "rules/evaluate.smk"
include: "rules/report.smk"
