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


class BundleAnswer(BaseModel):
    """A bundle's manifest, and what it runs on."""

    manifest: Manifest
    serving: Hardware


@router.get("/bundle", summary="What is served?", responses=responses(503))
async def bundle(http: Request) -> BundleAnswer:
    """Return the manifest: the base model, the prompt, the training data's facts and the metrics."""
    serving = serving_of(http)
    return BundleAnswer(
        manifest=serving.bundle.manifest,
        serving=Hardware(
            device=serving.device,
            dtype=serving.dtype,
            forward_pass=serving.forward_pass,
            threads=serving.threads,
        ),
    )
