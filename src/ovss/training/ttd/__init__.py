"""TTD: selection of words by their maps, the two distillation losses, LoRA training of a base model."""
