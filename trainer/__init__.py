"""The offline trainer: raw data to a bundle; never imports ``service``."""
