"""A bundle's items as RecBole's atomic files, their vectors as an additional feature file (recbole.io)."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmemb.bundle import Bundle
from llmemb.catalogue import Catalogue, canonical_attributes
from llmemb.errors import DataError

SUFFIX = "llmemb"
CONFIG = f"""\
# RecBole's settings for the item vectors: `dataset.get_preload_weight("{SUFFIX}_id")` returns them,
# a row an item, in the order of RecBole's own numbers. Row 0 is padding.
additional_feat_suffix: [{SUFFIX}]
load_col:
  inter: [user_id, item_id, timestamp]
  item: "*"
  {SUFFIX}: [{SUFFIX}_id, {SUFFIX}_vector]
alias_of_item_id: [{SUFFIX}_id]
preload_weight:
  {SUFFIX}_id: {SUFFIX}_vector
"""

# RecBole pads with the first; pandas, by which it reads, takes the others for missing.
NO_ID = {
    "[PAD]", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


def write_recbole(bundle: Bundle, folder: Path, name: str) -> None:
    """Write ``<name>.item``, ``<name>.llmemb`` and ``llmemb.yaml``; there are no interactions.

    An attribute that is a number in every item that has it is a ``float``, a list a ``token_seq`` (blanks
    inside its entries become underscores), anything else a ``token``. Vectors are ``float_seq``, to the
    last bit of float32.

    Raises:
        DataError: RecBole would not take an item's id for one.
    """
    catalogue = bundle.catalogue
    for item_id in catalogue.ids:
        if item_id in NO_ID:
            raise DataError(f"RecBole does not read {item_id!r} as an item id; rename that item")
    columns = [("item_id:token", catalogue.ids), *_attribute_columns(catalogue)]
    _write_table(folder / f"{name}.item", columns)
    vectors = [" ".join(f"{value:.9g}" for value in vector) for vector in bundle.item_vectors]
    columns = [(f"{SUFFIX}_id:token", catalogue.ids), (f"{SUFFIX}_vector:float_seq", vectors)]
    _write_table(folder / f"{name}.{SUFFIX}", columns)
    (folder / f"{SUFFIX}.yaml").write_text(CONFIG, encoding="utf-8")


def _attribute_columns(catalogue: Catalogue) -> Iterable[tuple[str, list[str]]]:
    items = [canonical_attributes(item) for item in catalogue.attributes]
    taken = {"item_id"}
    for attribute in catalogue.fields():
        values = [item.get(attribute) for item in items]
        if all(value is None for value in values):
            continue
        kind, texts = _column(values)
        name = re.sub(r"\W", "_", attribute)
        while name in taken:
            name += "_"
        taken.add(name)
        yield f"{name}:{kind}", texts


def _column(values: list[Any]) -> tuple[str, list[str]]:
    """Return RecBole's type of a column, and its texts; None is a missing value."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return "float", ["" if value is None else str(value) for value in values]
    if list in kinds:
        # A sequence of no tokens is a blank: RecBole cannot split what pandas takes for missing.
        return "token_seq", [" ".join(map(_token, _entries(value))) or " " for value in values]
    return "token", ["" if value is None else _text(value) for value in values]


def _entries(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _token(value: Any) -> str:
    return _text(value).replace(" ", "_")


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return " ".join(text.split())


def _write_table(path: Path, columns: Sequence[tuple[str, list[str]]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow([name for name, _ in columns])
        writer.writerows(zip(*(texts for _, texts in columns), strict=True))
