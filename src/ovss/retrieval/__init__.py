"""Captions as vectors: collections, search, and the words that the nearest captions of a segment hold."""
