"""Networks by name: ours, torchvision's, and any importable factory."""

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsa_core.errors import ConfigError, nearest
from dsa_core.lab.models.edsr import EDSR
from dsa_core.lab.models.resnet import SlicePadShortcut, resnet
from dsa_core.lab.models.segmentation import Segmenter, SmallSegNet
from dsa_core.lab.models.transformer import vit_digits
from dsa_core.lab.models.vgg import vgg16

Factory = Callable[..., nn.Module]

CIFAR_SHAPE = (3, 32, 32)  # channels, height, width
cifar_resnet = partial(resnet, widths=(16, 32, 64))

OWN: dict[str, tuple[Factory, tuple[int, int, int]]] = {
    "resnet20": (partial(cifar_resnet, (3, 3, 3)), CIFAR_SHAPE),
    "resnet56": (partial(cifar_resnet, (9, 9, 9)), CIFAR_SHAPE),
    "resnet20_a": (partial(cifar_resnet, (3, 3, 3), shortcut=SlicePadShortcut), CIFAR_SHAPE),
    "resnet56_a": (partial(cifar_resnet, (9, 9, 9), shortcut=SlicePadShortcut), CIFAR_SHAPE),
    "resnet18_cifar": (partial(resnet, (2, 2, 2, 2), (64, 128, 256, 512)), CIFAR_SHAPE),
    "vgg16_cifar": (vgg16, CIFAR_SHAPE),
    "resnet8": (partial(cifar_resnet, (1, 1, 1), in_channels=1), (1, 8, 8)),
    "vit_digits": (vit_digits, (1, 8, 8)),
    "segnet_small": (SmallSegNet, (1, 32, 32)),
    "edsr_small": (EDSR, (3, 16, 16)),
}

# Extra arguments of torchvision models: no auxiliary heads (for training only, and they change the
# type of the output), and an explicit initialisation where torchvision warns without.
TORCHVISION_EXTRA: dict[str, dict[str, bool]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
WANTED = (
    f"Wanted is one of {', '.join(OWN)}, a torchvision classifier or segmentation network by its "
    "own name, or 'package.module:factory'"
)
USUAL_SIZES = (224, 32, 28, 64, 96, 128, 256, 299, 16, 8)  # pixels, for a network that does not say
TORCHVISION_SIZE = {"inception_v3": 299}  # pixels; all others take 224


def names(*, torchvision: bool = False) -> list[str]:
    """List the names that `build` accepts: ours and, on request, torchvision's.

    Of torchvision these are the classifiers and the segmentation networks.
    """
    if not torchvision:
        return list(OWN)
    from torchvision import models

    return [*OWN, *models.list_models(module=models), *_segmenters()]


def build(name: str, *, num_classes: int = 10) -> nn.Module:
    """Build a network with random weights; the caller seeds (`torch.manual_seed`).

    A name with a colon refers to user code, which is imported and run: use `build_known` for names
    that come from a file.

    Args:
        name: one of `names(torchvision=True)`, or `package.module:factory`, a function that returns
            a module; it is called with `num_classes` if it has such a parameter.
        num_classes: outputs, at least 1; ignored by networks that return images.

    Returns:
        Network in training mode, on the CPU, in float32.

    Raises:
        ConfigError: the name is unknown, or a factory cannot be imported, raises, or does not
            return a module.
    """
    if ":" in name:
        _check_classes(num_classes)
        return _made_by(name, num_classes)
    return build_known(name, num_classes=num_classes)


def build_known(name: str, *, num_classes: int = 10) -> nn.Module:
    """Build one of our networks or of torchvision's: no other code is imported, whatever the name.

    Our own networks with BatchNorm start from Kaiming's normal initialisation (fan out, ReLU) in
    the convolutions and from weight 1, bias 0 in BatchNorm; all others are initialised by their own
    code (torchvision's segmentation networks with random weights in the backbone too).

    Args:
        name: one of `names(torchvision=True)`.
        num_classes: as for `build`.

    Raises:
        ConfigError: the name is unknown.
    """
    _check_classes(num_classes)
    require_known(name)
    if name in OWN:
        model = _called(OWN[name][0], num_classes)
        _initialise(model)
        return model
    from torchvision.models import get_model

    if name in _segmenters():
        bare = {"weights": None, "weights_backbone": None}
        return Segmenter(get_model(name, num_classes=num_classes, **bare))
    extra = TORCHVISION_EXTRA.get(name, {})
    return get_model(name, weights=None, num_classes=num_classes, **extra)


def require_known(name: str) -> None:
    """Refuse a name that is neither ours nor torchvision's.

    Raises:
        ConfigError: suggests the nearest known name.
    """
    if name in OWN:
        return
    if ":" in name:
        raise ConfigError(f"model {name!r} names code, which is imported only when you type it")
    known = names(torchvision=True)
    if name not in known:
        raise ConfigError(f"unknown model {name!r}{nearest(name, known, otherwise=WANTED)}")


def example_input(name: str, batch: int = 1) -> Tensor:
    """An input of the right shape for `name`: fixed normal noise.

    A factory `package.module:factory` may state its shape in an attribute `input_shape` =
    (channels, height, width); otherwise the first usual shape that its network accepts is used.

    Returns:
        Float32, shape (batch, channels, height, width).

    Raises:
        ConfigError: the name is unknown, or no usual shape fits a factory's network.
    """
    shape = (batch, *_input_shape(name))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _input_shape(name: str) -> tuple[int, ...]:
    if name in OWN:
        return OWN[name][1]
    if ":" in name:
        shape = getattr(_factory(name), "input_shape", None)
        return _guessed_shape(name) if shape is None else _stated_shape(name, shape)
    require_known(name)
    size = TORCHVISION_SIZE.get(name, 224)
    return (3, size, size)


def _initialise(model: nn.Module) -> None:
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return  # without BatchNorm, keep the network's own initialisation
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _segmenters() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models.segmentation))


def _check_classes(num_classes: int) -> None:
    if num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1, got {num_classes}")


def _factory(name: str) -> Factory:
    module_name, _, attribute = name.partition(":")
    try:
        factory: Any = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(
            f"model {name!r} cannot be imported ({type(error).__name__}: {error}): wanted is "
            "'package.module:factory', with the package on the Python path"
        ) from error
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ConfigError(
            f"model {name!r} is a {type(factory).__name__}, not a function that makes a network: "
            "name a function without arguments, or with num_classes, that returns one"
        )
    return factory


def _made_by(name: str, num_classes: int) -> nn.Module:
    """Call a user's factory, with `num_classes` if it takes that."""
    factory = _factory(name)
    try:
        model: Any = _called(factory, num_classes)
    except Exception as error:  # as above
        raise ConfigError(
            f"model {name!r} could not be built ({type(error).__name__}: {error}): the factory is "
            "called without arguments, or with num_classes if it takes that"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model {name!r} made a {type(model).__name__}, wanted an nn.Module: return the network"
        )
    return model


def _called(factory: Factory, num_classes: int) -> nn.Module:
    try:
        takes = inspect.signature(factory).parameters
    except ValueError:  # some callables written in C have no signature
        takes = {}  # type: ignore[assignment]
    return factory(num_classes=num_classes) if "num_classes" in takes else factory()


def _stated_shape(name: str, shape: Any) -> tuple[int, ...]:
    """The `input_shape` of a factory."""
    if not isinstance(shape, tuple | list) or not all(type(n) is int and n > 0 for n in shape):
        raise ConfigError(
            f"{name!r} has the input_shape {shape!r}: wanted are positive whole numbers, such as "
            "(channels, height, width) = (3, 32, 32)"
        )
    return tuple(shape)


def _guessed_shape(name: str) -> tuple[int, ...]:
    """Try usual shapes on a user's network, whose first layer gives the number of channels."""
    model = _made_by(name, 10).eval()
    for shape in _usual_shapes(model):
        try:
            with torch.no_grad():
                model(torch.zeros(1, *shape))
        except Exception:
            continue
        return shape
    raise ConfigError(
        f"{name!r} does not say what it takes, and no usual shape fits: set its attribute "
        "`input_shape` to (channels, height, width), such as `factory.input_shape = (3, 32, 32)`"
    )


def _usual_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return [(module.in_channels, size, size) for size in USUAL_SIZES]
        if isinstance(module, nn.Conv1d):
            return [(module.in_channels, size) for size in USUAL_SIZES]
        if isinstance(module, nn.Linear):
            return [(module.in_features,), (USUAL_SIZES[-1], module.in_features)]
    return []
