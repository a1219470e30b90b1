"""Datasets, batches and tasks: `load("digits").batches("train", batch_size=64)`."""

from dsa_core.data.augment import AUGMENTATIONS, augment_batch
from dsa_core.data.batches import Batches, BatchSource, split
from dsa_core.data.datasets import AnyDataset, Dataset, data_root, load, names
from dsa_core.data.folder import FolderBatches, FolderDataset
from dsa_core.data.maps import MAP_AUGMENTATIONS, MapBatches, augment_maps
from dsa_core.data.seeds import generator, step_seed
from dsa_core.data.segment_task import VOID, segmentation
from dsa_core.data.task import Task, classification, correct, in_unit, with_unit
from dsa_core.data.upscale import UpscaleBatches, UpscaleDataset, WholePictures, shrunk
from dsa_core.data.upscale_task import luma, super_resolution

__all__ = [
    "AUGMENTATIONS",
    "MAP_AUGMENTATIONS",
    "VOID",
    "AnyDataset",
    "BatchSource",
    "Batches",
    "Dataset",
    "FolderBatches",
    "FolderDataset",
    "MapBatches",
    "Task",
    "UpscaleBatches",
    "UpscaleDataset",
    "WholePictures",
    "augment_batch",
    "augment_maps",
    "classification",
    "correct",
    "data_root",
    "generator",
    "in_unit",
    "load",
    "luma",
    "names",
    "segmentation",
    "shrunk",
    "split",
    "step_seed",
    "super_resolution",
    "with_unit",
]
