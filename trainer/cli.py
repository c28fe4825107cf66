"""The commands of training and of what comes after it; heavy modules are imported late."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

SOURCES = ("movielens", "amazon", "yelp", "recbole", "files")
PRESETS = ("quick", "default", "paper")
BACKBONES = ("sasrec", "gru4rec", "bert4rec")
TRACKERS = ("tensorboard", "mlflow", "wandb", "none")

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, for machines.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the trainer's commands to ``llmemb``."""
    data = typer.Typer(help="Raw data to what the trainer reads.", no_args_is_help=True)
    data.callback()(lambda: None)
    data.command()(prepare)
    app.add_typer(data, name="data")
    app.command()(train)
    app.command()(evaluate)
    app.command()(embed)
    app.command()(export)
    app.command()(sign)
    app.command()(push)
    app.command()(pull)


def prepare(
    source: Annotated[
        str,
        typer.Argument(
            help=f"Layout of the raw data: {', '.join(SOURCES)}.", autocompletion=lambda: SOURCES
        ),
    ],
    raw: Annotated[Path, typer.Argument(help="Folder with the raw files.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    domain: Annotated[
        str | None, typer.Option(help="What an item is, in a word; stands in the prompt.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail if any row has to be left out.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read raw items and interactions, check every row, and write a prepared data set.

    `files` is a folder with `items.jsonl`, `.csv` or `.parquet` (an `id` and any attributes) and
    `interactions.jsonl`, `.csv` or `.parquet` (`user`, `item`, `timestamp`) or `sequences.txt`
    (a line a user: `user item item ...`, oldest first).
    """
    from rich.console import Console

    from trainer.data.prepare import prepare as run

    with Console(stderr=True).status(f"reading {raw}"):
        report = run(source, raw, out, domain=domain, strict=strict)
    if as_json:
        print(json.dumps(report.to_json()))
        return
    Console().print(report.render())
    print(f"written to {out}")


def train(
    data: Annotated[Path, typer.Argument(help="Prepared data (`llmemb data prepare`).")],
    out: Annotated[Path, typer.Option(help="Bundle to write; `<out>.work` keeps the stages.")],
    preset: Annotated[
        str,
        typer.Option(help=f"Starting point: {', '.join(PRESETS)}.", autocompletion=lambda: PRESETS),
    ] = "default",
    srs: Annotated[
        str | None,
        typer.Option(help=f"Backbone: {', '.join(BACKBONES)}.", autocompletion=lambda: BACKBONES),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            help="The LLM: a folder, a .gguf file or a hub id. Default: SmolLM2-135M-Instruct."
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable."),
    ] = None,
    track: Annotated[
        str,
        typer.Option(
            envvar="LLMEMB_TRACK",
            autocompletion=lambda: TRACKERS,
            help="Where to watch it: tensorboard, mlflow, wandb (these by their own environment "
            "variables) or none.",
        ),
    ] = "tensorboard",
    as_json: AsJson = False,
) -> None:
    """Train a bundle: SCFT, LLM vectors, collaborative SRS, RAT, evaluation, a report.

    Several GPUs: `torchrun --nproc-per-node 8 -m llmemb.cli train ...`, or `accelerate launch`.

    Each stage is kept: run the same command again after an interruption and it goes on where it was.
    A stage whose data and settings did not change is not run again. Watch it with
    `tensorboard --logdir <out>.work/tensorboard`; `<out>.work/report.html` shows the result.
    """
    from rich.console import Console

    from llmemb.base_model import DEFAULT_BASE_MODEL, find_base_model
    from trainer import processes
    from trainer.card import metric_table
    from trainer.dataset import read_dataset
    from trainer.presets import build_preset
    from trainer.progress import Progress
    from trainer.stages import working_folder
    from trainer.tracking import NO_TRACKER, Tracking
    from trainer.train import REPORT
    from trainer.train import train as run

    sections = {"srs": {"name": srs}} if srs else {}
    settings = build_preset(preset, overrides or (), **sections)
    dataset = read_dataset(data)
    processes.start()
    console = Console(stderr=True, quiet=not processes.first())
    track = track if processes.first() else NO_TRACKER
    tracking = Tracking(track, out, settings.model_dump(mode="json"), console)
    with processes.one_a_machine_first():
        if base_model is None:
            with console.status("finding the base model (converted once, about half a minute)"):
                base = find_base_model(DEFAULT_BASE_MODEL)
        else:
            base = find_base_model(base_model)
    manifest = run(dataset, base, settings, out, Progress(console, tracking))
    if manifest is None:  # the first process tells
        return
    if as_json:
        print(json.dumps({"bundle": manifest.bundle, "metrics": manifest.metrics}))
        return
    Console().print(metric_table(manifest.metrics, "full", "Test split, full ranking"))
    print(f"report: {working_folder(out) / REPORT}")
    print(f"bundle {manifest.bundle} written to {out}; serve it: llmemb serve {out}")


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle (`llmemb train`).")],
    data: Annotated[Path, typer.Argument(help="The prepared data that it was trained on.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write every metric to this file.")
    ] = None,
) -> None:
    """Rank the test split with a bundle, beside popularity and the ID-only backbone.

    The ID-only row is the one measured when the bundle was trained.
    """
    from rich.console import Console

    from llmemb.bundle import read_bundle
    from llmemb.files import json_bytes, replacing_file
    from trainer.card import metric_table
    from trainer.dataset import read_dataset
    from trainer.evaluate import evaluate_bundle

    rows = evaluate_bundle(read_bundle(bundle), read_dataset(data))
    console = Console()
    console.print(metric_table(rows, "full", "Test split, full ranking over all items"))
    console.print(metric_table(rows, "unseen", "Test split, seen items left out"))
    console.print(metric_table(rows, "sampled100", "Test split, target among 100 fixed negatives"))
    if json_file:
        own = rows.pop("llmemb")
        with replacing_file(json_file) as aside:
            aside.write_bytes(json_bytes({**own, "baselines": rows}))


def embed(
    bundle: Annotated[Path, typer.Argument(help="A bundle (`llmemb train`).")],
    items: Annotated[
        str,
        typer.Argument(
            help="Items to embed: .jsonl, .csv or .parquet, an `id` each. With Ray: .parquet, a folder "
            "of them, or a URI such as s3://bucket/items.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(help="Parquet file to write: id, vector, truncated. With Ray also a URI."),
    ],
    space: Annotated[
        Literal["srs", "llm"],
        typer.Option(help="srs: vectors that the recommender scores; llm: the LLM's own."),
    ] = "srs",
    base_model: Annotated[
        str | None,
        typer.Option(
            help="Folder, .gguf file or hub id of the base model.", show_default="as trained"
        ),
    ] = None,
    precision: Annotated[
        Literal["auto", "int8"],
        typer.Option(help="int8: faster on CPUs with VNNI, cosine at least .999 with auto."),
    ] = "auto",
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: Ray Data, on this machine or a cluster (extra `scale`)."),
    ] = "local",
    workers: Annotated[
        str | None,
        typer.Option(
            metavar="N|MIN:MAX",
            help="With Ray: how many times the LLM is loaded.",
            show_default="1 to as many as there are GPUs, or else machines",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS",
            help="The Ray cluster.",
            show_default="one on this machine, for this run",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed any number of items from their attributes, known to the bundle or not.

    Run the same command again after an interruption and it goes on where it was. Read the result with
    pandas or polars, or give it to faiss: `numpy.stack(pandas.read_parquet(FILE)["vector"])`.
    """
    from rich.console import Console

    from llmemb.bundle import read_bundle
    from llmemb.errors import SettingsError
    from trainer.progress import Progress

    progress = Progress(Console(stderr=True))
    if engine == "ray":
        from trainer.embed_ray import embed_items_on_ray

        report = embed_items_on_ray(
            read_bundle(bundle),
            items,
            out,
            space=space,
            base_model=base_model,
            precision=precision,
            workers=workers,
            address=ray_address,
            progress=progress,
        )
    elif workers or "://" in items + out:
        raise SettingsError("--workers, and URIs such as s3://bucket/items, need --engine ray")
    else:
        from trainer.embed import embed_items

        report = embed_items(
            read_bundle(bundle),
            Path(items),
            Path(out),
            space=space,
            base_model=base_model,
            precision=precision,
            progress=progress,
        )
    if as_json:
        print(json.dumps(report.to_json()))
        return
    if report.problems:
        Console().print(report.render())
    print(f"{report.kept['items']:,} vectors written to {out}")


def export(
    bundle: Annotated[Path, typer.Argument(help="A bundle (`llmemb train`).")],
    form: Annotated[
        Literal["parquet", "npy", "faiss", "recbole", "sentence-transformers"],
        typer.Option("--format", help="What to write."),
    ],
    out: Annotated[Path, typer.Option(help="File (parquet) or folder (the others) to write.")],
    base_model: Annotated[
        str | None,
        typer.Option(
            help="For sentence-transformers: folder, .gguf file or hub id of the base model.",
            show_default="as trained",
        ),
    ] = None,
) -> None:
    """Write a bundle's vectors, or its encoder, in the form that another library reads.

    `parquet`: id, attributes, popularity, vector, llm_vector. `npy`: vectors.npy and ids.json. `faiss`:
    an inner-product index and ids.json. `recbole`: NAME.item, NAME.llmemb and llmemb.yaml, for the data
    set that the folder is named after. `sentence-transformers`: the LLM with its LoRA merged.
    """
    from llmemb.bundle import read_bundle
    from trainer.export.export import export as run

    run(read_bundle(bundle), form, out, base_model=base_model)
    print(f"written to {out}")


def sign(
    bundle: Annotated[Path, typer.Argument(help="Directory that `llmemb train` wrote.")],
    key: Annotated[Path, typer.Option(help="Private key, Ed25519 in PEM.")],
) -> None:
    """Sign a bundle: a service with LLMEMB_BUNDLE_KEY serves only what its maker signed.

    A pair of keys: `openssl genpkey -algorithm ed25519 -out private.pem`, then `openssl pkey -in
    private.pem -pubout -out public.pem`.
    """
    from llmemb.bundle import MANIFEST, read_manifest, verify_files
    from llmemb.signature import SIGNATURE
    from llmemb.signature import sign as write_signature

    verify_files(bundle, read_manifest(bundle))
    write_signature(bundle / SIGNATURE, (bundle / MANIFEST).read_bytes(), key)
    print(f"written to {bundle / SIGNATURE}")


def push(
    bundle: Annotated[Path, typer.Argument(help="Directory that `llmemb train` wrote.")],
    repository: Annotated[str, typer.Argument(help="OWNER/NAME; created where it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Only for its owner's eyes.")] = False,
) -> None:
    """Upload a bundle to the Hugging Face Hub, where it is seen with its model card.

    It needs a token that may write: HF_TOKEN, or `hf auth login`.
    """
    from llmemb.hub import push as run

    print(f"pushed to {run(bundle, repository, private=private)}")


def pull(
    repository: Annotated[str, typer.Argument(help="OWNER/NAME on the Hugging Face Hub.")],
    out: Annotated[Path, typer.Option(help="Bundle to write.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit.", show_default="main")
    ] = None,
) -> None:
    """Download a bundle from the Hugging Face Hub; one that was changed since it was trained is refused."""
    from llmemb.hub import pull as run

    manifest = run(repository, out, revision=revision)
    print(f"bundle {manifest.bundle} written to {out}; serve it: llmemb serve {out}")
