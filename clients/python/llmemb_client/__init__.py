"""Client of the LLMEmb service: :class:`Client`, and :class:`AsyncClient`, which has the same methods."""

from llmemb_client.async_client import AsyncClient
from llmemb_client.client import Client
from llmemb_client.errors import LLMEmbClientError
from llmemb_client.models import Item, PutCount

__all__ = ["AsyncClient", "Client", "Item", "LLMEmbClientError", "PutCount"]
