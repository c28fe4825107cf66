"""The online service: embeds items on demand and recommends next items; never imports ``trainer``."""
