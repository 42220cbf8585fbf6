"""DeepFloyd IF's attention with fewer, larger matrix products: q, k and v of the picture as one, k and v of the text as
one. The same sums, rounded otherwise; what diffusers has of the kind (`Attention.fuse_projections`) leaves these out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnAddedKVProcessor2_0
from torch import Tensor, nn


@torch.no_grad()
def fuse_projections(unet: UNet2DConditionModel) -> int:
    """Changes the loaded UNet in place and returns how many attentions were changed.

    Its weights keep their size: one attention's at a time are there twice. They cannot be saved or loaded under their
    old names any more.
    """
    chosen = [module for module in unet.modules() if isinstance(module, Attention)]
    chosen = [attention for attention in chosen if isinstance(attention.processor, AttnAddedKVProcessor2_0)]
    for attention in chosen:
        attention.add_kv = _joined(attention, "add_k_proj", "add_v_proj")
        if not attention.only_cross_attention:
            attention.to_qkv = _joined(attention, "to_q", "to_k", "to_v")
        attention.set_processor(FusedAddedKVProcessor())
    return len(chosen)


class FusedAddedKVProcessor:
    """`AttnAddedKVProcessor2_0` for an attention that `fuse_projections` changed. In [B, C, H, W], out the same."""

    def __call__(
        self,
        attention: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        assert attention_mask is None, "a pass has no mask: all positions of a prompt are attended to"
        if attention.norm_cross:
            encoder_hidden_states = attention.norm_encoder_hidden_states(encoder_hidden_states)
        keys_values = attention.add_kv(encoder_hidden_states)
        # Normalised before it is flattened: in channels_last the flat [B, H * W, C] is then no copy.
        own = attention.group_norm(hidden_states).flatten(2).transpose(1, 2)
        if attention.only_cross_attention:
            query = attention.to_q(own)
        else:
            query, own = attention.to_qkv(own).tensor_split([attention.inner_dim], dim=-1)
            keys_values = torch.cat([keys_values, own], dim=1)
        query, key, value = (_heads(part, attention.heads) for part in (query, *keys_values.chunk(2, dim=-1)))
        answer = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        answer = attention.to_out[1](attention.to_out[0](answer))
        return answer.transpose(1, 2).reshape(hidden_states.shape) + hidden_states


def _heads(tensor: Tensor, heads: int) -> Tensor:
    """[B, N, heads * D] -> [B, heads, N, D], no copy."""
    return tensor.unflatten(-1, (heads, -1)).transpose(1, 2)


def _joined(attention: Attention, *names: str) -> nn.Linear:
    """One projection in place of several, whose modules are taken away."""
    parts = [getattr(attention, name) for name in names]
    weight, bias = parts[0].weight, parts[0].bias
    width = sum(part.out_features for part in parts)
    joined = nn.Linear(
        parts[0].in_features, width, bias=bias is not None, device=weight.device, dtype=weight.dtype
    ).requires_grad_(weight.requires_grad)
    joined.weight.copy_(torch.cat([part.weight for part in parts]))
    if bias is not None:
        joined.bias.copy_(torch.cat([part.bias for part in parts]))
    for name in names:
        delattr(attention, name)
    return joined
