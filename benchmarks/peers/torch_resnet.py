"""A plain ResNet in PyTorch, as keras.applications has it: strides in the first 1x1, biases, epsilon 1.001e-5.

Or as slim has it (DEPTH `50-slim`): strides in the 3x3 of a stage's last unit, no biases; a tenth less to compute.
`python torch_resnet.py DEPTH IMAGES.npz SIZE HOW MODE [WEIGHTS.npz]`: HOW is `eager`, `channels-last` or `compile`
(channels-last too); MODE is `all`, `head` or `stage`. WEIGHTS are those of Keras by layer and variable.
"""

import sys

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from pace import Pace
from torch import nn

UNITS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3)}


class Unit(nn.Module):
    def __init__(self, inputs, width, stride, slim):
        super().__init__()
        outputs, bias = 4 * width, not slim
        norm = {"eps": 1e-5 if slim else 1.001e-5, "momentum": 0.01}
        first, middle = (1, stride) if slim else (stride, 1)
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, first, bias=bias), nn.BatchNorm2d(width, **norm)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, middle, 1, bias=bias), nn.BatchNorm2d(width, **norm)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=bias), nn.BatchNorm2d(outputs, **norm)
        self.conv0 = self.bn0 = None
        if inputs != outputs:
            self.conv0, self.bn0 = nn.Conv2d(inputs, outputs, 1, stride, bias=bias), nn.BatchNorm2d(outputs, **norm)
        self.skipping = stride if self.conv0 is None else 1

    def forward(self, x):
        shortcut = x[:, :, :: self.skipping, :: self.skipping] if self.conv0 is None else self.bn0(self.conv0(x))
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        return F.relu(self.bn3(self.conv3(x)) + shortcut)


class ResNet(nn.Module):
    def __init__(self, depth):
        super().__init__()
        depth, _, slim = depth.partition("-")
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=not slim), nn.BatchNorm2d(64, eps=1.001e-5, momentum=0.01)
        channels, self.stages = 64, nn.ModuleList()
        for stage, units in enumerate(UNITS[depth]):
            width, blocks = 64 * 2**stage, []
            for unit in range(units):
                strided = stage < 3 and unit == units - 1 if slim else stage > 0 and unit == 0
                blocks.append(Unit(channels, width, 2 if strided else 1, bool(slim)))
                channels = 4 * width
            self.stages.append(nn.Sequential(*blocks))
        self.head = nn.Linear(channels, 10)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def below(self, x, stages=4):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in self.stages[:stages]:
            x = stage(x)
        return x

    def forward(self, x):
        return self.head(self.below(x).mean((2, 3)))


def named(model):
    """Keras's name of each convolution and BatchNorm."""
    yield "conv1", model.conv1, model.bn1
    for number, stage in enumerate(model.stages, start=2):
        for block, unit in enumerate(stage, start=1):
            for part in range(4):
                if getattr(unit, f"conv{part}") is not None:
                    prefix = f"conv{number}_block{block}_{part}"
                    yield prefix, getattr(unit, f"conv{part}"), getattr(unit, f"bn{part}")


def load(model, path):
    with np.load(path) as file, torch.no_grad():
        for name, conv, norm in named(model):
            conv.weight.copy_(torch.tensor(file[f"{name}_conv/kernel"].transpose(3, 2, 0, 1)))
            conv.bias.copy_(torch.tensor(file[f"{name}_conv/bias"]))
            for ours, theirs in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"),
                                 ("running_var", "moving_variance")):  # fmt: skip
                getattr(norm, ours).copy_(torch.tensor(file[f"{name}_bn/{theirs}"]))


def main(depth, images, size, how, mode, weights=None):
    size, pace = int(size), Pace()
    torch.manual_seed(0)
    model = ResNet(depth)
    if weights:
        load(model, weights)
    with np.load(images) as file:
        x, y = file["x_train"], file["y_train"].astype("int64")
    layout = {} if how == "eager" else {"memory_format": torch.channels_last}
    model = model.to(**layout).train()
    stages = {"all": 0, "stage": 3, "head": 4}[mode]
    if stages:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        if mode == "stage":
            model.stages[3].requires_grad_(True)
        model.eval()  # what is frozen normalises by its moving statistics, as in the Keras recipe
    forward = model if mode == "all" else lambda x: model.head(upper(below(x)).mean((2, 3)))

    @torch.no_grad()
    def below(x):
        return model.below(x, stages)

    def upper(x):
        return model.stages[3](x) if mode == "stage" else x

    if how == "compile":
        forward = torch.compile(forward)
    rates = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(rates, lr=1e-3, momentum=0.9, nesterov=True)
    mean = torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1)
    pace.ready()
    generator = np.random.default_rng(0)
    while True:
        order = generator.permutation(len(x))
        for begin in range(0, len(x) - 31, 32):
            chosen = order[begin : begin + 32]
            batch = torch.tensor(x[chosen]).permute(0, 3, 1, 2).float()
            batch = F.interpolate(batch, size=(size, size), mode="bilinear", align_corners=False)
            batch = (batch - mean).flip(1).contiguous(**layout)
            loss = F.cross_entropy(forward(batch), torch.tensor(y[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            pace.step(loss.item())


if __name__ == "__main__":
    main(*sys.argv[1:])
