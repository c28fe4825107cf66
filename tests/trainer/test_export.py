"""``llmemb export``: each form is read by the library that it is for, and gives the bundle's vectors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer
from tiny_bundle import ENCODER, PROMPT, WIDTH, reseal

from llmemb.bundle import Bundle, read_bundle
from llmemb.catalogue import Catalogue
from llmemb.errors import DataError, LLMEmbError
from trainer.export.export import Format, export
from trainer.export.recbole import write_recbole

RECBOLE = Path(__file__).parents[2] / ".recbole"
IN_RECBOLE = """
import json, sys
from pathlib import Path
import numpy as np
np.float_, np.complex_, np.unicode_ = np.float64, np.complex128, np.str_  # as numpy 1 had them
folder = Path(sys.argv.pop())
from recbole.config import Config
from recbole.data.dataset import Dataset
config = Config(
    model="BPR",
    dataset=folder.name,
    config_file_list=[str(folder / "llmemb.yaml")],
    config_dict={"data_path": str(folder.parent), "use_gpu": False},
)
dataset = Dataset(config)
json.dump(
    {
        "ids": dataset.field2id_token["item_id"].tolist(),
        "vectors": dataset.get_preload_weight("llmemb_id").tolist(),
        "years": dataset.get_item_feature()["year"].tolist(),
        "genres": [[str(dataset.field2id_token["genres"][i]) for i in one if i]
                   for one in dataset.get_item_feature()["genres"].tolist()],
        "titles": dataset.field2id_token["title"].tolist(),
    },
    sys.stdout,
)
"""


@pytest.fixture
def bundle(tiny_bundle: Path) -> Bundle:
    return read_bundle(tiny_bundle)


def test_parquet_is_read_by_pandas_and_polars(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "items.parquet"
    export(bundle, "parquet", out)
    for frame in (pl.read_parquet(out), pd.read_parquet(out)):
        assert list(frame["id"]) == bundle.catalogue.ids
        assert [json.loads(text) for text in frame["attributes"]] == bundle.catalogue.attributes
        assert list(frame["popularity"]) == bundle.popularity.tolist()
        assert np.array_equal(np.stack(frame["vector"].to_numpy()), bundle.item_vectors)
        assert np.array_equal(np.stack(frame["llm_vector"].to_numpy()), bundle.llm_vectors)


def test_npy_is_read_by_numpy(bundle: Bundle, tmp_path: Path) -> None:
    export(bundle, "npy", tmp_path / "npy")
    assert np.array_equal(np.load(tmp_path / "npy" / "vectors.npy"), bundle.item_vectors)
    assert json.loads((tmp_path / "npy" / "ids.json").read_text()) == bundle.catalogue.ids


def test_a_faiss_index_finds_what_the_item_vectors_do(bundle: Bundle, tmp_path: Path) -> None:
    export(bundle, "faiss", tmp_path / "index")
    index = faiss.read_index(str(tmp_path / "index" / "vectors.faiss"))
    assert (index.ntotal, index.metric_type) == (40, faiss.METRIC_INNER_PRODUCT)
    assert json.loads((tmp_path / "index" / "ids.json").read_text()) == bundle.catalogue.ids
    scores, rows = index.search(bundle.item_vectors, 40)
    expected = bundle.item_vectors @ bundle.item_vectors.T
    assert scores == pytest.approx(np.take_along_axis(expected, rows, 1), abs=1e-6)
    assert (np.diff(scores) <= 0).all()


@pytest.mark.skipif(
    not RECBOLE.is_dir(), reason="RecBole is not in .recbole (`make test` puts it there)"
)
def test_recbole_gives_each_item_its_vector(bundle: Bundle, tmp_path: Path) -> None:
    films = tmp_path / "films"
    bundle.catalogue.attributes[7].update(title='A "quoted"\ttitle', genres=["Film noir", "Sci-Fi"])
    bundle.catalogue.attributes[8].update(genres=[], year=None)
    export(bundle, "recbole", films)
    seen = bundle.catalogue.ids[:30]  # the others have no interaction
    rows = [f"u{i % 5}\t{item_id}\n" for i, item_id in enumerate(seen)]
    (films / "films.inter").write_text("user_id:token\titem_id:token\n" + "".join(rows))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", IN_RECBOLE, str(films)],
        env={**os.environ, "PYTHONPATH": str(RECBOLE)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ids"] == ["[PAD]", *bundle.catalogue.ids]
    vectors = np.array(found["vectors"], dtype=np.float32)
    assert np.array_equal(vectors[1:], bundle.item_vectors)
    assert not vectors[0].any()
    assert found["years"][1:4] == [1960, 1961, 1962]
    assert found["genres"][8:10] == [["Film_noir", "Sci-Fi"], []]
    assert 'A "quoted" title' in found["titles"]


def test_an_id_that_recbole_takes_for_none_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    catalogue = Catalogue(["NA", *bundle.catalogue.ids[1:]], bundle.catalogue.attributes)
    changed = Bundle(**{**vars(bundle), "catalogue": catalogue})
    with pytest.raises(DataError, match="'NA'"):
        write_recbole(changed, tmp_path, "films")


@pytest.mark.parametrize("pooling", ["mean", "last", "eos"])
def test_sentence_transformers_gives_the_services_vectors(
    tiny_bundle: Path, tmp_path: Path, pooling: str
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "bundle")
    settings = ENCODER.model_copy(update={"pooling": pooling, "max_tokens": 32})
    reseal(tmp_path / "bundle", encoder=settings)
    bundle = read_bundle(tmp_path / "bundle")
    export(bundle, "sentence-transformers", tmp_path / "encoder")
    prompts = [PROMPT.render(item) for item in bundle.catalogue.attributes]
    prompts += ["Film", "a prompt that is far too long " * 20]
    found = SentenceTransformer(str(tmp_path / "encoder")).encode(prompts)
    expected = bundle.load_encoder().encode(prompts).astype(np.float32)
    products = (found * expected).sum(1)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert (products / norms).min() >= 0.9999


@pytest.mark.parametrize(
    ("form", "name"), [("npy", "vectors.npy"), ("sentence-transformers", "model.safetensors")]
)
def test_an_earlier_export_is_replaced(
    bundle: Bundle, tmp_path: Path, form: Format, name: str
) -> None:
    export(bundle, form, tmp_path / "out")
    file = tmp_path / "out" / name
    whole = file.read_bytes()
    file.write_bytes(b"")
    export(bundle, form, tmp_path / "out")
    assert file.read_bytes() == whole


def test_a_folder_with_anything_else_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    films = tmp_path / "films"
    films.mkdir()
    (films / "films.inter").write_text("precious")
    (films / "films.item").write_text("precious too")
    with pytest.raises(LLMEmbError, match=r"films\.inter is there"):
        export(bundle, "recbole", films)
    assert {path.name for path in films.iterdir()} == {"films.inter", "films.item"}
    assert (films / "films.item").read_text() == "precious too"
    assert list(tmp_path.iterdir()) == [films]
    (tmp_path / "file").touch()
    with pytest.raises(LLMEmbError, match="is no folder"):
        export(bundle, "npy", tmp_path / "file")


def test_parquet_needs_its_ending(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"end in \.parquet"):
        export(bundle, "parquet", tmp_path / "items")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_and_says_where(tiny_bundle: Path, tmp_path: Path) -> None:
    program = "from llmemb.cli import main; main()"
    command = [sys.executable, "-c", program, "export", str(tiny_bundle), "--format", "faiss"]
    out = tmp_path / "index"
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=True)
    assert done.stdout == f"written to {out}\n"
    assert faiss.read_index(str(out / "vectors.faiss")).d == WIDTH
