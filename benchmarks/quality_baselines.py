"""What stands beside LLMEmb in the quality report and `llmemb train` does not train."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from llmemb.projection import fit_projection
from llmemb.srs import build_backbone
from trainer.evaluate import Scorer
from trainer.fit import Recommender, fit
from trainer.item_tables import IdTable
from trainer.rat import adapted_model, train_rat
from trainer.train import Run


def llm_initialised(run: Run, folder: Path) -> Scorer:
    """Train ID embeddings that start as the LLM vectors, whitened to the SRS's width."""
    torch.manual_seed(run.preset.seed)
    width = run.preset.srs.width
    vectors = torch.from_numpy(run.projected()[:, :width])
    table = IdTable.random(len(vectors), width)
    with torch.no_grad():
        table.vectors[:, : vectors.shape[1]] = vectors * width**-0.5
    model = Recommender(table, build_backbone(run.preset.srs))
    with run.progress.epochs("llminit") as report:
        fit(
            model,
            run.data.split,
            run.preset.collaborative,
            seed=run.preset.seed,
            folder=folder,
            report=report,
        )
    return model.scorer()


def word_vectors(run: Run) -> NDArray[np.float32]:
    """Return what the prompts say without an LLM: TF-IDF, reduced (LSA) and projected as LLM vectors are."""
    prompts = np.array([run.template.render(item) for item in run.data.catalogue.attributes])
    counts = TfidfVectorizer(sublinear_tf=True, min_df=2).fit(prompts[run.seen]).transform(prompts)
    settings = run.preset.projection
    reduced = TruncatedSVD(min(settings.dimensions, counts.shape[1]), random_state=0)
    vectors = reduced.fit(counts[run.seen]).transform(counts)
    return fit_projection(vectors[run.seen], settings.dimensions, settings.kind)(vectors)


def over_vectors(projected: NDArray[np.float32], run: Run, folder: Path) -> Scorer:
    """Train RAT over other vectors than the LLM's, float32 ``[items, projected]``."""
    model = adapted_model(run.preset, projected, run.seen)
    with run.progress.epochs("rat") as report:
        train_rat(model, None, run.data.split, run.preset, folder, report)
    return model.scorer()
