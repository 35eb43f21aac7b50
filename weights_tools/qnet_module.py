"""Stage 2 of Q-Net in PyTorch, and stage 1 beneath it: the proof that the weights mean the same
there. Files by `crossval` hold torchvision's and PyTorch's own names, so that load_state_dict with
strict=True takes them as they are (safetensors; or .pth by `qnet_weights convert`)."""
import torch
from torch import nn


class ScanModel(nn.Module):
    """Features [batch, slices, 512] of a scan's slices and their number -> logits of slices, of scans."""
    def __init__(self, features=512, hidden=256, steps=24, classes=2):
        super().__init__()
        self.steps = steps
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.image_head = nn.Linear(2 * hidden, classes)
        self.scan_head = nn.Linear(steps * 2 * hidden, classes)

    def forward(self, x, length):
        packed = nn.utils.rnn.pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False)
        y, _ = nn.utils.rnn.pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=self.steps)
        used = torch.arange(self.steps)[None, :] < length[:, None]
        return self.image_head(y) * used[:, :, None], self.scan_head(y.flatten(1))


class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o)) if stride > 1 else None

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    """Stage 1, with torchvision's names (torchvision.models.resnet18(num_classes=2) takes the same
    files): images [batch, 3, height, width] -> features [batch, 512], logits [batch, classes]."""
    def __init__(self, classes=2):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(Block(64, 64, 1), Block(64, 64, 1))
        self.layer2 = nn.Sequential(Block(64, 128, 2), Block(128, 128, 1))
        self.layer3 = nn.Sequential(Block(128, 256, 2), Block(256, 256, 1))
        self.layer4 = nn.Sequential(Block(256, 512, 2), Block(512, 512, 1))
        self.fc = nn.Linear(512, classes)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        features = self.layer4(self.layer3(self.layer2(self.layer1(x)))).mean((2, 3))
        return features, self.fc(features)


def load(path):
    """A state dict from .safetensors or .pth."""
    if str(path).endswith(".safetensors"):
        from safetensors.torch import load_file
        return load_file(path)
    return torch.load(path, weights_only=True)


def qnet(stage1, stage2, images):
    """Probability of HH per slice and of the scan, images [slices, 3, height, width] of one scan,
    prepared as the metadata of the weights says."""
    weights = load(stage2)
    hidden = weights["lstm.weight_hh_l0"].shape[1]
    steps = weights["scan_head.weight"].shape[1] // (2 * hidden)
    resnet, model = ResNet18().eval(), ScanModel(hidden=hidden, steps=steps).eval()
    resnet.load_state_dict(load(stage1))
    model.load_state_dict(weights)
    with torch.no_grad():
        x = torch.zeros(1, steps, 512)
        x[0, :len(images)] = resnet(images)[0]
        image, scan = model(x, torch.tensor([len(images)]))
    return image[0, :len(images)].softmax(1)[:, 1], scan[0].softmax(0)[1]
