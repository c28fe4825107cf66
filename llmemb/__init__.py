"""The LLMEmb method: items to text, text to LLM vectors, LLM vectors to a sequential recommender.

Both wings build on this package, the offline ``trainer`` and the online ``service``; it imports neither.
"""

__version__ = "0.1.0"
