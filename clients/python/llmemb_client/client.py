"""The client. ``client.py`` is made of ``async_client.py`` by ``make_sync.py``: edit that one."""

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from llmemb_client.errors import AnsweredError, answered, unreached
from llmemb_client.models import (
    Attributes,
    Bundle,
    BundleChange,
    CatalogueItem,
    Embeddings,
    Entry,
    Explanation,
    Filter,
    Item,
    Put,
    PutCount,
    Ready,
    Recommendations,
    Similar,
    Space,
)
from llmemb_client.retrying import REFUSED, delay, never_sent
from llmemb_client.streams import batches


class Client:
    """A connection to an LLMEmb service, which many threads may share.

    Whatever fails raises an :class:`~llmemb_client.errors.LLMEmbClientError`. Where the service was not
    reached or refused for want of time (429, 503), a call is tried again, after as long as the service
    says, or after .1 s, .2 s, .4 s and so on.

    Args:
        url: where the service is.
        key: API key, where the service asks for one.
        timeout: seconds that one try may take.
        retries: further tries of a call.
        http: settings of the connection: proxies, certificates, limits; closed by whoever made it.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: float = 10.0,
        retries: int = 4,
        http: httpx.Client | None = None,
    ) -> None:
        self._url = httpx.URL(url.rstrip("/"))
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._timeout = timeout
        self._retries = retries
        self._ours = http is None
        self._http = http or httpx.Client()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._ours:
            self._http.close()

    # --- recommendations ---

    def recommend(
        self,
        *,
        sequence: Sequence[Entry],
        k: int = 10,
        user: str | None = None,
        exclude_seen: bool = True,
        exclude: Sequence[str] = (),
        filter: Filter | None = None,  # noqa: A002
        min_cold: int = 0,
        tail_boost: float = 0.0,
        freshness_boost: float = 0.0,
        diversity: float = 0.0,
        explain: bool = False,
        details: bool = False,
    ) -> Recommendations:
        """Return the next items for a sequence.

        Args:
            sequence: ids, and attributes of items that the catalogue lacks, oldest first.
            k: how many items; fewer only if fewer are eligible.
            user: who asks, by whatever name: it decides which bundle answers where two are compared.
            exclude_seen: leave out the items of the sequence.
            exclude: ids to leave out as well.
            filter: what items must be.
            min_cold: so many of the items at least have no interaction in training.
            tail_boost: added to the score of items with few interactions.
            freshness_boost: added to the score of items put lately.
            diversity: weight of being unlike the items above, 0 to 1.
            explain: tell which entries of the sequence drove each item.
            details: tell what the catalogue knows of each item.

        Raises:
            LLMEmbClientError: see :mod:`llmemb_client.errors`.
        """
        body = {
            "sequence": [_entry(entry) for entry in sequence],
            "k": k,
            "user": user,
            "exclude_seen": exclude_seen,
            "exclude": list(exclude),
            "filter": filter or {},
            "min_cold": min_cold,
            "tail_boost": tail_boost,
            "freshness_boost": freshness_boost,
            "diversity": diversity,
            "explain": explain,
            "details": details,
        }
        return Recommendations.model_validate_json(self._post("/recommend", body))

    def recommend_batch(
        self, *, sequences: Sequence[Sequence[Entry]], k: int = 10
    ) -> list[Recommendations]:
        """Return the next items for many sequences, in their order.

        Args:
            sequences: see :meth:`recommend`.
            k: how many items for each.
        """
        requests = [{"sequence": [_entry(one) for one in each], "k": k} for each in sequences]
        content = self._post("/recommend/batch", {"requests": requests})
        results = json.loads(content)["results"]
        return [Recommendations.model_validate(result) for result in results]

    def similar(
        self,
        *,
        attributes: Attributes,
        k: int = 10,
        filter: Filter | None = None,  # noqa: A002
    ) -> Similar:
        """Return the nearest items to one that is given by its attributes."""
        body = {"attributes": attributes, "k": k, "filter": filter or {}}
        return Similar.model_validate_json(self._post("/items/similar", body))

    def similar_to(self, *, item_id: str, k: int = 10) -> Similar:
        """Return the nearest items to one of the catalogue.

        Raises:
            NotFoundError: the catalogue lacks it.
        """
        content = self._ask("GET", f"{_path(item_id)}/similar", query={"k": k})
        return Similar.model_validate_json(content)

    def explain(self, *, attributes: Attributes, sequence: Sequence[Entry]) -> Explanation:
        """Return where an item stands after a sequence, and what each attribute does for that."""
        body = {"attributes": attributes, "sequence": [_entry(entry) for entry in sequence]}
        return Explanation.model_validate_json(self._post("/items/explain", body))

    # --- vectors ---

    def embed(
        self,
        *,
        items: Sequence[Attributes],
        space: Space = "srs",
        truncate: bool = True,
        prompt: bool = False,
    ) -> Embeddings:
        """Return items' vectors.

        Args:
            items: their attributes.
            space: ``srs``: item vectors that the recommender scores; ``llm``: the LLM's own.
            truncate: cut the end of an item that is longer than the model reads; False: refuse it.
            prompt: give the text that the LLM reads of each item as well.
        """
        body = {
            "items": [{"attributes": attributes} for attributes in items],
            "space": space,
            "truncate": truncate,
            "prompt": prompt,
            "encoding_format": "base64",
        }
        return Embeddings.model_validate_json(self._post("/items/embed", body))

    # --- the live catalogue ---

    def get_item(self, *, item_id: str) -> CatalogueItem:
        """Return what the catalogue knows of an item.

        Raises:
            NotFoundError: it lacks it.
        """
        return CatalogueItem.model_validate_json(self._ask("GET", _path(item_id)))

    def items(self, *, page: int = 1000) -> Iterator[CatalogueItem]:
        """Yield the whole catalogue in the order of ids, read in pages of so many."""
        after: str | None = ""
        while after is not None:
            content = self._ask("GET", "/items", query={"after": after, "limit": page})
            answer = json.loads(content)
            for item in answer["items"]:
                yield CatalogueItem.model_validate(item)
            after = answer["next"]

    def find_items(self, *, text: str, limit: int = 20) -> list[CatalogueItem]:
        """Return items whose id or texts hold a text, those used most in training first."""
        content = self._ask("GET", "/items", query={"search": text, "limit": limit})
        return [CatalogueItem.model_validate(item) for item in json.loads(content)["items"]]

    def put_item(
        self,
        *,
        item_id: str,
        attributes: Attributes,
        if_version: int | None = None,
        if_absent: bool = False,
    ) -> Put:
        """Add an item or replace it; it can be recommended at once.

        Args:
            item_id: of the item.
            attributes: all that it has from now on.
            if_version: only if this is its version.
            if_absent: only if the catalogue lacks it.

        Raises:
            ConflictError: it is not as ``if_version`` or ``if_absent`` says; nothing was changed.
        """
        headers = {"If-None-Match": "*"} if if_absent else _if_match(if_version)
        body = {"attributes": attributes}
        return Put.model_validate_json(self._ask("PUT", _path(item_id), body=body, headers=headers))

    def put_items(
        self,
        *,
        items: Iterable[Item],
        batch: int = 256,
        on_progress: Callable[[PutCount], None] = lambda _: None,
    ) -> PutCount:
        """Add or replace a stream of items, so many at a time; the stream may be endless.

        Args:
            items: any iterable.
            batch: items in a request; none of a request is put if one is not valid.
            on_progress: told after each request how many were put so far.

        Returns:
            How many were put.

        Raises:
            LLMEmbClientError: with a note of how many items were put before it.
        """
        done = PutCount()
        for some in batches(items, batch):
            body = {"items": [{"id": one.id, "attributes": one.attributes} for one in some]}
            try:
                content = self._post("/items", body)
            except AnsweredError as error:
                first = some[0].id
                error.add_note(f"{done.items} items were put; this batch begins with {first!r}")
                raise
            outcomes = Counter(one["outcome"] for one in json.loads(content)["items"])
            done += PutCount(**outcomes)
            on_progress(done)
        return done

    def delete_item(self, *, item_id: str, if_version: int | None = None) -> None:
        """Delete an item.

        Raises:
            NotFoundError: the catalogue lacks it.
            ConflictError: it has another version than ``if_version``; nothing was changed.
        """
        self._ask("DELETE", _path(item_id), headers=_if_match(if_version))

    # --- operation ---

    def ready(self) -> Ready:
        """Return what holds of the service.

        Raises:
            UnavailableError: it is not ready.
        """
        return Ready.model_validate_json(self._ask("GET", "/health/ready"))

    def bundle(self) -> Bundle:
        """Return what is served."""
        return Bundle.model_validate_json(self._ask("GET", "/bundle"))

    def reload(self, *, bundle: str | None = None) -> BundleChange:
        """Serve another bundle, or the same folder read anew.

        Args:
            bundle: its folder's name, beside that of the one served.

        Raises:
            RefusedError: it is worse, or broken; the service goes on with the one it has.
        """
        body = {} if bundle is None else {"bundle": bundle}
        content = self._ask("POST", "/admin/reload", body=body, repeatable=False, seconds=600)
        return BundleChange.model_validate_json(content)

    def rollback(self) -> BundleChange:
        """Serve the bundle that was served before the last reload.

        Raises:
            RefusedError: there is none.
        """
        content = self._ask("POST", "/admin/rollback", repeatable=False)
        return BundleChange.model_validate_json(content)

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        return self._ask("POST", path, body=body)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: dict[str, str | int] | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool = True,
        seconds: float | None = None,
    ) -> bytes:
        # A condition that a change itself made untrue must not be asked again.
        repeatable = repeatable and not headers
        url = f"{self._url}{path}"
        headers = {**self._headers, **(headers or {})}
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        for attempt in itertools.count():
            last = attempt >= self._retries
            response = None
            try:
                response = self._http.request(
                    method,
                    url,
                    content=content,
                    params=query,
                    headers=headers,
                    timeout=seconds or self._timeout,
                )
            except httpx.TransportError as error:
                if last or not (repeatable or never_sent(error)):
                    raise unreached(error, self._url) from error
            else:
                if response.is_success:
                    return response.content
                if last or response.status_code not in REFUSED:
                    raise answered(response)
            time.sleep(delay(attempt, response))
        raise AssertionError("unreachable")


def _entry(entry: Entry) -> str | dict[str, Any]:
    return entry if isinstance(entry, str) else {"attributes": entry}


def _path(item_id: str) -> str:
    return f"/items/{quote(item_id, safe='')}"


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}
