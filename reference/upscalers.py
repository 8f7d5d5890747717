"""The published upscaling networks in PyTorch, after `basicsr/archs/rrdbnet_arch.py` of BasicSR (Apache-2.0) and
`realesrgan/archs/srvgg_arch.py` of Real-ESRGAN (BSD-3-Clause), whose packages do not import beside today's PyTorch.
"""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 3, 1, 1)


class DenseBlock(nn.Module):
    def __init__(self, features, growth):
        super().__init__()
        for i in range(4):
            setattr(self, f"conv{i + 1}", conv(features + i * growth, growth))
        self.conv5 = conv(features + 4 * growth, features)

    def forward(self, x):
        parts = [x]
        for i in range(4):
            parts.append(F.leaky_relu(getattr(self, f"conv{i + 1}")(torch.cat(parts, 1)), 0.2))
        return 0.2 * self.conv5(torch.cat(parts, 1)) + x


class Rrdb(nn.Module):
    def __init__(self, features, growth):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(features, growth) for _ in range(3))

    def forward(self, x):
        return 0.2 * self.rdb3(self.rdb2(self.rdb1(x))) + x


class RrdbNet(nn.Module):
    """`RRDBNet`; a scale of 2 begins with `pixel_unshuffle`."""

    def __init__(self, scale=4, features=64, blocks=23, growth=32):
        super().__init__()
        self.scale = scale
        self.conv_first = conv(3 * (4 // scale) ** 2, features)
        self.body = nn.Sequential(*(Rrdb(features, growth) for _ in range(blocks)))
        self.conv_body = conv(features, features)
        self.conv_up1, self.conv_up2, self.conv_hr = (conv(features, features) for _ in range(3))
        self.conv_last = conv(features, 3)

    def forward(self, x):
        x = self.conv_first(F.pixel_unshuffle(x, 4 // self.scale))
        x = x + self.conv_body(self.body(x))
        for enlarged in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(enlarged(F.interpolate(x, scale_factor=2, mode="nearest")), 0.2)
        return self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2))


class Compact(nn.Module):
    """`SRVGGNetCompact` with PReLU, as all published files are."""

    def __init__(self, features=64, convolutions=16, scale=4):
        super().__init__()
        self.scale = scale
        body = [conv(3, features), nn.PReLU(features)]
        for _ in range(convolutions):
            body += [conv(features, features), nn.PReLU(features)]
        self.body = nn.ModuleList([*body, conv(features, 3 * scale * scale)])

    def forward(self, x):
        y = x
        for layer in self.body:
            y = layer(y)
        return F.pixel_shuffle(y, self.scale) + F.interpolate(x, scale_factor=self.scale, mode="nearest")
