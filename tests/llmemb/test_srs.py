"""Backbones: what a position may see, and what it may not (the traps of the published release)."""

import pytest
import torch

from llmemb.srs import Backbone, BackboneSettings, build_backbone

NAMES = ["sasrec"]


@pytest.fixture(params=NAMES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    settings = BackboneSettings(name=request.param, width=16, blocks=2, heads=2, max_length=10)
    return build_backbone(settings).eval()


def test_no_position_sees_a_later_item(backbone: Backbone) -> None:
    vectors = torch.randn(2, 8, 16)
    changed = vectors.clone()
    changed[:, 5:] = torch.randn(2, 3, 16)
    lengths = torch.tensor([8, 8])
    before, after = backbone(vectors, lengths), backbone(changed, lengths)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


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


def test_user_vector_is_the_state_after_the_last_item(backbone: Backbone) -> None:
    vectors, lengths = torch.randn(2, 5, 16), torch.tensor([5, 3])
    states = backbone(vectors, lengths)
    expected = torch.stack([states[0, 4], states[1, 2]])
    assert torch.equal(backbone.user_vectors(vectors, lengths), expected)


def test_order_matters(backbone: Backbone) -> None:
    vectors, lengths = torch.randn(1, 4, 16), torch.tensor([4])
    swapped = vectors[:, [1, 0, 2, 3]]
    assert not torch.allclose(
        backbone.user_vectors(vectors, lengths), backbone.user_vectors(swapped, lengths)
    )


def test_a_gradient_reaches_every_weight(backbone: Backbone) -> None:
    backbone.train()
    backbone(torch.randn(4, 10, 16), torch.full((4,), 10)).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
