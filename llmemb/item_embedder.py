"""Items to vectors in this process: what ``llmemb embed`` does for a file, and a scikit-learn transformer.

The service does the same for requests, with a cache between.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmemb.bundle import Bundle, read_bundle, read_manifest
from llmemb.catalogue import Attributes, canonical
from llmemb.encoder import Encoder, Tokens
from llmemb.errors import DataError, ItemError, SettingsError

Space = Literal["srs", "llm"]


def embed_prompts(
    bundle: Bundle, encoder: Encoder, prompts: Sequence[str], space: Space
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the vector of each prompt; the same prompt twice is computed once.

    Args:
        bundle: makes the vectors.
        encoder: the bundle's.
        prompts: at least one.
        space: ``srs``: vectors that the recommender scores; ``llm``: the LLM's own.

    Returns:
        float32 ``[prompts, width]`` or ``[prompts, llm]``, and bool ``[prompts]``: whether the prompt is
        longer than the model reads.
    """
    distinct, rows = distinct_prompts(prompts)
    return embed_tokens(bundle, encoder, encoder.tokenize(distinct), rows, space)


def distinct_prompts(prompts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the prompts without repetition, and of each prompt its place among them."""
    places: dict[str, int] = {}
    rows = [places.setdefault(prompt, len(places)) for prompt in prompts]
    return list(places), rows


def embed_tokens(
    bundle: Bundle, encoder: Encoder, tokens: Sequence[Tokens], rows: Sequence[int], space: Space
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return what :func:`embed_prompts` does, from tokenised prompts.

    Args:
        bundle: makes the vectors.
        encoder: the bundle's.
        tokens: of the prompts without repetition, at least one.
        rows: of each prompt its place in ``tokens``.
        space: as there.
    """
    llm_vectors = encoder.encode_tokens(tokens)
    vectors = bundle.adapt(llm_vectors) if space == "srs" else llm_vectors.astype(np.float32)
    return vectors[rows], np.array([one.truncated for one in tokens])[rows]


class ItemEmbedder:
    """Embeds items from their attributes, as a transformer in a scikit-learn pipeline.

    It has been trained with its bundle: ``fit`` learns nothing. Vectors are those of the service and of
    ``llmemb embed``. The LLM is loaded on first use and shared with clones. It works without
    scikit-learn, and so does not inherit from its classes.

    Example:
        >>> model = make_pipeline(ItemEmbedder("bundles/ml-100k"), LogisticRegression())
        >>> model.fit([{"title": "Heat", "year": 1995}, {"title": "Babe", "year": 1995}], [1, 0])
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        space: Space = "srs",
        base_model: str | None = None,
    ) -> None:
        """Take what is looked at when vectors are asked for.

        Args:
            bundle: folder that ``llmemb train`` wrote.
            space: ``srs``: vectors that the recommender scores; ``llm``: the LLM's own.
            base_model: where the base model is on this machine; default: as the bundle was trained.
        """
        # Kept as they are given: scikit-learn's clone() compares them by identity.
        self.bundle = bundle
        self.space = space
        self.base_model = base_model

    def fit(self, items: object = None, y: object = None) -> Self:
        """Return the embedder as it is."""
        return self

    def transform(self, items: Iterable[Attributes]) -> NDArray[np.float32]:
        """Return the vector of each item, float32 ``[items, width]`` or ``[items, llm]``.

        Args:
            items: attributes, a mapping an item; or a data frame of pandas or polars, a column an
                attribute, whose missing values are attributes that the item lacks.

        Raises:
            ItemError: an item cannot be used, or the model would read nothing of it; ``path`` begins
                with its row.
            DataError: a data frame holds what Arrow cannot.
            SettingsError: there is no such space.
            BundleError: the bundle is incomplete or changed.
            ModelError: its base model is not on this machine.
        """
        if self.space not in get_args(Space):
            raise SettingsError(f"space {self.space!r}: give {' or '.join(get_args(Space))}")
        path = Path(self.bundle).resolve()
        bundle, encoder = _loaded(path, read_manifest(path).bundle, self.base_model)
        prompts = [_prompt(bundle, item, row) for row, item in enumerate(_rows(items))]
        if not prompts:
            return np.empty((0, self._width()), dtype=np.float32)
        return embed_prompts(bundle, encoder, prompts, self.space)[0]

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Return a name for each dimension of the vectors, ``itemembedder0`` and so on."""
        return np.array([f"itemembedder{i}" for i in range(self._width())], dtype=object)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return what the embedder was made with."""
        return {"bundle": self.bundle, "space": self.space, "base_model": self.base_model}

    def set_params(self, **params: Any) -> Self:
        """Change some of what the embedder was made with.

        Raises:
            SettingsError: there is no such parameter.
        """
        for name, value in params.items():
            if name not in self.get_params():
                raise SettingsError(f"ItemEmbedder has no parameter {name!r}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in self.get_params().items())
        return f"ItemEmbedder({params})"

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn, which alone calls this, what it takes and needs."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="transformer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(two_d_array=False, dict=True),
            requires_fit=False,
        )

    def _width(self) -> int:
        manifest = read_manifest(Path(self.bundle))
        return manifest.srs.width if self.space == "srs" else manifest.llm_dimensions


@lru_cache(maxsize=1)
def _loaded(path: Path, _bundle_id: str, base_model: str | None) -> tuple[Bundle, Encoder]:
    """Return a bundle and its encoder; a bundle that was replaced has another id."""
    bundle = read_bundle(path)
    return bundle, bundle.load_encoder(base_model)


def _rows(items: Any) -> Any:
    """Return the rows of a data frame, and anything else as it is."""
    try:
        if hasattr(items, "iloc"):  # pandas; its index is no attribute
            return pa.Table.from_pandas(items, preserve_index=False).to_pylist()
        if hasattr(items, "__arrow_c_stream__"):
            return pa.table(items).to_pylist()
    except pa.ArrowException as error:
        raise DataError(f"the data frame cannot be read: {str(error).splitlines()[0]}") from error
    return items


def _prompt(bundle: Bundle, item: Any, row: int) -> str:
    if not isinstance(item, Mapping):
        raise ItemError(f"an item is a mapping of attributes, not {type(item).__name__}", (row,))
    try:
        return bundle.manifest.prompt.render_known(json.loads(canonical(item)))
    except ItemError as error:
        raise ItemError(error.reason, (row, *error.path)) from error
