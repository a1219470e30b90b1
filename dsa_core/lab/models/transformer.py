"""A vision transformer of timm's, for digits."""

from torch import nn

from dsa_core.errors import ConfigError


def vit_digits(*, num_classes: int = 10) -> nn.Module:
    """timm's VisionTransformer for images of 8x8: 16 patches, 4 blocks of 4 heads, width 32.

    Raises:
        ConfigError: timm is not installed.
    """
    try:
        from timm.models.vision_transformer import VisionTransformer
    except ImportError as error:
        raise ConfigError("model vit_digits needs timm: pip install timm") from error
    return VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=32,
        depth=4,
        num_heads=4,
    )
