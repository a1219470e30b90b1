"""VGG-16 for small images: thirteen 3x3 convolutions with BatchNorm and one linear layer.

Source: Simonyan and Zisserman, ICLR 2015 (arXiv:1409.1556), configuration D, with BatchNorm.
"""

from collections import OrderedDict

from torch import nn

from dsa_core.lab.models.resnet import conv3x3

# Channels of each convolution; after each row a 2x2 max-pooling halves the image.
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16(*, num_classes: int = 10) -> nn.Sequential:
    """Make VGG-16 for images of 32x32: modules features, pool, flatten, linear.

    Returns:
        Network that maps (N, 3, 32, 32) to (N, num_classes).
    """
    features: list[nn.Module] = []
    before = 3
    for row in WIDTHS:
        for width in row:
            features += [conv3x3(before, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
            before = width
        features.append(nn.MaxPool2d(2))
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            linear=nn.Linear(before, num_classes),
        )
    )
