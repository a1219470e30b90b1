"""Datasets, batches and tasks: `load("digits").batches("train", batch_size=64)`."""

from dsa_core.lab.data.augment import AUGMENTATIONS, augment_batch
from dsa_core.lab.data.batches import AnyDataset, Batches, split
from dsa_core.lab.data.datasets import Dataset, data_root, load, names
from dsa_core.lab.data.folder import FolderBatches, FolderDataset
from dsa_core.lab.data.maps import MAP_AUGMENTATIONS, MapBatches, augment_maps
from dsa_core.lab.data.segment_task import VOID, segmentation
from dsa_core.lab.data.upscale import UpscaleBatches, UpscaleDataset, WholeImages, shrunk
from dsa_core.lab.data.upscale_task import luma, super_resolution
from dsa_core.training.batches import BatchSource
from dsa_core.training.seeds import generator, step_seed
from dsa_core.training.task import Task, classification, correct, in_unit, with_unit
