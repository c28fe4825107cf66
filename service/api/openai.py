"""Embeddings in the form that OpenAI's clients speak: texts in, vectors out.

A text is read by the LLM as it stands. For an item's attributes there is ``POST /items/embed``, which
writes the prompt.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Request
from fastapi import Body as FromBody
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from llmemb.bundle import MANIFEST
from service.api.deps import check_at_most, serving_of
from service.api.items import Usage, encoded
from service.api.json_route import JSONRoute
from service.index import unit_length
from service.problems import BUSY, responses
from service.serving import Serving

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], route_class=JSONRoute)

Model = Literal["llmemb-srs", "llmemb-llm"]
TEXT = "The film item has the following attributes: \n title is Heat"
MODELS: tuple[Model, ...] = ("llmemb-srs", "llmemb-llm")


def _texts(given: Any) -> Any:
    """Make a list of a single text, and refuse token ids in words: some clients send them unasked."""
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, list) and texts and isinstance(texts[0], int | list):
        raise PydanticCustomError("token_ids", "give text: token ids are another model's")
    return texts


class EmbeddingsRequest(BaseModel):
    """Texts to embed; fields that are not known are passed over, as OpenAI's clients may send some."""

    model_config = ConfigDict(extra="ignore")

    input: Annotated[list[str], BeforeValidator(_texts, json_schema_input_type=str | list[str])] = (
        Field(
            min_length=1,
            description="A text or a list of at most `LLMEMB_MAX_ITEMS`, each of which the model can "
            "read as a whole.",
            examples=[TEXT],
        )
    )
    model: str = Field(
        description="`llmemb-srs`: vectors that the recommender scores; `llmemb-llm`: the LLM's own.",
        examples=["llmemb-srs"],
    )
    encoding_format: Literal["float", "base64"] = Field(
        default="float", description="`base64`: the vector's little-endian float32 bytes."
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="Keep so many of the first components, at unit length."
    )


class TextEmbedding(BaseModel):
    """One text's vector."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Place of the text in the request.")
    embedding: list[float] | str


class EmbeddingsAnswer(BaseModel):
    """Vectors, in the order of the request."""

    object: Literal["list"] = "list"
    data: list[TextEmbedding]
    model: str
    usage: Usage


class ModelEntry(BaseModel):
    """A model that may be asked for."""

    id: Model
    object: Literal["model"] = "model"
    created: int = Field(description="When the bundle was written, in seconds since 1970.")
    owned_by: Literal["llmemb"] = "llmemb"


class ModelsAnswer(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


@router.post("/embeddings", summary="Embed texts", responses=responses(404, *BUSY))
async def embeddings(
    http: Request,
    request: Annotated[
        EmbeddingsRequest,
        FromBody(
            openapi_examples={
                "text": {
                    "value": {
                        "model": "llmemb-llm",
                        "input": TEXT,
                    }
                }
            }
        ),
    ],
) -> EmbeddingsAnswer:
    """Return the vector of each text, from the cache where it is known and from the LLM where not."""
    serving = serving_of(http)
    if request.model not in MODELS:
        raise HTTPException(404, f"there is no model {request.model!r}; ask for {MODELS[0]}")
    check_at_most(serving.settings.max_items, len(request.input), "input")
    prepared = [
        serving.embedder.prepare_text(text, f"input.{i}") for i, text in enumerate(request.input)
    ]
    embedded = await serving.embedder.embed(prepared, truncate=False)
    space: Literal["srs", "llm"] = "srs" if request.model == "llmemb-srs" else "llm"
    vectors = await serving.embedder.vectors(embedded, space)
    if request.dimensions is not None:
        check_at_most(vectors.shape[1], request.dimensions, "dimensions")
        vectors = unit_length(vectors[:, : request.dimensions])
    tokens = sum(item.llm.tokens for item in embedded)
    return EmbeddingsAnswer(
        data=[
            TextEmbedding(index=i, embedding=encoded(vector, request.encoding_format))
            for i, vector in enumerate(vectors)
        ],
        model=request.model,
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
    )


@router.get("/models", summary="List the models", responses=responses(503))
async def models(http: Request) -> ModelsAnswer:
    """Return the names that `model` may have."""
    serving = serving_of(http)
    return ModelsAnswer(data=[_entry(serving, name) for name in MODELS])


@router.get("/models/{name}", summary="Look a model up", responses=responses(404, 503))
async def model(http: Request, name: str) -> ModelEntry:
    """Return one of them."""
    serving = serving_of(http)
    for known in MODELS:
        if known == name:
            return _entry(serving, known)
    raise HTTPException(404, f"there is no model {name!r}; ask for {MODELS[0]}")


def _entry(serving: Serving, name: Model) -> ModelEntry:
    written = (serving.bundle.path / MANIFEST).stat().st_mtime
    return ModelEntry(id=name, created=int(written))
