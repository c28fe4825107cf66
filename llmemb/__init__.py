"""The LLMEmb method: items to text, text to LLM vectors, LLM vectors to a sequential recommender.

Both wings build on this package, the offline ``trainer`` and the online ``service``; it imports neither.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmemb.item_embedder import ItemEmbedder

__all__ = ["ItemEmbedder"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the embedder when it is asked for: it needs PyTorch, `llmemb --help` does not."""
    if name == "ItemEmbedder":
        from llmemb.item_embedder import ItemEmbedder

        return ItemEmbedder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
