"""The bundle that is served."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from llmemb.bundle import Manifest
from service.api.deps import serving_of
from service.problems import responses

router = APIRouter(tags=["operations"])


class Hardware(BaseModel):
    """What the model runs on."""

    device: str = Field(examples=["cpu"])
    dtype: str = Field(examples=["bfloat16"])
    forward_pass: str = Field(
        examples=["fused"], description="`fused`: LLMEmb's own; `transformers`: the library's."
    )
    threads: int = Field(description="CPU threads of the model.")


class Index(BaseModel):
    """How items are searched where there is no filter; what a filter leaves is searched whole."""

    items: int
    lists: int = Field(description="Inverted lists; 0: every search is exact.")
    probes: dict[int, int] = Field(
        description="How many of the lists are read for at most so many items.",
        examples=[{10: 16, 30: 16, 100: 32, 300: 64}],
    )
    recall: dict[int, float] = Field(
        description="Which share of the best items, so many, is found then, as measured.",
        examples=[{10: 0.996, 30: 0.994, 100: 0.993, 300: 0.991}],
    )


class BundleAnswer(BaseModel):
    """A bundle's manifest, what it runs on, and how its items are searched."""

    manifest: Manifest
    serving: Hardware
    index: Index


@router.get("/bundle", summary="What is served?", responses=responses(503))
async def bundle(http: Request) -> BundleAnswer:
    """Return the manifest: the base model, the prompt, the training data's facts and the metrics."""
    serving = serving_of(http)
    items = serving.live.items
    return BundleAnswer(
        manifest=serving.bundle.manifest,
        serving=Hardware(
            device=serving.device,
            dtype=serving.dtype,
            forward_pass=serving.forward_pass,
            threads=serving.threads,
        ),
        index=Index(
            items=len(items),
            lists=items.index.lists,
            probes=items.index.probes,
            recall=items.index.recall,
        ),
    )
