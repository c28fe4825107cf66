"""A base model's folder as transformers 4 reads it, for peers that have not moved on to 5."""

import json
from pathlib import Path


def portable_model(model: Path, folder: Path) -> Path:
    """Write links to a model's files to a new folder, its configuration in the older spelling.

    transformers 4 would silently take another rotary base, and refuse the tokenizer's class.
    """
    folder.mkdir(parents=True)
    for file in model.iterdir():
        if file.name not in ("config.json", "tokenizer_config.json"):
            (folder / file.name).symlink_to(file.resolve())
    config = json.loads((model / "config.json").read_text())
    if rope := config.get("rope_parameters"):
        config["rope_theta"] = rope["rope_theta"]
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder
