"""Layers of a side network against their equations, and what they see beyond the end of a row."""

import pytest
import torch
from torch.nn import functional

from adaptkit.adapters.side import Attention, Convolution, mark_frames


@pytest.fixture(params=["conv", "attention"])
def layer(request):
    """A layer of width 8 with random weights."""
    torch.manual_seed(0)
    made = Convolution(8, 5) if request.param == "conv" else Attention(8, 2)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.double()


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def run(layer, h, frames=None):
    return layer(h, functional.layer_norm(h, h.shape[-1:]), mark_frames(frames, h))


def test_a_convolution_is_the_equation_by_hand():
    layer = Convolution(2, 3)
    layer.weight.data = torch.tensor([[[1.0, 2.0, 4.0]], [[0.0, 1.0, 0.0]]])
    layer.bias.data = torch.tensor([0.0, -0.5])
    layer.feed_forward = torch.nn.Identity()
    z = torch.tensor([[[1.0, 3.0], [10.0, 5.0], [100.0, 7.0]]])
    mixed = [[0 + 2 + 40, 2.5], [1 + 20 + 400, 4.5], [10 + 200 + 0, 6.5]]
    assert torch.equal(layer(torch.zeros_like(z), z, None), torch.tensor([mixed]))


def test_attention_to_all_frames_alike_adds_their_mean():
    layer = Attention(2, 1)
    torch.nn.init.zeros_(layer.project.weight)
    layer.project.weight.data[4:], layer.merge.weight.data = torch.eye(2), torch.eye(2)
    torch.nn.init.zeros_(layer.feed_forward.narrow.weight)
    z = torch.tensor([[[1.0, 3.0], [2.0, 5.0], [9.0, 7.0]]])
    torch.testing.assert_close(layer(torch.zeros_like(z), z, None), torch.tensor([[[4.0, 5.0]] * 3]))


def test_a_score_of_a_distance_selects_the_frame_at_it():
    layer = Attention(2, 1)
    torch.nn.init.zeros_(layer.project.weight)
    layer.project.weight.data[4:], layer.merge.weight.data = torch.eye(2), torch.eye(2)
    torch.nn.init.zeros_(layer.feed_forward.narrow.weight)
    layer.scores.data[0, 16 + 1] = 100.0  # the next frame
    z = torch.tensor([[[1.0, 3.0], [2.0, 5.0], [9.0, 7.0]]])
    torch.testing.assert_close(layer(torch.zeros_like(z), z, None)[:, :2], z[:, 1:])


def test_counts_are_the_closed_forms():
    count = sum(parameter.numel() for parameter in Convolution(6, 7).parameters())
    assert count == 7 * 6 + 6 + 4 * 6 * 6 + 3 * 6
    count = sum(parameter.numel() for parameter in Attention(6, 3).parameters())
    assert count == 4 * 6 * 6 + 4 * 6 + 33 * 3 + 4 * 6 * 6 + 3 * 6


def test_a_padded_row_is_as_alone(layer):
    h, frames = draw(2, 40, 8), torch.tensor([40, 13])
    together = run(layer, h, frames)
    torch.testing.assert_close(together[0], run(layer, h[:1])[0])
    torch.testing.assert_close(together[1, :13], run(layer, h[1:, :13])[0])


def test_a_row_without_frames_is_finite(layer):
    assert torch.isfinite(run(layer, draw(2, 3, 8), torch.tensor([3, 0]))).all()


def test_a_convolution_looks_half_its_kernel_ahead_and_back():
    torch.manual_seed(0)
    layer, h, changed = Convolution(8, 5), draw(1, 20, 8).float(), draw(1, 20, 8).float()
    changed[:, 10] = draw(8, seed=1).float()
    differs = (run(layer, changed) != run(layer, h)).any(-1)[0]
    assert differs.nonzero().flatten().tolist() == [8, 9, 10, 11, 12]


def test_gradients_are_those_of_finite_differences(layer):
    h, frames = draw(2, 6, 8).requires_grad_(), torch.tensor([6, 4])
    assert torch.autograd.gradcheck(lambda h, *weights: run(layer, h, frames), (h, *layer.parameters()))
