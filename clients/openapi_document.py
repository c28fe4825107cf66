"""Writes ``clients/openapi.json``, of which the TypeScript types are made."""

import json
from pathlib import Path

from llmemb.files import replacing_file
from service.app import create_app
from service.settings import Settings

DOCUMENT = Path(__file__).with_name("openapi.json")


def document() -> str:
    """Return the service's OpenAPI document."""
    openapi = create_app(Settings(bundle=Path())).openapi()
    return json.dumps(openapi, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    with replacing_file(DOCUMENT) as aside:
        aside.write_text(document(), encoding="utf-8")
