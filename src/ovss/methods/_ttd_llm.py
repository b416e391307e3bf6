"""Language models that pick a caption's visible words (Table 2a, Vicuna and Qwen), without seeing the image.

The paper uses the prompts of TagAlign, which are not published; the prompt here is our own. Words that a model makes up
are dropped: only tags of the caption count.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovss.data.captions_words import CaptionWords
from ovss.errors import UserError

PROMPT = (
    "The caption of a photo is given below. Write down every word of the caption that names something one can see in "
    "the photo: objects, people, animals, places, materials, colours and actions. Copy the words exactly as they stand "
    "in the caption, add no others, leave out words that show nothing, and separate them by commas. Write nothing "
    "else.\nCaption: {caption}\n"
)
CUE = "Visible words:"
_EDGES = ".,;:!?\"'`()[]{}<>*-"
_READ = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError)


@dataclass(frozen=True)
class LlmSettings:
    """prompt: with a place for ``{caption}``. longest: tokens of an answer. batch: captions at a time.

    Raises:
        UserError: no such place, or a number below 1.
    """

    prompt: str = PROMPT
    longest: int = 64
    batch: int = 16

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        if "{caption}" not in self.prompt:
            raise UserError("settings.prompt: no place for the caption in it; write {caption} where it belongs")
        for name in ("longest", "batch"):
            if getattr(self, name) < 1:
                raise UserError(f"settings.{name}: {getattr(self, name)} is out of range; give 1 or more")


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model of transformers and its tokenizer."""

    model: Any
    tokenizer: Any

    def answers(self, captions: Sequence[str], settings: LlmSettings | None = None) -> list[str]:
        """The answer to each caption, greedily decoded, in the order of the captions.

        Prompts of equally many tokens go together, so none is padded.
        """
        settings = settings or LlmSettings()
        prompts = [self._ids(caption, settings.prompt) for caption in captions]
        found = [""] * len(captions)
        for numbers in _batches(prompts, settings.batch):
            texts = self._generate(torch.tensor([prompts[number] for number in numbers]), settings.longest)
            for number, text in zip(numbers, texts, strict=True):
                found[number] = text
        return found

    def _ids(self, caption: str, prompt: str) -> list[int]:
        text = prompt.replace("{caption}", " ".join(caption.split()))
        if not self.tokenizer.chat_template:
            return list(self.tokenizer(text + CUE)["input_ids"])
        message = [{"role": "user", "content": text}]
        chat = self.tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)
        return list(self.tokenizer(chat, add_special_tokens=False)["input_ids"])

    @torch.inference_mode()
    def _generate(self, ids: torch.Tensor, longest: int) -> list[str]:
        ids = ids.to(self.model.device)
        filler = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        made = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False, pad_token_id=filler
        )
        return list(self.tokenizer.batch_decode(made[:, ids.shape[1] :], skip_special_tokens=True))


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        groups[len(prompt)].append(number)
    for _, numbers in sorted(groups.items()):
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


def _bare(word: str) -> str:
    return word.strip(_EDGES) or word


def answered_tags(caption: CaptionWords, answer: str) -> list[bool]:
    """Which tags of a caption an answer names.

    The first line counts that neither is empty nor ends in a colon, as polite openings do. Case and punctuation around
    words mean nothing; a phrase names each of its words.

    Args:
        caption: n tags.
        answer: what a model wrote.

    Returns:
        (n) bool; all False where the answer has no word of the caption.
    """
    lines = (line.strip().removeprefix(CUE.lower()) for line in answer.lower().splitlines())
    first = next((line for line in lines if line and not line.endswith(":")), "")
    named = {_bare(word) for word in first.replace(",", " ").split()}
    return [_bare(tag) in named for tag in caption.tags]


def llm_tags(
    captions: Sequence[CaptionWords], model: LanguageModel, settings: LlmSettings | None = None
) -> list[list[bool]]:
    """``answered_tags`` of each caption's words, (n) bool each."""
    answers = model.answers([" ".join(caption.words) for caption in captions], settings)
    return [answered_tags(caption, answer) for caption, answer in zip(captions, answers, strict=True)]


def load_llm(directory: Path, device: str = "cpu") -> LanguageModel:
    """A causal language model from local safetensors files and its tokenizer, none of the model's own code.

    Args:
        directory: as transformers writes it.
        device: ``cpu``, ``cuda``, or ``auto`` to spread the model over all GPUs (a model of 72 billion parameters needs
            several). In the precision of its configuration; float32 on the CPU.

    Raises:
        UserError: a file is missing or damaged, a tensor is missing, or the model needs code of its own.
    """
    config = directory / "config.json"
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"no readable configuration of a language model ({error}); place the model there"
        raise UserError(f"{config}: {reason}") from error
    import transformers

    transformers.utils.logging.disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False}
    precision = torch.float32 if device == "cpu" else "auto"
    kind: Any = transformers.AutoModelForCausalLM
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **options)
        model, facts = kind.from_pretrained(
            directory, use_safetensors=True, output_loading_info=True, dtype=precision,
            device_map="auto" if device == "auto" else None, **options,
        )  # fmt: skip
    except _READ as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{directory}: not a language model that can be loaded: {reason:.300}") from error
    lacking = sorted(map(str, [*facts["missing_keys"], *facts["mismatched_keys"]]))
    if lacking:
        raise UserError(f"{directory}: its weights lack {len(lacking)} tensors, {lacking[0]} first; fetch them again")
    model = model if device == "auto" else model.to(device)
    return LanguageModel(model.eval().requires_grad_(False), tokenizer)
