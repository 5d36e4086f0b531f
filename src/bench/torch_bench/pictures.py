"""Networks from picture to picture, plainly rewritten from their papers with the official parameter names."""

import torch
import torch.nn.functional as F
from torch import nn

from .attention import attend, relative_index, shift_mask, unwindows, windows
from .common import Refused, nchw, nhwc


def conv(cin, cout, kernel=3):
    return nn.Conv2d(cin, cout, kernel, 1, kernel // 2)


class DenseBlock(nn.Module):
    def __init__(self, feat, grow):
        super().__init__()
        for k in range(5):
            setattr(self, f"conv{k + 1}", conv(feat + k * grow, grow if k < 4 else feat))

    def forward(self, x):
        features = [x]
        for k in range(1, 5):
            y = getattr(self, f"conv{k}")(torch.cat(features, 1))
            features.append(F.leaky_relu(y, 0.2, inplace=True))
        return self.conv5(torch.cat(features, 1)) * 0.2 + x


class ResidualInResidual(nn.Module):
    def __init__(self, feat, grow):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(feat, grow) for _ in range(3))

    def forward(self, x):
        return self.rdb3(self.rdb2(self.rdb1(x))) * 0.2 + x


class RrdbNet(nn.Module):
    def __init__(self, num_in_ch=3, num_out_ch=3, scale=4, num_feat=64, num_block=23, num_grow_ch=32):
        super().__init__()
        self.fold = 4 // scale
        self.conv_first = conv(num_in_ch * self.fold**2, num_feat)
        self.body = nn.Sequential(*(ResidualInResidual(num_feat, num_grow_ch) for _ in range(num_block)))
        self.conv_body = conv(num_feat, num_feat)
        self.conv_up1, self.conv_up2 = conv(num_feat, num_feat), conv(num_feat, num_feat)
        self.conv_hr, self.conv_last = conv(num_feat, num_feat), conv(num_feat, num_out_ch)

    def forward(self, x):
        if self.fold > 1:
            x = F.pixel_unshuffle(x, self.fold)
        x = self.conv_first(x)
        x = x + self.conv_body(self.body(x))
        for up in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2, inplace=True)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2, inplace=True))


class SrVgg(nn.Module):
    def __init__(self, num_in_ch=3, num_out_ch=3, num_feat=64, num_conv=16, upscale=4, act_type="prelu"):
        super().__init__()
        if act_type != "prelu":
            raise Refused(f"the rewritten SRVGG knows prelu only, not {act_type}")
        self.upscale = upscale
        layers = [conv(num_in_ch, num_feat), nn.PReLU(num_feat)]
        for _ in range(num_conv):
            layers += [conv(num_feat, num_feat), nn.PReLU(num_feat)]
        self.body = nn.Sequential(*layers, conv(num_feat, num_out_ch * upscale**2))

    def forward(self, x):
        base = F.interpolate(x, scale_factor=self.upscale, mode="nearest")
        return F.pixel_shuffle(self.body(x), self.upscale) + base


class WindowAttention(nn.Module):
    def __init__(self, dim, heads, window, qkv_bias, qk_scale):
        super().__init__()
        self.heads, self.scale = heads, qk_scale or (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_index(window), persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x, mask):
        table = self.relative_position_bias_table
        x = attend(self.qkv(x), self.heads, self.scale, table, self.index, mask)
        return self.proj(x)


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    def __init__(self, dim, heads, window, shift, mlp_ratio, qkv_bias, qk_scale):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, heads, window, qkv_bias, qk_scale)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.masks = {}

    def mask(self, height, width):
        if self.shift and (height, width) not in self.masks:
            self.masks[height, width] = shift_mask(height, width, self.window, self.shift)
        return self.masks.get((height, width))

    def forward(self, x):
        _, height, width, _ = x.shape
        h, s = self.norm1(x), self.shift
        if s:
            h = torch.roll(h, (-s, -s), (1, 2))
        h = self.attn(windows(h, self.window), self.mask(height, width))
        h = unwindows(h, self.window, height, width)
        if s:
            h = torch.roll(h, (s, s), (1, 2))
        x = x + h
        return x + self.mlp(self.norm2(x))


class SwinGroup(nn.Module):
    def __init__(self, dim, depth, heads, window, shift, *rest):
        super().__init__()
        blocks = (SwinBlock(dim, heads, window, shift * (j % 2), *rest) for j in range(depth))
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.Sequential(*blocks)
        self.conv = conv(dim, dim)

    def forward(self, x):
        return nhwc(self.conv(nchw(self.residual_group.blocks(x)))) + x


class SwinIr(nn.Module):
    def __init__(
        self, in_chans=3, embed_dim=96, depths=(6,) * 4, num_heads=(6,) * 4, window_size=7,
        mlp_ratio=4.0, qkv_bias=True, qk_scale=None, patch_norm=True, upscale=2, img_range=1.0,
        upsampler="", resi_connection="1conv", unshuffle=False, unshuffle_scale=None, img_size=64,
        sf=None, global_residual=False,
    ):  # fmt: skip
        super().__init__()
        upscale = sf or upscale
        if resi_connection != "1conv" or not patch_norm or in_chans != 3:
            raise Refused("the rewritten SwinIR knows 1conv, patch_norm and RGB only")
        if upsampler not in ("pixelshuffle", "pixelshuffledirect", "nearest+conv"):
            raise Refused(f'the rewritten SwinIR does not know the upsampler "{upsampler}"')
        self.upscale, self.window, self.img_range = upscale, window_size, img_range
        self.unshuffle, self.upsampler = unshuffle, upsampler
        self.global_residual = global_residual
        self.mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        if unshuffle:
            first = conv(in_chans * upscale**2, embed_dim)
            self.conv_first = nn.Sequential(nn.PixelUnshuffle(upscale), first)
        else:
            self.conv_first = conv(in_chans, embed_dim)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(embed_dim)
        shift = window_size // 2
        rest = (window_size, shift, mlp_ratio, qkv_bias, qk_scale)
        groups = zip(depths, num_heads)
        self.layers = nn.Sequential(*(SwinGroup(embed_dim, d, h, *rest) for d, h in groups))
        self.norm = nn.LayerNorm(embed_dim)
        self.conv_after_body = conv(embed_dim, embed_dim)
        if upsampler == "pixelshuffledirect":
            self.upsample = nn.Sequential(conv(embed_dim, in_chans * upscale**2), nn.PixelShuffle(upscale))
            return
        self.conv_before_upsample = nn.Sequential(conv(embed_dim, 64), nn.LeakyReLU(inplace=True))
        stages = upscale.bit_length() - 1
        if upsampler == "pixelshuffle":
            steps = [3] if upscale == 3 else [2] * stages
            pairs = ((conv(64, 64 * s * s), nn.PixelShuffle(s)) for s in steps)
            self.upsample = nn.Sequential(*(layer for pair in pairs for layer in pair))
        else:
            for i in range(stages):
                setattr(self, f"conv_up{i + 1}", conv(64, 64))
            self.conv_hr = conv(64, 64)
        self.conv_last = conv(64, in_chans)

    def forward(self, x):
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.window, 0, -height % self.window), "reflect")
        x = (x - self.mean) * self.img_range
        y = self.features(x, height, width)
        return y + (x / self.img_range)[:, :, :height, :width] if self.global_residual else y

    def features(self, x, height, width):
        x = self.conv_first(x)
        h = self.norm(self.layers(self.patch_embed.norm(nhwc(x))))
        x = self.conv_after_body(nchw(h)) + x
        if self.upsampler == "pixelshuffledirect":
            return self.finish(self.upsample(x), height, width)
        x = self.conv_before_upsample(x)
        if self.upsampler == "pixelshuffle":
            x = self.upsample(x)
        else:
            for i in range(self.upscale.bit_length() - 1):
                x = F.interpolate(x, scale_factor=2, mode="nearest")
                x = F.leaky_relu(getattr(self, f"conv_up{i + 1}")(x), 0.2, inplace=True)
            x = F.leaky_relu(self.conv_hr(x), 0.2, inplace=True)
        return self.finish(self.conv_last(x), height, width)

    def finish(self, x, height, width):
        x = x / self.img_range + self.mean
        scale = 1 if self.unshuffle else self.upscale
        return x[:, :, : height * scale, : width * scale]
