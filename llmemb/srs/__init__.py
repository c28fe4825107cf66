"""Sequential recommenders (backbones) behind one small interface: item vectors in, user vector out.

A backbone owns no item table. It sees a sequence of item vectors, wherever those come from, and its
user vector is scored against item vectors by their inner product.
"""

from llmemb.srs.backbone import Backbone, BackboneName, BackboneSettings, build_backbone

__all__ = ["Backbone", "BackboneName", "BackboneSettings", "build_backbone"]
