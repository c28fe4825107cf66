"""Adapters: their shapes, their scale at the start, and the mixture."""

import pytest
import torch

from llmemb.adapter import Adapter, AdapterSettings


@pytest.mark.parametrize("hidden", [None, 32])
@pytest.mark.parametrize("experts", [1, 4])
def test_it_starts_with_item_vectors_of_norm_about_one(hidden: int | None, experts: int) -> None:
    torch.manual_seed(0)
    adapter = Adapter(AdapterSettings(inputs=64, hidden=hidden, experts=experts, outputs=48))
    norms = adapter(torch.randn(500, 64)).norm(dim=1)
    assert norms.shape == (500,)
    assert 0.4 < norms.mean() < 1.2


def test_a_mixture_weighs_its_experts_by_the_item() -> None:
    torch.manual_seed(0)
    adapter = Adapter(AdapterSettings(inputs=8, experts=3, outputs=5))
    projected = torch.randn(2, 7, 8)
    weights = adapter.gate(projected).softmax(-1)
    expected = sum(
        weights[..., i, None] * expert(projected) for i, expert in enumerate(adapter.experts)
    )
    assert torch.allclose(adapter(projected), expected, atol=1e-6)
    assert weights.std(dim=(0, 1)).min() > 0


@pytest.mark.parametrize("experts", [1, 2])
def test_it_is_rebuilt_from_its_tensors(experts: int) -> None:
    adapter = Adapter(AdapterSettings(inputs=6, experts=experts, outputs=4))
    again = Adapter.rebuild(adapter.settings, adapter.state_dict())
    projected = torch.randn(3, 6)
    assert torch.equal(again(projected), adapter(projected))
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("experts", [1, 3])
def test_two_layers_are_one_product_in_training_with_the_same_result(experts: int) -> None:
    torch.manual_seed(0)
    shape = AdapterSettings(inputs=20, hidden=30, experts=experts, outputs=5)
    adapter = Adapter(shape).double()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    projected = torch.randn(40, 20, dtype=torch.float64)
    found, gradients = [], []
    for training in (True, False):
        adapted = adapter.train(training)(projected)
        found.append(adapted)
        gradients.append(torch.autograd.grad(adapted.sin().sum(), list(adapter.parameters())))
    assert torch.allclose(*found)
    assert all(torch.allclose(a, b) for a, b in zip(*gradients, strict=True))
