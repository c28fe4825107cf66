"""Backbones: what a position may see, and what it may not (the traps of the published release)."""

from typing import get_args

import pytest
import torch

from llmemb.srs import Backbone, BackboneName, BackboneSettings, build_backbone
from llmemb.srs.backbone import CausalBackbone
from llmemb.srs.packing import Packing


@pytest.fixture(params=get_args(BackboneName))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    settings = BackboneSettings(name=request.param, width=16, blocks=2, heads=2, max_length=10)
    return build_backbone(settings).eval()


def predictions(
    backbone: Backbone, vectors: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same draw of masked items each time."""
    torch.manual_seed(1)
    return backbone.training_states(vectors, lengths)


def test_no_prediction_sees_its_target(backbone: Backbone) -> None:
    vectors, lengths = torch.randn(3, 9, 16), torch.tensor([9, 6, 2])
    predicted, before = predictions(backbone, vectors, lengths)
    rows, positions = predicted.nonzero(as_tuple=True)
    for i, (row, position) in enumerate(zip(rows, positions, strict=True)):
        changed = vectors.clone()
        changed[row, position] = torch.randn(16)
        _, after = predictions(backbone, changed, lengths)
        assert torch.equal(before[i], after[i])


@pytest.mark.parametrize("backbone", ["sasrec", "gru4rec"], indirect=True)
def test_a_causal_backbone_sees_no_later_item(backbone: CausalBackbone) -> None:
    vectors = torch.randn(2, 8, 16)
    changed = vectors.clone()
    changed[:, 5:] = torch.randn(2, 3, 16)
    lengths = torch.tensor([8, 8])
    before, after = (backbone(x, Packing(lengths)).view(2, 8, 16) for x in (vectors, changed))
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_what_is_read_in_training_is_what_the_prediction_depends_on(backbone: Backbone) -> None:
    vectors, lengths = torch.randn(2, 6, 16), torch.tensor([6, 4])
    predicted, before = predictions(backbone, vectors, lengths)
    read = backbone.read_in_training(predicted, lengths)
    rows = predicted.nonzero()[:, 0]
    assert read.shape == (len(before), 6)
    for row in range(2):
        for position in range(6):
            changed = vectors.clone()
            changed[row, position] = torch.randn(16)
            _, after = predictions(backbone, changed, lengths)
            moved = (after != before).any(1)
            assert torch.equal(moved, read[:, position] & (rows == row))


def test_only_items_are_predicted_and_one_at_least_is_read(backbone: Backbone) -> None:
    lengths = torch.randint(2, 12, (64,))
    predicted, states = backbone.training_states(torch.randn(64, 11, 16), lengths)
    assert states.shape == (int(predicted.sum()), 16)
    assert not predicted[torch.arange(11) >= lengths[:, None]].any()
    assert (predicted.sum(1) >= 1).all()
    assert (predicted.sum(1) < lengths).all()


def test_training_and_serving_agree_on_the_last_item(backbone: Backbone) -> None:
    vectors, lengths = torch.randn(40, 6, 16), torch.full((40,), 6)
    predicted, states = backbone.training_states(vectors, lengths)
    served = backbone.user_vectors(vectors[:, :5], lengths - 1)
    rows = torch.arange(40)
    if not isinstance(backbone, CausalBackbone):
        rows = rows[predicted[:, 5] & (predicted.sum(1) == 1)]  # nothing else was masked
    assert len(rows) > 2
    flat = torch.cumsum(predicted.flatten(), 0).view_as(predicted) - 1
    assert torch.allclose(states[flat[rows, 5]], served[rows], atol=1e-5)


def test_every_earlier_item_matters(backbone: Backbone) -> None:
    vectors = torch.randn(1, 6, 16)
    user = backbone.user_vectors(vectors, torch.tensor([6]))
    for position in range(6):
        changed = vectors.clone()
        changed[:, position] = torch.randn(16)
        assert not torch.allclose(backbone.user_vectors(changed, torch.tensor([6])), user)


def test_padding_is_never_read(backbone: Backbone) -> None:
    vectors = torch.randn(3, 7, 16)
    lengths = torch.tensor([7, 4, 1])
    garbage = vectors.clone()
    garbage[1, 4:] = 1e3
    garbage[2, 1:] = -1e3
    found = backbone.user_vectors(garbage, lengths)
    assert torch.allclose(found, backbone.user_vectors(vectors, lengths))
    for row, length in enumerate(lengths):
        alone = backbone.user_vectors(vectors[row : row + 1, :length], lengths[row : row + 1])
        assert torch.allclose(found[row], alone[0], atol=1e-5)


def test_order_matters(backbone: Backbone) -> None:
    vectors, lengths = torch.randn(1, 4, 16), torch.tensor([4])
    swapped = vectors[:, [1, 0, 2, 3]]
    assert not torch.allclose(
        backbone.user_vectors(vectors, lengths), backbone.user_vectors(swapped, lengths)
    )


def test_a_gradient_reaches_every_weight(backbone: Backbone) -> None:
    backbone.train()
    _, states = backbone.training_states(torch.randn(4, 11, 16), torch.full((4,), 11))
    states.square().sum().backward()
    for name, parameter in backbone.named_parameters():
        if name == "repeat_bias":  # it is learnt from the scores, which are made elsewhere
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
