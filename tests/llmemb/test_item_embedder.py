"""``ItemEmbedder``: the vectors of the service, from lists and data frames, inside scikit-learn."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from service_process import Serve
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.validation import check_is_fitted
from tiny_bundle import PROMPT, WIDTH, film

from llmemb import ItemEmbedder
from llmemb.bundle import read_bundle
from llmemb.errors import BundleError, DataError, ItemError, SettingsError

FILMS = [film(i) for i in range(24)]
IS_OLD = [film["year"] < 1972 for film in FILMS]


@pytest.mark.parametrize("space", ["srs", "llm"])
def test_vectors_are_the_services(tiny_bundle: Path, serve: Serve, space: str) -> None:
    found = ItemEmbedder(tiny_bundle, space).transform(FILMS)
    form = {"items": [{"attributes": film} for film in FILMS], "space": space}
    answer = serve().client.post("/items/embed", json=form).json()
    expected = np.array([one["embedding"] for one in answer["data"]], dtype=np.float32)
    assert found.dtype == np.float32
    cosines = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    assert cosines / np.linalg.norm(expected, axis=1) == pytest.approx(1, abs=1e-4)


def test_data_frames_are_read_as_lists_are(tiny_bundle: Path, tmp_path: Path) -> None:
    embedder = ItemEmbedder(tiny_bundle)
    films = [{**FILMS[0], "plot": "none"}, *FILMS[1:]]  # an attribute that the others lack
    expected = embedder.transform(films)
    pl.DataFrame(films).write_parquet(tmp_path / "films.parquet")
    for frame in (
        pl.DataFrame(films),
        pd.DataFrame(films),
        pd.DataFrame(films, index=[f"row {i}" for i in range(24)]),
        pd.read_parquet(tmp_path / "films.parquet"),
    ):
        assert embedder.transform(frame) == pytest.approx(expected, abs=1e-6)


def test_it_is_a_step_of_a_pipeline(tiny_bundle: Path) -> None:
    model = make_pipeline(ItemEmbedder(str(tiny_bundle)), LogisticRegression(C=1e4, max_iter=1000))
    model.fit(FILMS, IS_OLD)
    assert model.score(FILMS, IS_OLD) > 0.8
    assert len(cross_val_score(model, FILMS, IS_OLD, cv=2, error_score="raise")) == 2
    model.set_params(itemembedder__space="llm").fit(FILMS, IS_OLD)
    llm_dimensions = read_bundle(tiny_bundle).manifest.llm_dimensions
    assert model.named_steps["logisticregression"].n_features_in_ == llm_dimensions
    assert make_pipeline(ItemEmbedder(tiny_bundle)).fit_transform(FILMS).shape == (24, WIDTH)
    names = make_pipeline(ItemEmbedder(tiny_bundle)).get_feature_names_out()
    assert list(names[:2]) == ["itemembedder0", "itemembedder1"]
    assert len(names) == WIDTH


def test_it_can_be_cloned_and_asked(tiny_bundle: Path) -> None:
    embedder = ItemEmbedder(tiny_bundle, space="llm")
    copy = clone(embedder)
    assert copy is not embedder
    assert copy.get_params() == embedder.get_params()
    assert repr(copy) == f"ItemEmbedder(bundle={tiny_bundle!r}, space='llm', base_model=None)"
    check_is_fitted(embedder)
    assert embedder.fit(FILMS) is embedder


def test_no_items_have_no_vectors(tiny_bundle: Path) -> None:
    assert ItemEmbedder(tiny_bundle).transform([]).shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("items", "error", "reason"),
    [
        ([FILMS[0], {"votes": 3}], ItemError, "1: there is nothing to read"),
        ([{"title": [float("inf")]}], ItemError, "0.title.0: inf is not a number"),
        (["Heat"], ItemError, "0: an item is a mapping of attributes, not str"),
        (pd.DataFrame({"title": ["Heat", ["a", 1]]}), DataError, "the data frame cannot be read"),
    ],
)
def test_an_item_that_cannot_be_used_is_named(
    tiny_bundle: Path, items: object, error: type[Exception], reason: str
) -> None:
    assert PROMPT.exclude == ("votes",)
    with pytest.raises(error, match=f"^{reason}"):
        ItemEmbedder(tiny_bundle).transform(items)


def test_wrong_settings_are_named(tiny_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="'id': give srs or llm"):
        ItemEmbedder(tiny_bundle, "id").transform(FILMS)
    with pytest.raises(SettingsError, match="no parameter 'spaces'"):
        ItemEmbedder(tiny_bundle).set_params(spaces="llm")
    with pytest.raises(BundleError, match="is missing"):
        ItemEmbedder(tmp_path).transform(FILMS)


def test_asking_the_package_for_it_is_what_loads_it() -> None:
    program = (
        "import sys, llmemb; assert 'torch' not in sys.modules;"
        "llmemb.ItemEmbedder; assert 'torch' in sys.modules; assert 'sklearn' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
