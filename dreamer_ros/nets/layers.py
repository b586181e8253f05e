"""Small shared layers: normalised dense layers, MLPs, block-linear layers, initialisation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dreamer_ros.config import MlpConfig

ACTIVATIONS = {'relu': nn.ReLU, 'elu': nn.ELU, 'silu': nn.SiLU}


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · scale over the last dimension (eps 1e-4 as in DreamerV3)."""

    def __init__(self, size: int, eps: float = 1e-4):
        super().__init__()
        self.eps = eps
        self.scale = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda:  # one kernel there
            return F.rms_norm(widened(x), self.scale.shape, self.scale, self.eps).to(x.dtype)
        if torch.is_grad_enabled():
            return FastRMSNorm.apply(x, self.scale, self.eps)
        return rms_norm(x, self.scale, self.eps)[0]


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """X / rms(x) · scale in the type of x, and 1 / rms(x) [..., 1].

    Computed in float32 where x is bfloat16: squares of small bfloat16 numbers lose their digits.
    """
    y = widened(x)
    # onnxruntime fuses the norm into one step if it finds `pow` here.
    inverse = torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + eps)
    return (y * inverse * scale).to(x.dtype), inverse


def widened(x: Tensor) -> Tensor:
    """X in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@contextlib.contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products in whole float32, without autocast's bfloat16 and a GPU's TF32."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision('highest')
    try:
        with torch.autocast('cuda', enabled=False), torch.autocast('cpu', enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class FastRMSNorm(torch.autograd.Function):
    """`rms_norm` with a backward pass in half of autograd's time.

    It uses the backward pass of layer norm, which torch has in one piece, with a mean of zero. What layer norm
    subtracts for centring is added back.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, eps: float) -> Tensor:
        y, inverse = rms_norm(x, scale, eps)
        ctx.save_for_backward(x, inverse, scale)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor):
        x, inverse, scale = ctx.saved_tensors
        grad, size = widened(grad), x.shape[-1]
        gradient, of_scale, _ = torch.ops.aten.native_layer_norm_backward(
            grad,
            widened(x),
            [size],
            torch.zeros_like(inverse),
            inverse,
            scale,
            None,
            [True, ctx.needs_input_grad[1], False],
        )
        gradient.addcmul_((grad @ scale).unsqueeze(-1), inverse, value=1.0 / size)
        return gradient.to(x.dtype), of_scale, None


class ChannelNorm(nn.Module):
    """A norm over the channels of [N, C, H, W] images, computed in channels-last order."""

    def __init__(self, name: str, channels: int):
        super().__init__()
        self.norm = norm_layer(name, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def norm_layer(name: str, size: int) -> nn.Module:
    """`none`, `layer` (eps 1e-3) or `rms` over the last dimension."""
    if name == 'none':
        return nn.Identity()
    return nn.LayerNorm(size, eps=1e-3) if name == 'layer' else RMSNorm(size)


def dense(inputs: int, units: int, activation: str, norm: str) -> nn.Sequential:
    """Linear, norm, activation. The shift of a layer norm makes the linear layer's bias redundant."""
    linear = nn.Linear(inputs, units, bias=norm != 'layer')
    initialise(linear, norm)
    return nn.Sequential(linear, norm_layer(norm, units), ACTIVATIONS[activation]())


def mlp(inputs: int, units: int, layers: int, activation: str, norm: str) -> nn.Sequential:
    """`layers` dense layers of equal width."""
    sizes = [inputs] + [units] * layers
    return nn.Sequential(*(dense(a, b, activation, norm) for a, b in zip(sizes, sizes[1:])))


def head(inputs: int, config: MlpConfig, layers: int, outputs: int, zero: bool = False) -> nn.Sequential:
    """An MLP with a linear output; `zero` starts the output at exactly 0."""
    output = nn.Linear(config.units if layers else inputs, outputs)
    initialise(output, config.norm, scale=0.0 if zero else 1.0)
    return nn.Sequential(mlp(inputs, config.units, layers, config.activation, config.norm), output)


def initialise(layer: nn.Module, norm: str, scale: float = 1.0) -> None:
    """Glorot uniform without norm (V1, V2), truncated normal of variance 1/fan-in with it (V3)."""
    weight = layer.weight
    if scale == 0.0:
        nn.init.zeros_(weight)
    elif norm == 'none':
        nn.init.xavier_uniform_(weight)
    else:
        transposed = isinstance(layer, nn.ConvTranspose2d)
        fan_in = weight.shape[0 if transposed else 1] * math.prod(weight.shape[2:])
        truncated_normal(weight, fan_in)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def truncated_normal(weight: Tensor, fan_in: int) -> None:
    """Fill with a normal of variance 1/fan_in, truncated at two standard deviations."""
    std = 1.0 / math.sqrt(fan_in) / 0.87962566103423978  # the truncation shrinks the std by this factor
    nn.init.trunc_normal_(weight, std=std, a=-2.0 * std, b=2.0 * std)


class BlockLinear(nn.Module):
    """A block-diagonal linear layer: `blocks` independent groups of inputs and outputs.

    Takes and gives [blocks, batch, features / blocks], the layout that one batched product consumes.
    Initialised from the full fan-in, as DreamerV3 does.
    """

    def __init__(self, inputs: int, outputs: int, blocks: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(blocks, 1, outputs // blocks))
        truncated_normal(self.weight, inputs)

    def forward(self, x: Tensor) -> Tensor:
        if torch.onnx.is_in_onnx_export():  # onnxruntime prepacks the weights of plain products alone
            return torch.stack([torch.addmm(*block) for block in zip(self.bias, x, self.weight)])
        return torch.baddbmm(self.bias, x, self.weight)


def to_blocks(x: Tensor, blocks: int) -> Tensor:
    """[batch, features] as a [blocks, batch, features / blocks] view."""
    return x.view(x.shape[0], blocks, -1).transpose(0, 1)


def from_blocks(x: Tensor) -> Tensor:
    """[blocks, batch, features / blocks] back to [batch, features]."""
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def symlog(x: Tensor) -> Tensor:
    """sign(x) · ln(1 + |x|)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """sign(x) · (exp|x| − 1), the inverse of symlog."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def softplus_inverse(x: float) -> float:
    """Y with softplus(y) = x."""
    return x + math.log(-math.expm1(-x))


def flatten_time(x: Tensor) -> Tensor:
    """Merge batch and time: [B, T, ...] to [B·T, ...]."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])
