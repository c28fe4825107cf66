"""The routes, one file a resource; what they do is done by the layers below."""
