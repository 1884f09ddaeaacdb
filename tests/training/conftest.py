"""A small model with everything that can make a run depend on its history: noise, dropout, a shared weight."""

import pytest
import torch
from torch import nn


class Noisy(nn.Module):
    """Learns to denoise four numbers; the loss draws noise and drops units out."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 4))
        self.unused = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, batch):
        x = batch["x"]
        return (self.net(x + 0.1 * torch.randn_like(x)) - x).square().mean()


def batch(number):
    """Batch ``number`` of eight samples, a pure function of it."""
    return {"x": torch.randn(8, 4, generator=torch.Generator().manual_seed(number))}


@pytest.fixture
def make_model():
    def make(seed=0):
        torch.manual_seed(seed)
        return Noisy()

    return make


@pytest.fixture
def batches():
    return batch
