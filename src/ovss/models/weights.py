"""Stage ``weights``: a downloaded checkpoint becomes a model directory, by the library that knows the model.

CLIP: open_clip's hub layout. TCL: the same with its grounder beside it (``tcl_checkpoint``). DINO, DINOv2, SAM: timm
(``timm_models``). MaskFormer, HQ-SAM: ``transformers_models``. Sentence encoders: ``sentences``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from ovss.errors import UserError
from ovss.jobs import JobContext
from ovss.models import transformers_models
from ovss.models.checkpoints import read_checkpoint
from ovss.models.clip import CONFIG_FILE, WEIGHTS_FILE, check_tower, instantiate, load_clip
from ovss.models.hq_sam_checkpoint import VARIANTS, write_hq_sam
from ovss.models.openclip import open_clip
from ovss.models.resized import Norm
from ovss.models.sentences import write_sentences
from ovss.models.tcl_checkpoint import read_tcl, write_grounder
from ovss.models.timm_models import write_timm

# Where open_clip's tag stands: this architecture's weights are inside a TCL.
TCL_TAG = "tcl"


def model_config(architecture: str) -> dict[str, Any]:
    """open_clip's configuration of an architecture.

    Raises:
        UserError: open_clip does not know it.
    """
    config = open_clip.get_model_config(architecture)
    if config is None:
        raise UserError(f"load.open_clip: open_clip has no architecture '{architecture}'; mend weights.yaml")
    return dict(config)


def write_model(
    out: Path, config: Mapping[str, Any], norm: Mapping[str, Any], state: Mapping[str, Tensor], name: str
) -> int:
    """Check that weights and configuration fit, write the model directory, return the number of parameters.

    Raises:
        UserError: they do not fit.
    """
    model = instantiate(config, state, name)
    check_tower(model.visual, name)
    preprocess = {"mean": list(norm["mean"]), "std": list(norm["std"]),
                  "interpolation": norm.get("interpolation") or "bicubic"}  # fmt: skip
    record = {"model_cfg": dict(config), "preprocess_cfg": preprocess}
    (out / CONFIG_FILE).write_text(json.dumps(record, sort_keys=True, indent=1) + "\n", encoding="utf-8")
    save_file({key: value.contiguous().clone() for key, value in state.items()}, out / WEIGHTS_FILE)
    return sum(parameter.numel() for parameter in model.parameters())


def write_tcl(out: Path, architecture: str, norm: Mapping[str, Any], paths: Sequence[Path], name: str) -> int:
    """Write the model directory of a TCL, return the number of parameters (CLIP's logit scale counts).

    ``paths``: see ``read_tcl``.

    Raises:
        UserError: a file cannot be read, or the parts do not fit.
    """
    state = read_tcl(paths, name)
    count = write_model(out, model_config(architecture), norm, state.clip, name)
    return count + write_grounder(out, load_clip(out), state.grounder, name)


def run(ctx: JobContext) -> dict[str, object]:
    """Convert one checkpoint.

    Parameters: ``weights`` (name), ``files`` (names), ``format`` (torchscript, pickle, safetensors), ``load`` (what the
    libraries call the model: ``open_clip`` [architecture, tag], for a TCL [its CLIP, ``tcl``], goes before
    ``transformers``, which needs a ``config.json`` among the files and ``input``, and that before ``timm``;
    ``sentence_transformers`` goes before all), ``norm`` {mean, std, interpolation}, needed by all that see images.
    Input ``file``: the fetched folder. A CLIP's tensors keep their type (OpenAI's are float16); loading casts to
    float32.

    Returns:
        Facts: architecture and number of parameters.

    Raises:
        UserError: no way to load it or no normalisation is stated, or the file does not fit it.
    """
    name, params, source = str(ctx.params["weights"]), ctx.params, ctx.inputs["file"]
    load, norm, files = params["load"], params.get("norm"), params["files"]
    if load.get("sentence_transformers"):
        count = write_sentences(ctx.out, source, files)
        return {"architecture": load["sentence_transformers"], "parameters": count}
    if not norm:
        raise UserError(f"weights {name}: conversion needs norm; add it to weights.yaml")
    if load.get("open_clip"):
        architecture, tag = load["open_clip"]
        if tag == TCL_TAG:
            count = write_tcl(ctx.out, architecture, norm, [source / file for file in files], name)
        else:
            state = read_checkpoint(source / files[0], params["format"])
            count = write_model(ctx.out, model_config(architecture), norm, state, name)
    elif load.get("transformers") and transformers_models.CONFIG_FILE in files and params.get("input"):
        architecture = load["transformers"]
        count = transformers_models.write_transformers(ctx.out, source, Norm.of(norm), params["input"])
    elif load.get("sam_hq"):
        architecture = f"sam_hq_{load['sam_hq']}"
        state = read_checkpoint(source / files[0], params["format"])
        count = write_hq_sam(ctx.out, VARIANTS[load["sam_hq"]], Norm.of(norm), state, params["input"], name)
    elif load.get("timm"):
        architecture = load["timm"]
        state = read_checkpoint(source / files[0], params["format"])
        count = write_timm(ctx.out, architecture, Norm.of(norm), state)
    else:
        raise UserError(
            f"weights {name}: conversion needs load.open_clip, load.timm, load.sentence_transformers, or "
            f"load.transformers with input and a {transformers_models.CONFIG_FILE}; add it to weights.yaml"
        )
    return {"architecture": architecture, "parameters": count}
