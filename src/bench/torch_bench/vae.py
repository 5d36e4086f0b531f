"""The autoencoder under the keys of diffusers' AutoencoderKL."""

import torch.nn.functional as F
from torch import nn

from .pictures import conv


class VaeResnet(nn.Module):
    def __init__(self, cin, cout, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, cin, eps=1e-6), conv(cin, cout)
        self.norm2, self.conv2 = nn.GroupNorm(groups, cout, eps=1e-6), conv(cout, cout)
        if cin != cout:
            self.conv_shortcut = conv(cin, cout, 1)

    def forward(self, x):
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class VaeAttention(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, c, eps=1e-6)
        self.to_q, self.to_k, self.to_v = nn.Linear(c, c), nn.Linear(c, c), nn.Linear(c, c)
        self.to_out = nn.ModuleList([nn.Linear(c, c)])

    def forward(self, x):
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (to(tokens).unsqueeze(1) for to in (self.to_q, self.to_k, self.to_v))
        y = self.to_out[0](F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + y.transpose(1, 2).reshape(x.shape)


class VaeMiddle(nn.Module):
    def __init__(self, c, groups):
        super().__init__()
        self.resnets = nn.ModuleList([VaeResnet(c, c, groups), VaeResnet(c, c, groups)])
        self.attentions = nn.ModuleList([VaeAttention(c, groups)])

    def forward(self, x):
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class VaeResize(nn.Module):
    """Halves (the odd row and column of padding at the bottom and right) or doubles."""

    def __init__(self, c, down):
        super().__init__()
        self.conv = nn.Conv2d(c, c, 3, 2) if down else conv(c, c)

    def forward(self, x):
        down = self.conv.stride == (2, 2)
        return self.conv(F.pad(x, (0, 1, 0, 1)) if down else F.interpolate(x, scale_factor=2, mode="nearest"))


class VaeLevel(nn.Module):
    def __init__(self, cin, cout, count, groups, resize):
        super().__init__()
        self.resnets = nn.ModuleList([VaeResnet(cin if j == 0 else cout, cout, groups) for j in range(count)])
        if resize:
            setattr(self, resize, nn.ModuleList([VaeResize(cout, resize == "downsamplers")]))

    def forward(self, x):
        for layer in self.resnets:
            x = layer(x)
        for layer in getattr(self, "downsamplers", getattr(self, "upsamplers", [])):
            x = layer(x)
        return x


class VaeHalf(nn.Module):
    """Encoder or decoder with its 1x1 convolution, under the keys of diffusers' AutoencoderKL."""

    def __init__(self, encode, block_out_channels, layers_per_block, latent_channels, norm_num_groups, **rest):
        super().__init__()
        levels, groups, layers = list(block_out_channels), norm_num_groups, layers_per_block
        half = nn.Module()
        if encode:
            self.encoder, self.quant_conv = half, conv(2 * latent_channels, 2 * latent_channels, 1)
            half.conv_in = conv(rest["in_channels"], levels[0])
            name, resize, last = "down_blocks", "downsamplers", 2 * latent_channels
        else:
            self.decoder, self.post_quant_conv = half, conv(latent_channels, latent_channels, 1)
            half.conv_in = conv(latent_channels, levels[-1])
            name, resize, last = "up_blocks", "upsamplers", rest["out_channels"]
            levels, layers = levels[::-1], layers + 1
        blocks, cin = [], levels[0]
        for i, cout in enumerate(levels):
            blocks.append(VaeLevel(cin, cout, layers, groups, resize if i + 1 < len(levels) else None))
            cin = cout
        setattr(half, name, nn.ModuleList(blocks))
        half.mid_block = VaeMiddle(levels[-1] if encode else levels[0], groups)
        half.conv_norm_out = nn.GroupNorm(groups, levels[-1], eps=1e-6)
        half.conv_out = conv(levels[-1], last)

    def forward(self, x):
        encode = hasattr(self, "encoder")
        half = self.encoder if encode else self.decoder
        x = half.conv_in(x if encode else self.post_quant_conv(x))
        if not encode:
            x = half.mid_block(x)
        for level in half.down_blocks if encode else half.up_blocks:
            x = level(x)
        if encode:
            x = half.mid_block(x)
        x = half.conv_out(F.silu(half.conv_norm_out(x)))
        return self.quant_conv(x) if encode else x
