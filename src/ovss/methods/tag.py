"""TAG: segments of an image with words that nobody gave it (Kawano and Aoki 2024).

Unlike other methods it goes to a caption collection between seeing an image and deciding, so it runs in three stages
with files between them: ``segments`` (clusters and their embeddings, ``_tag_segment``), ``retrieve`` (nearest captions
of every segment, ``ovss.retrieval``) and ``label`` (words and classes, ``_tag_name``). A row whose run names
``captions`` goes this way. ``Settings`` has all constants; every stage gets those that it uses.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovss.methods._tag_name import Naming
from ovss.methods._tag_segment import Segmenting


@dataclass(frozen=True)
class Settings(Segmenting, Naming):
    """All settings of a row; what each means is with the two parts."""
