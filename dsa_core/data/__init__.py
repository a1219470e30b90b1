"""Datasets, batches and tasks: `load("digits").batches("train", batch_size=64)`."""

from dsa_core.data.augment import AUGMENTATIONS, augment_batch
from dsa_core.data.batches import Batches, BatchSource, split
from dsa_core.data.datasets import Dataset, data_root, load, names
from dsa_core.data.folder import FolderBatches, FolderDataset
from dsa_core.data.seeds import generator, step_seed
from dsa_core.data.task import Task, classification, correct

__all__ = [
    "AUGMENTATIONS",
    "BatchSource",
    "Batches",
    "Dataset",
    "FolderBatches",
    "FolderDataset",
    "Task",
    "augment_batch",
    "classification",
    "correct",
    "data_root",
    "generator",
    "load",
    "names",
    "split",
    "step_seed",
]
