"""``ovss describe``: sentences for class names, written by a local causal language model.

FreeCP (section 4.2) asks Vicuna-13b-v1.5 three instructions per class and takes five answers to each. Its instructions
are not in the paper's text; these three are our own. Every answer is drawn with a seed of its word, instruction and
round, so that neither the order of the words nor an interruption changes what is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ovss.data.class_names import read_class_names
from ovss.data.descriptions import Sentences, read_sentences
from ovss.errors import UserError
from ovss.runner import machine

INSTRUCTIONS = (
    "Describe in one sentence what a {} looks like: its shape, its parts, its colours and its material.",
    "Say in one sentence by which visible marks a {} is told from things that are easily taken for it.",
    "Write the caption, one sentence, of a photo that shows a {} in the surroundings where it is usually seen.",
)
SAMPLES = 5
ROUNDS = 3
"""How often an instruction is asked anew for answers that were of no use."""
MAX_WORDS = 60
MAX_TOKENS = 100
SAMPLING = {"temperature": 0.7, "top_p": 0.95, "top_k": 0}

_REFUSALS = re.compile(
    r"(sure\b|sorry\b|certainly\b|i['’]?m\b|i (am|can|cannot|do)\b|as an? (ai|artificial|language|text))"
)
_MARKS = " \t\"'“”‘’*#-–•`"

Ask = Callable[[str, int], list[str]]
"""An instruction and a seed -> answers of the model."""


def clean(answer: str) -> str | None:
    """The usable start of an answer: its whole sentences up to 60 words, without quotes; None: there is none."""
    text = " ".join(answer.replace("“", '"').replace("”", '"').split()).replace('"', "")
    text = re.sub(r"^(\d+[.)]|[a-z][.)])\s+", "", text.strip(_MARKS), flags=re.IGNORECASE).strip(_MARKS)
    if _REFUSALS.match(text.lower()):
        return None
    kept: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        words = sentence.split()
        if kept and (len(kept) + len(words) > MAX_WORDS or not sentence.endswith((".", "!", "?"))):
            break
        kept += words
    return " ".join(kept[:MAX_WORDS]) if re.search(r"\w", text) else None


def describe_word(word: str, seed: int, ask: Ask) -> list[str]:
    """Sentences of a word: up to five different ones for each instruction, in the instructions' order.

    Args:
        word: a class name.
        seed: of the whole set.
        ask: gives answers to an instruction; the same ones for the same seed.
    """
    sentences: list[str] = []
    for number, instruction in enumerate(INSTRUCTIONS):
        found: list[str] = []
        for round_ in range(ROUNDS):
            answers = ask(instruction.format(word), _seed(seed, word, number, round_))
            usable = [text for answer in answers if (text := clean(answer))]
            found = [*found, *(text for text in dict.fromkeys(usable) if text not in (*sentences, *found))][:SAMPLES]
            if len(found) == SAMPLES:
                break
        sentences += found
    return sentences


def _seed(*parts: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


def describe(words: Iterable[str], out: Path, model: str, seed: int, ask: Ask, revision: str | None = None) -> None:
    """Write the sentences of some words to a file, word by word; words that it already has stay as they are.

    Raises:
        UserError: the file is of another model or seed, or the model gives no usable sentence for a word.
    """
    made_by = {"model": model, "revision": revision, "seed": seed, "instructions": INSTRUCTIONS, "sampling": SAMPLING}
    done = _resume(out, json.loads(json.dumps(made_by)))
    wanted = list(dict.fromkeys(words))
    for count, word in enumerate(wanted, start=1):
        if word not in done:
            sentences = describe_word(word, seed, ask)
            if not sentences:
                raise UserError(
                    f"{out}: {model} gave no usable sentence for '{word}'; use another model, or write some yourself "
                    "into the file and run the command again"
                )
            done[word] = tuple(sentences)
            _save(out, made_by, done)
            print(f"{count}/{len(wanted)} {word}: {len(sentences)} sentences", file=sys.stderr, flush=True)
    print(f"{out}: {sum(map(len, done.values()))} sentences for {len(done)} words", flush=True)


def _resume(out: Path, made_by: dict[str, Any]) -> Sentences:
    if not out.exists():
        return {}
    found = read_sentences(out)
    record = json.loads(out.read_text(encoding="utf-8")).get("made_by", {})
    other = [key for key, value in made_by.items() if not isinstance(record, dict) or record.get(key) != value]
    if other:
        raise UserError(f"{out}: it does not say that it has the same {', '.join(other)}; give another --out")
    return {word: sentences for word, sentences in found.items() if sentences}


def _save(out: Path, made_by: dict[str, Any], done: Sentences) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    text = json.dumps({"made_by": made_by, "sentences": done}, ensure_ascii=False, indent=1)
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, out)


def load_asker(model: str, device: str = "cpu") -> tuple[Ask, str | None]:
    """A language model that answers, and the commit that it was downloaded at (None: a folder).

    Weights are read from safetensors alone and no code of the model's repository is run.

    Raises:
        UserError: it cannot be loaded.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        network: Any = AutoModelForCausalLM.from_pretrained(
            model, use_safetensors=True, trust_remote_code=False, dtype=dtype
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{model}: no language model can be loaded from there ({reason}); give a folder with config.json, "
            "a tokenizer and *.safetensors, or a name on the Hugging Face hub"
        ) from error
    network = network.to(device).eval()

    @torch.inference_mode()
    def ask(instruction: str, seed: int) -> list[str]:
        inputs = _prompt(tokenizer, instruction).to(device)
        torch.manual_seed(seed)
        answers = network.generate(
            **inputs, do_sample=True, num_return_sequences=SAMPLES, max_new_tokens=MAX_TOKENS,
            pad_token_id=_first(tokenizer.pad_token_id, network.generation_config.eos_token_id, 0), **SAMPLING,
        )  # fmt: skip
        return list(tokenizer.batch_decode(answers[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return ask, getattr(network.config, "_commit_hash", None)


def _prompt(tokenizer: Any, instruction: str) -> Any:
    """The instruction as the model expects it: in its chat format where it has one."""
    if tokenizer.chat_template:
        message = [{"role": "user", "content": instruction}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False)
    return tokenizer(f"{instruction}\n", return_tensors="pt", return_token_type_ids=False)


def _first(*values: Any) -> int:
    """The first token id that is given (a model may have several for one purpose)."""
    found = next(value for value in values if value is not None)
    return int(found[0] if isinstance(found, Sequence) else found)


def words_of(file: str) -> list[str]:
    """Every name of a class list: a file, or the name of a list in ``ovss/resources/classes``; one class per line."""
    path = Path(file)
    return [name for names in read_class_names(path if path.is_file() else file, ", ") for name in names]


def main(words: str, model: str, out: Path, seed: int) -> int:
    """The command."""
    listed = words_of(words)
    ask, revision = load_asker(model, machine().device)
    name = Path(model).resolve().name if Path(model).is_dir() else model
    describe(listed, out, name, seed, ask, revision)
    return 0
