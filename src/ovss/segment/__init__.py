"""One's own pictures: ``ovss segment``."""
