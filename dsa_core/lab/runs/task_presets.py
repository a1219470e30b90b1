"""Presets of segmentation and super-resolution, see `presets`."""

from typing import Any

from dsa_core.lab.runs.preset import Preset
from dsa_core.methods import SearchConfig
from dsa_core.training import TrainConfig

PLAIN: dict[str, Any] = {"precision": "fp32", "channels_last": False}


def seg_quick() -> Preset:
    """Segmentation in minutes: scenes of digits, no download."""
    train = TrainConfig(epochs=30, lr=0.2, batch_size=32, **PLAIN)
    search = {"epochs": 12, "lr": 0.02, "schedule": "constant"}
    return Preset(
        model="segnet_small",
        dataset="digit_scenes",
        dense=train,
        search=SearchConfig(train=train.model_copy(update=search), ratio_every=1),
        fine_tune=train.model_copy(update={"epochs": 12, "lr": 0.1}),
        weights_fraction=0.8,
        norm_batches=20,
    )


def seg_short() -> Preset:
    """Segmentation of street scenes: CamVid in VOC's layout in `DATA/voc`, at half its size.

    The backbone is not pre-trained on ImageNet, so the dense score is far below the published one
    for this network.
    """
    train = TrainConfig(epochs=40, lr=0.1, batch_size=16, weight_decay=1e-4, **PLAIN)
    search = train.model_copy(update={"epochs": 12, "lr": 0.02, "schedule": "cosine"})
    return Preset(
        model="lraspp_mobilenet_v3_large",
        dataset="voc:voc@90x120",
        dense=train,
        search=SearchConfig(train=search, estimator="mixed", ratio_every=2),
        fine_tune=train.model_copy(update={"epochs": 20, "lr": 0.05}),
        weights_fraction=0.8,
        norm_batches=20,
    )


def sr_quick() -> Preset:
    """Super-resolution in minutes: patches of two photographs, no download."""
    train = sr_training(batch_size=8)
    search = {"epochs": 12, "lr": 0.02, "schedule": "cosine"}
    return Preset(
        model="edsr_small",
        dataset="photo_patches",
        dense=train,
        search=SearchConfig(train=train.model_copy(update=search), ratio_every=2),
        fine_tune=train.model_copy(update={"epochs": 15}),
        weights_fraction=0.8,
        norm_batches=1,
    )


def sr_short() -> Preset:
    """Super-resolution from T91 to Set5, in `DATA/sr`."""
    train = sr_training(batch_size=16)
    search = train.model_copy(update={"epochs": 8, "lr": 0.02, "schedule": "cosine"})
    return Preset(
        model="edsr_small",
        dataset="sr:sr/t91,sr/set5",
        dense=train,
        search=SearchConfig(train=search, estimator="mixed", ratio_every=2),
        fine_tune=train.model_copy(update={"epochs": 12}),
        norm_batches=1,
    )


def sr_training(batch_size: int) -> TrainConfig:
    """SGD for a network without BatchNorm: clipped gradients, plain float32.

    VDSR (Kim et al., CVPR 2016) trains like this, by SGD with a rate of 0.1; EDSR itself uses Adam.
    Float32, because the predicted detail is a small correction of the image.
    """
    return TrainConfig(
        epochs=30, lr=0.05, batch_size=batch_size, weight_decay=1e-5, clip_norm=0.5, **PLAIN
    )
