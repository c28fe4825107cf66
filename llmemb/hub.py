"""Bundles on the Hugging Face Hub: pushed once verified, pulled whole or not at all.

Where the Hub is and who asks come from the environment: ``HF_ENDPOINT``, ``HF_TOKEN`` or ``hf auth login``.
"""

import glob
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.errors import HTTPError as RequestError  # type: ignore[attr-defined]

from llmemb.bundle import MANIFEST, Manifest, check_replaceable, read_manifest, verify_files
from llmemb.errors import BundleError, LLMEmbError
from llmemb.files import replacing_directory
from llmemb.signature import SIGNATURE


def push(bundle: Path, repository: str, *, private: bool = False) -> str:
    """Upload a bundle, its signature included; return where it is to be seen.

    Args:
        bundle: its directory.
        repository: ``owner/name``, created where it is not there; it holds the bundle alone afterwards.
        private: only its owner is to see it.

    Raises:
        BundleError: the bundle is incomplete or changed; nothing was uploaded.
        LLMEmbError: the repository is public and is not to be, the Hub refuses or cannot be reached.
    """
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    api = HfApi()
    with _told_in_words(repository):
        # None: as the owner's settings have it, which may say private, too.
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise LLMEmbError(f"{repository} is public already; change that on the Hub first")
        api.upload_folder(
            repo_id=repository,
            folder_path=bundle,
            commit_message=f"Bundle {manifest.bundle}",
            delete_patterns="*",
        )
    return str(url)


def pull(repository: str, out: Path, *, revision: str | None = None) -> Manifest:
    """Download a bundle; it appears when it is whole and verified.

    Only what its manifest names is downloaded, and its signature.

    Args:
        repository: ``owner/name``.
        out: directory to write; a bundle that is there is replaced.
        revision: branch, tag or commit; default: ``main``.

    Raises:
        BundleError: what the repository holds is incomplete or changed.
        LLMEmbError: ``out`` is something else than a bundle, or the Hub refuses or cannot be reached.
    """
    check_replaceable(out)
    with replacing_directory(out) as folder:
        with _told_in_words(repository):
            hf_hub_download(repository, MANIFEST, revision=revision, local_dir=folder)
        try:
            manifest = read_manifest(folder)
            # Not the manifest again: what was pushed meanwhile must not pass for what it names.
            names = [*map(glob.escape, manifest.files), SIGNATURE]
            with _told_in_words(repository):
                snapshot_download(
                    repository, revision=revision, local_dir=folder, allow_patterns=names
                )
            shutil.rmtree(folder / ".cache")  # the Hub's notes on what it downloaded
            verify_files(folder, manifest)
        except BundleError as error:
            reason = str(error).replace(f"{folder}/", "")
            raise BundleError(f"{repository} is not a whole bundle: {reason}") from error
    return manifest


@contextmanager
def _told_in_words(repository: str) -> Iterator[None]:
    """Turn the Hub's errors into one line each."""
    try:
        yield
    except RevisionNotFoundError as error:
        raise LLMEmbError(f"{repository} has no such revision") from error
    except RemoteEntryNotFoundError as error:
        raise LLMEmbError(f"{repository} has no {MANIFEST}; is it a bundle?") from error
    except RepositoryNotFoundError as error:
        raise LLMEmbError(
            f"{repository} is not on the Hub, or not for this token; check the name and HF_TOKEN"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = "set HF_TOKEN (`hf auth login`)" if status in (401, 403) else "try again later"
        reason = f"the Hub answers {status} {error.server_message or ''}".rstrip()
        raise LLMEmbError(f"{repository}: {reason}; {remedy}") from error
    except HFValidationError as error:
        raise LLMEmbError(str(error).splitlines()[0]) from error
    except (RequestError, LocalEntryNotFoundError, ConnectionError) as error:
        raise LLMEmbError(
            f"{repository}: the Hub cannot be reached ({type(error).__name__}); check the network"
        ) from error
