"""Small parts that clients import by name."""

from __future__ import annotations

from torch import Tensor, nn

from anymask.model.layers import LayerNorm2d

__all__ = ["LayerNorm2d", "MLPBlock"]


class MLPBlock(nn.Module):
    """Two linear layers with an activation of the caller's choice between them; keys `lin1` and `lin2`."""

    def __init__(self, embedding_dim: int, mlp_dim: int, act: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.lin1 = nn.Linear(embedding_dim, mlp_dim)
        self.lin2 = nn.Linear(mlp_dim, embedding_dim)
        self.act = act()

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.act(self.lin1(x)))
