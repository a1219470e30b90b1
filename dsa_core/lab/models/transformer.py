"""A vision transformer of timm's: `dsa run --model dsa_core.lab.models.transformer:vit_digits`."""

from torch import nn


def vit_digits(num_classes: int = 10) -> nn.Module:
    """timm's VisionTransformer for images of 8x8: 16 patches, 4 blocks of 8 heads, width 64.

    Needs timm (extra `dev`).
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=num_classes,
        embed_dim=64,
        depth=4,
        num_heads=8,
    )


vit_digits.input_shape = (1, 8, 8)  # type: ignore[attr-defined]
