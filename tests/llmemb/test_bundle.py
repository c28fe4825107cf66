"""A bundle from who knows where: it is loaded whole, or refused with the reason."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tiny_bundle import reseal

from llmemb.bundle import (
    ADAPTER,
    ITEM_VECTORS,
    LLM_VECTORS,
    MANIFEST,
    PROJECTION,
    SRS_MODEL,
    read_bundle,
    read_manifest,
)
from llmemb.errors import BundleError
from llmemb.files import json_bytes

TENSORS = (SRS_MODEL, ADAPTER, PROJECTION, LLM_VECTORS, ITEM_VECTORS)


@contextlib.contextmanager
def copied(bundle: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(bundle, Path(folder) / "bundle"))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_byte_that_is_changed_anywhere_is_found(tiny_bundle: Path, data: st.DataObject) -> None:
    with copied(tiny_bundle) as bundle:
        name = data.draw(st.sampled_from([MANIFEST, *read_manifest(bundle).files]))
        content = bytearray((bundle / name).read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "more"])):
            case "flip":
                content[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del content[place:]
            case _:
                content[place:place] = b"x"
        (bundle / name).write_bytes(content)
        with pytest.raises(BundleError):
            read_bundle(bundle)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_tensors_that_lie_are_refused(tiny_bundle: Path, data: st.DataObject) -> None:
    """Sealed anew, as one would who means harm: all hashes are right."""
    with copied(tiny_bundle) as bundle:
        file = bundle / data.draw(st.sampled_from(TENSORS))
        tensors = load_file(file)
        key = data.draw(st.sampled_from(sorted(tensors)))
        tensor = tensors[key]
        lie = data.draw(st.sampled_from(["missing", "shape", "type", "nan", "inf", "empty"]))
        if lie == "missing":
            del tensors[key]
        elif lie == "shape":
            tensors[key] = np.concatenate([np.atleast_1d(tensor)] * 2)
        elif lie == "type":
            tensors[key] = tensor.astype(np.int32)
        elif lie == "empty":
            tensors[key] = tensor.reshape(-1)[:0]
        else:
            tensors[key] = np.full_like(tensor, np.nan if lie == "nan" else np.inf)
        save_file(tensors, file)
        reseal(bundle)
        with pytest.raises(BundleError):
            read_bundle(bundle)


@pytest.mark.parametrize(
    "srs",
    [
        {"width": 8192, "blocks": 128},  # three terabytes
        {"width": 10**12},
        {"max_length": 10**12},
        {"name": "gru4rec"},
        {"heads": 3},
        {"width": -1},
    ],
)
def test_settings_that_lie_take_no_memory(tiny_bundle: Path, srs: dict[str, Any]) -> None:
    with copied(tiny_bundle) as bundle:
        raw = json.loads((bundle / MANIFEST).read_bytes())
        raw["srs"] |= srs
        manifest = read_manifest(bundle)
        with contextlib.suppress(ValueError):  # else the reader must find out
            settings_of = type(manifest.srs).model_validate(raw["srs"])
            reseal(bundle, srs=settings_of)
            raw = json.loads((bundle / MANIFEST).read_bytes())
        (bundle / MANIFEST).write_bytes(json_bytes(raw))
        with pytest.raises(BundleError):
            read_bundle(bundle)


@pytest.mark.parametrize(
    "header", [b"\xff" * 8, (2**40).to_bytes(8, "little"), b"", b"\x02\0\0\0\0\0\0\0[]"]
)
def test_a_tensor_file_whose_header_lies_is_refused(tiny_bundle: Path, header: bytes) -> None:
    for name in TENSORS:
        with copied(tiny_bundle) as bundle:
            (bundle / name).write_bytes(header)
            reseal(bundle)
            with pytest.raises(BundleError):
                read_bundle(bundle)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "encoder/../../outside"])
def test_a_path_that_leads_outside_is_refused(tiny_bundle: Path, name: str) -> None:
    with copied(tiny_bundle) as bundle:
        (bundle.parent / "outside").write_text("x")
        reseal(bundle, files={**read_manifest(bundle).files, name: "0" * 64})
        with pytest.raises(BundleError, match="outside the bundle"):
            read_bundle(bundle)


@pytest.mark.parametrize("name", [MANIFEST, LLM_VECTORS, "encoder", "more"])
def test_a_link_is_refused(tiny_bundle: Path, name: str) -> None:
    with copied(tiny_bundle) as bundle:
        aside = bundle.parent / "aside"
        if (bundle / name).exists():
            (bundle / name).rename(aside)
        else:
            aside.write_text("x")
        (bundle / name).symlink_to(aside)
        with pytest.raises(BundleError):
            read_bundle(bundle)


def test_what_is_no_file_is_refused(tiny_bundle: Path) -> None:
    with copied(tiny_bundle) as bundle:
        (bundle / LLM_VECTORS).unlink()
        os.mkfifo(bundle / LLM_VECTORS)  # reading it would wait for ever
        with pytest.raises(BundleError):
            read_bundle(bundle)
