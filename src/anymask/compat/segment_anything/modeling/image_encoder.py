"""`ViTEncoder` as the reference builds and calls it. Legend: B images, C channels, h w grid cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from anymask.compat.segment_anything.modeling.common import MLPBlock
from anymask.model.image_encoder import ViTEncoder, pad_grid


class ImageEncoderViT(ViTEncoder):
    """The paper's image encoder (3, A); pixels (B, 3, S, S) to an embedding TENSOR (B, C, S / 16, S / 16)."""

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: type[nn.Module] = nn.GELU,
        use_abs_pos: bool = True,
        use_rel_pos: bool = False,
        rel_pos_zero_init: bool = True,
        window_size: int = 0,
        global_attn_indexes: Sequence[int] = (),
    ) -> None:
        """The reference's arguments; `embed_dim` is the width inside, `out_chans` that of the embedding."""
        super().__init__(
            width=embed_dim,
            depth=depth,
            num_heads=num_heads,
            global_blocks=tuple(global_attn_indexes),
            input_size=img_size,
            patch_size=patch_size,
            window_size=window_size,
            embed_dim=out_chans,
        )
        self.img_size = img_size
        if in_chans != 3:
            self.patch_embed.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)
        if not use_abs_pos:
            _fix_at_zero(self, "pos_embed")
        for block in self.blocks:
            block.norm1, block.norm2 = norm_layer(embed_dim), norm_layer(embed_dim)
            if mlp_ratio != 4 or act_layer is not nn.GELU:
                block.mlp = MLPBlock(embed_dim, int(embed_dim * mlp_ratio), act_layer)
            attention = block.get_submodule("attn")
            if not qkv_bias:
                attention.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
            for name in ("rel_pos_h", "rel_pos_w"):
                if not use_rel_pos:
                    _fix_at_zero(attention, name)
                elif not rel_pos_zero_init:
                    nn.init.trunc_normal_(attention.get_parameter(name), std=0.02)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x).embedding


def _fix_at_zero(module: nn.Module, name: str) -> None:
    """A table of positions that is not learned: still added, but no parameter and not in the state dict."""
    table = module.get_parameter(name)
    delattr(module, name)
    module.register_buffer(name, torch.zeros_like(table, requires_grad=False), persistent=False)


def window_partition(x: Tensor, window_size: int) -> tuple[Tensor, tuple[int, int]]:
    """(B, h, w, C) to windows (B * windows, window, window, C), and the padded h and w; zeros fill the last ones."""
    padded = pad_grid(x, (window_size, window_size), x.new_zeros(1, x.shape[-1]))
    windows = padded.unflatten(2, (-1, window_size)).unflatten(1, (-1, window_size)).transpose(2, 3)
    return windows.flatten(0, 2), (padded.shape[1], padded.shape[2])


def window_unpartition(windows: Tensor, window_size: int, pad_hw: tuple[int, int], hw: tuple[int, int]) -> Tensor:
    """The inverse of `window_partition`, its padding cut off: (B, h, w, C)."""
    rows, columns = pad_hw[0] // window_size, pad_hw[1] // window_size
    grid = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return grid[:, : hw[0], : hw[1]]
