"""Networks to prune, by name: `build("resnet20")`."""

from dsa_core.lab.models.edsr import EDSR
from dsa_core.lab.models.resnet import BasicBlock, ConvShortcut, SlicePadShortcut, resnet
from dsa_core.lab.models.segmentation import Segmenter, SmallSegNet
from dsa_core.lab.models.vgg import vgg16
from dsa_core.lab.models.zoo import build, build_known, example_input, names, require_known
