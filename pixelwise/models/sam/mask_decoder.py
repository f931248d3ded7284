"""The mask decoder of SAM (Fig. 14, App. A): prompts and image look at each other, tokens become masks."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ...layers import LayerNorm2d

CANDIDATES = 3  # masks for an ambiguous prompt: whole, part, subpart


class Attention(nn.Module):
    """Attention of some tokens to others, in `width` channels that `inner` channels stand for.

    Args:
        width: channels of the tokens.
        inner: channels of queries, keys and values.
        heads: of the attention.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(
        self, q: Float[Tensor, "p n c"], k: Float[Tensor, "p m c"], v: Float[Tensor, "p m c"]
    ) -> Float[Tensor, "p n c"]:
        """What the tokens `q` learn of `v`."""
        queries, keys, values = (self.in_heads(x) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        seen = F.scaled_dot_product_attention(queries, keys, values)
        learned: Tensor = self.out_proj(seen.transpose(1, 2).flatten(2))
        return learned

    def in_heads(self, x: Float[Tensor, "p n inner"]) -> Float[Tensor, "p heads n d"]:
        """The channels of each head apart."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class AttentionToImage(Attention):
    """A few tokens look at many places of an image, whose keys and values are never made.

    A query q asks a place x for q (W x + b): (q W) x is the same but for a number that softmax does not see.
    And the mean of W x + b is W times the mean of x, plus b. The bias of keys is kept for published weights,
    and is not trained.

    Args:
        width: channels of the tokens.
        inner: channels of queries, keys and values.
        heads: parts of the channels that attend apart.
    """

    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__(width, inner, heads)
        self.k_proj.bias.requires_grad_(False)

    def forward(
        self, q: Float[Tensor, "p n c"], k: Float[Tensor, "#p m c"], v: Float[Tensor, "#p m c"]
    ) -> Float[Tensor, "p n c"]:
        """What the tokens `q` learn of `v`."""
        to_keys, to_values = (x.weight.unflatten(0, (self.heads, -1)) for x in (self.k_proj, self.v_proj))
        asked = self.in_heads(self.q_proj(q) * to_keys.shape[1] ** -0.5) @ to_keys
        seen = (asked.flatten(1, 2) @ k.transpose(1, 2)).softmax(2) @ v
        values = seen.unflatten(1, (self.heads, -1)) @ to_values.transpose(1, 2)
        learned: Tensor = self.out_proj(values.transpose(1, 2).flatten(2) + self.v_proj.bias)
        return learned


class AttentionOfImage(Attention):
    """Many places of an image look at a few tokens; what the places ask is never made.

    Keys and values are carried through the projections of queries and of the result instead: there are few.
    """

    def forward(
        self, q: Float[Tensor, "#p m c"], k: Float[Tensor, "p n c"], v: Float[Tensor, "p n c"]
    ) -> Float[Tensor, "p m c"]:
        """What the places `q` learn of `v`."""
        of_queries, bias = (x.unflatten(0, (self.heads, -1)) for x in (self.q_proj.weight, self.q_proj.bias))
        keys = self.in_heads(self.k_proj(k) * of_queries.shape[1] ** -0.5)
        scores = (keys @ of_queries).flatten(1, 2) @ q.transpose(1, 2)
        scores = scores.unflatten(1, (self.heads, -1)) + keys @ bias[:, :, None]
        to_result = self.out_proj.weight.unflatten(1, (self.heads, -1)).permute(1, 2, 0)
        values = self.in_heads(self.v_proj(v)) @ to_result
        learned = scores.softmax(2).flatten(1, 2).transpose(1, 2) @ values.flatten(1, 2)
        return learned + self.out_proj.bias


class ReluMlp(nn.Module):
    """Two linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "*_ c"]) -> Float[Tensor, "*_ c"]:
        """Mix the channels of each token."""
        mixed: Tensor = self.lin2(F.relu(self.lin1(x)))
        return mixed


class TwoWayBlock(nn.Module):
    """Tokens look at themselves, then at the image; the image looks at the tokens (Fig. 14, left).

    Args:
        width: channels.
        heads: of all attention.
        hidden: channels inside the MLP.
        first: whether the tokens know nothing yet but what they are.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.cross_attn_token_to_image = AttentionToImage(width, width // 2, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = ReluMlp(width, hidden)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = AttentionOfImage(width, width // 2, heads)

    def forward(
        self,
        tokens: Float[Tensor, "p n c"],
        image: Float[Tensor, "#p m c"],
        prompts: Float[Tensor, "p n c"],
        positions: Float[Tensor, "1 m c"],
    ) -> tuple[Float[Tensor, "p n c"], Float[Tensor, "p m c"]]:
        """Both after one exchange.

        Args:
            tokens: of the output and of the prompts.
            image: the places of the image.
            prompts: the tokens as they were in the beginning, which say where and what each is.
            positions: where each place of the image is.
        """
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            marked = tokens + prompts
            tokens = self.norm1(tokens + self.self_attn(marked, marked, tokens))
        placed = image + positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, placed, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        image = self.norm4(image + self.cross_attn_image_to_token(placed, tokens + prompts, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Two exchanges, and a last look of the tokens at the image.

    Args:
        width: channels.
        heads: of all attention.
        hidden: channels inside the MLPs.
    """

    def __init__(self, width: int = 256, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, heads, hidden, first=i == 0) for i in range(2))
        self.final_attn_token_to_image = AttentionToImage(width, width // 2, heads)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(
        self,
        image: Float[Tensor, "#p c h w"],
        positions: Float[Tensor, "1 c h w"],
        prompts: Float[Tensor, "p n c"],
    ) -> tuple[Float[Tensor, "p n c"], Float[Tensor, "p c h w"]]:
        """Tokens and maps that know of each other."""
        size = image.shape[2:]
        image, positions = (x.flatten(2).transpose(1, 2) for x in (image, positions))
        tokens = prompts
        for layer in self.layers:
            tokens, image = layer(tokens, image, prompts, positions)
        looked = self.final_attn_token_to_image(tokens + prompts, image + positions, image)
        return self.norm_final_attn(tokens + looked), image.transpose(1, 2).unflatten(2, size)


class Perceptron(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, width: int, hidden: int, c_out: int, depth: int = 3) -> None:
        super().__init__()
        sizes = [width, *[hidden] * (depth - 1), c_out]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Float[Tensor, "*_ a"]) -> Float[Tensor, "*_ b"]:
        """Apply the layers in turn."""
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        last: Tensor = self.layers[-1](x)
        return last


class MaskDecoder(nn.Module):
    """Image, where its places are, and prompts -> masks and how good they are.

    The first mask is for prompts that leave no doubt, the others are candidates for those that do.

    Args:
        width: channels of the image's map and of the tokens.
        heads: of all attention.
        hidden: channels inside the MLPs of the transformer.
    """

    def __init__(self, width: int = 256, heads: int = 8, hidden: int = 2048) -> None:
        super().__init__()
        count = 1 + CANDIDATES
        self.transformer = TwoWayTransformer(width, heads, hidden)
        self.iou_token = nn.Embedding(1, width)
        self.mask_tokens = nn.Embedding(count, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            LayerNorm2d(width // 4, eps=1e-6),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(width, width, width // 8) for _ in range(count)
        )
        self.iou_prediction_head = Perceptron(width, width, count)

    def forward(
        self,
        image: Float[Tensor, "#p c h w"],
        positions: Float[Tensor, "1 c h w"],
        prompts: Float[Tensor, "p n c"],
    ) -> tuple[Float[Tensor, "p 4 _ _"], Float[Tensor, "p 4"]]:
        """Scores of each mask at four times the resolution of the map, and the IoU expected of it."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])
        tokens = torch.cat([own.expand(prompts.shape[0], -1, -1), prompts], dim=1)
        tokens, map = self.transformer(image, positions, tokens)
        filters = torch.stack(
            [mlp(tokens[:, 1 + i]) for i, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        return self._draw(map, filters), self.iou_prediction_head(tokens[:, 0])

    def _draw(
        self, map: Float[Tensor, "p c h w"], filters: Float[Tensor, "p m c8"]
    ) -> Float[Tensor, "p m _ _"]:
        """The map upscaled four times, each place times each filter.

        A transposed convolution of stride 2 and as wide a kernel is a linear layer that makes four places of
        one. Places are put in order at the end, when each has few numbers, so that no large map is moved.
        """
        first, norm, gelu, second, _ = self.output_upscaling
        assert isinstance(norm, LayerNorm2d)
        x = map.flatten(2).transpose(1, 2)
        x = gelu(
            F.layer_norm(_four_of_one(x, first), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        )
        x = gelu(_four_of_one(x, second))
        masks = (filters @ x.transpose(1, 2)).unflatten(2, (*map.shape[2:], 2, 2, 2, 2))
        return masks.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)


def _four_of_one(x: Float[Tensor, "p n a"], layer: nn.Module) -> Float[Tensor, "p n4 b"]:
    """A transposed convolution of 2x2 and stride 2 on places in any order; each becomes a row of four."""
    assert isinstance(layer, nn.ConvTranspose2d)
    assert layer.bias is not None
    weight = layer.weight.permute(0, 2, 3, 1).flatten(1)  # a, 2 2 b
    return F.linear(x, weight.T, layer.bias.repeat(4)).unflatten(2, (4, -1)).flatten(1, 2)
